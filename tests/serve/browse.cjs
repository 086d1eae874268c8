// Drives the page in a browser and prints what it sees:
// node browse.cjs ADDRESS CHROMIUM PICTURE ROTATED BROKEN [JOBS FOR pixel_hashes.mjs [SCREENSHOT]]
"use strict";

const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const [address, executablePath, picture, rotated, broken, jobs, screenshot] = process.argv.slice(2);
const folder = address.split("?")[0];
const CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const GRAPHICS = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];

async function cardSeen(page, number = 0) {
  const card = page.locator(".card").nth(number);
  await card.locator(".bars li, .legend li, .wrong").first().waitFor({ timeout: 120_000 });
  return {
    labels: await card.locator(".bars .label").allTextContents(),
    scores: await card.locator(".bars .score").allTextContents(),
    wrong: await card.locator(".wrong").allTextContents(),
    legend: await card.locator(".legend .label").allTextContents(),
    layers: await card.locator(".layer").count(),
    boxes: await card.locator("svg.boxes rect").count(),
    caption: await card.locator("figcaption").first().textContent(),
  };
}

/** Do what makes one more card, and see it, which is the first. */
async function another(page, act) {
  const before = await page.locator(".card").count();
  await act();
  await page.locator(".card").nth(before).waitFor();
  return cardSeen(page);
}

/** Give a file to the page as the browser does when it is dropped or pasted. */
async function hand(page, file, kind) {
  const data = fs.readFileSync(file).toString("base64");
  await page.evaluate(([name, text, kind]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    const event = kind === "drop"
      ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true })
      : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
    document.querySelector("#drop").dispatchEvent(event);
  }, [path.basename(file), data, kind]);
}

/** What the page's backend answers, with all its digits. */
async function answered(page, file) {
  const data = fs.readFileSync(file).toString("base64");
  return page.evaluate(async ([name, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const answer = backend.predict(known.models[0].name, new File([bytes], name));
    return answer.then(({ results: [{ records: [record] }] }) => record, (error) => ({ error: error.message }));
  }, [path.basename(file), data]);
}

async function looked(page) {
  const button = page.locator(".card").first().getByText("What does it look at?");
  if (!(await button.count())) return [];
  await button.click();
  await page.locator(".looks").first().waitFor({ timeout: 120_000 });
  return page.locator(".looks img").evaluateAll((images) => images.map((image) => image.src));
}

async function photographed(page) {
  await page.locator("#shoot").click();
  await page.waitForFunction(() => document.querySelector("#view").videoWidth > 0);
  await page.locator("#snap").click();
}

async function main() {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", ...CAMERA, ...GRAPHICS] });
  const page = await browser.newPage({ viewport: { width: 1100, height: 800 }, colorScheme: "light" });
  const asked = [];
  const elsewhere = [];
  const complaints = [];
  page.on("request", (request) => {
    if (/^(data|blob):/.test(request.url())) return;
    (request.url().startsWith(folder) ? asked : elsewhere).push(request.url());
  });
  page.on("console", (message) => { if (message.type() === "error" && !/status of 400/.test(message.text())) complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(address);
  await page.locator("#state").filter({ hasNotText: "…" }).waitFor();
  const seen = { title: await page.title(), state: await page.locator("#state").textContent(), tabs: [] };
  if (!(await page.evaluate(() => known.models.length))) {
    await browser.close();
    console.log(JSON.stringify(seen));
    return;
  }
  for (let count = 0; count < 2; count++) {
    await page.keyboard.press("Tab");
    seen.tabs.push(await page.evaluate(() => document.activeElement.textContent));
  }
  seen.examples = await page.locator("#shelf button").count();
  if (seen.examples) {
    await page.keyboard.press("Tab");
    seen.example = await another(page, () => page.keyboard.press("Enter"));
    await page.locator(".close").first().click();
  }

  seen.dropped = await another(page, () => hand(page, picture, "drop"));
  seen.answers = [await answered(page, picture), await answered(page, rotated)];
  seen.looks = await looked(page);
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  seen.rotated = await another(page, () => page.locator("#files").setInputFiles(rotated));
  seen.pasted = await another(page, () => hand(page, picture, "paste"));
  seen.photographed = await another(page, () => photographed(page));
  seen.broken = await another(page, () => hand(page, broken, "drop"));
  if (jobs) {
    const { pixelHashes } = await import(path.join(__dirname, "../tasks/pixel_hashes.mjs"));
    seen.hashes = await page.evaluate(`import("./pixels.js").then((module) => (${pixelHashes})(module, ${jobs}))`);
  }

  seen.slider = await page.locator(".card input[type=range]").count();
  await page.setViewportSize({ width: 360, height: 740 });
  seen.overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  await page.emulateMedia({ colorScheme: "dark" });
  seen.dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await browser.close();
  console.log(JSON.stringify({ ...seen, asked, elsewhere, complaints }));
}

main().catch((error) => { console.error(error); process.exit(1); });
