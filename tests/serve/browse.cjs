// Drives the page in a browser: node browse.cjs ADDRESS CHROMIUM PICTURE ROTATED BROKEN [SCREENSHOT]; prints what it sees.
"use strict";

const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const [address, executablePath, picture, rotated, broken, screenshot] = process.argv.slice(2);

async function firstCard(page) {
  const card = page.locator(".card").first();
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

async function drop(page, file) {
  const data = fs.readFileSync(file).toString("base64");
  const before = await page.locator(".card").count();
  await page.evaluate(async ([name, text]) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
  }, [path.basename(file), data]);
  await page.locator(".card").nth(before).waitFor();
}

async function main() {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const page = await browser.newPage({ viewport: { width: 1100, height: 800 }, colorScheme: "light" });
  const elsewhere = [];
  const complaints = [];
  page.on("request", (request) => {
    if (!request.url().startsWith(address) && !/^(data|blob):/.test(request.url())) elsewhere.push(request.url());
  });
  page.on("console", (message) => { if (message.type() === "error" && !/status of 400/.test(message.text())) complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(address);
  await page.locator("#state").filter({ hasNotText: "…" }).waitFor();
  const seen = { title: await page.title(), tabs: [] };
  for (let count = 0; count < 2; count++) {
    await page.keyboard.press("Tab");
    seen.tabs.push(await page.evaluate(() => document.activeElement.textContent));
  }

  await drop(page, picture);
  seen.dropped = await firstCard(page);
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  await page.locator("#files").setInputFiles(rotated);
  await page.locator(".card").nth(1).waitFor();
  seen.rotated = await firstCard(page);
  await drop(page, broken);
  seen.broken = await firstCard(page);

  seen.slider = await page.locator(".card input[type=range]").count();
  await page.setViewportSize({ width: 360, height: 740 });
  seen.overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  await page.emulateMedia({ colorScheme: "dark" });
  seen.dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  await browser.close();
  console.log(JSON.stringify({ ...seen, elsewhere, complaints }));
}

main().catch((error) => { console.error(error); process.exit(1); });
