"use strict";

/* Where predictions come from. Each function gives what `serve` gives at the address of its name, or throws an Error
   whose message is a sentence for people. */
const server = {
  about: "Files go to this server, and nowhere else.",
  token: sessionStorage.getItem("token") ?? "",

  async ask(path, options = {}) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The server cannot be reached; is it still running?");
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(said.error ?? `The server answers ${answer.status}.`), { status: answer.status });
  },

  async describe() { return (await this.ask("models")).json(); },
  async example(number) { return (await this.ask(`examples/${number}`)).blob(); },
  async predict(model, file) { return this.post(`predict?masks=png&model=${encodeURIComponent(model)}`, file); },
  async see(model, file) { return this.post(`see?model=${encodeURIComponent(model)}`, file); },

  /** Wait until the network can be asked; tell: shows what is waited for. */
  async ready(tell) {
    const isReady = () => fetch("v2/health/ready").then((answer) => answer.ok, () => false);
    for (let wait = 300; !(await isReady()); wait = Math.min(2000, 1.3 * wait)) {
      tell("Compiling the network …");
      await new Promise((done) => setTimeout(done, wait));
    }
  },

  async post(path, file) {
    const body = new FormData();
    body.append("file", file, file.name || "pasted picture");
    return (await this.ask(path, { method: "POST", body })).json();
  },
};

/* The network in the browser itself, a worker, where `export --format web` has put one beside the page. */
const worker = {
  about: "Pictures stay in this browser.",
  unstarted: "The network cannot be started; open this page through a server, such as python -m http.server.",
  calls: 0,
  waiting: new Map(),

  async ask(call, ...given) {
    if (location.protocol === "file:") throw new Error(this.unstarted);
    this.own ??= this.start();
    const number = this.calls++;
    return new Promise((resolve, reject) => {
      this.waiting.set(number, { resolve, reject });
      this.own.postMessage({ number, call, given });
    });
  },

  start() {
    const own = new Worker(document.documentElement.dataset.network + location.search, { type: "module" });
    own.onmessage = ({ data: { number, answer, error } }) => {
      const { resolve, reject } = this.waiting.get(number);
      this.waiting.delete(number);
      if (error === undefined) resolve(answer);
      else reject(new Error(error));
    };
    own.onerror = () => {
      for (const { reject } of this.waiting.values()) reject(new Error(this.unstarted));
      this.waiting.clear();
    };
    return own;
  },

  async describe() { return this.ask("describe"); },
  async example(number) { return this.ask("example", number); },
  async predict(model, file) { return this.ask("predict", file); },
  async see(model, file) { return this.ask("see", file); },

  async ready(tell) {
    tell("Fetching the network …");
    await this.ask("ready");
  },
};

const backend = document.documentElement.dataset.network ? worker : server;
const MOST_CARDS = 24;
const byId = (name) => document.getElementById(name);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const colour = (rgb) => `rgb(${rgb.join(" ")})`;
let known = { models: [], examples: [] };

/** An element with attributes, texts and elements in it. */
function make(tag, attributes = {}, ...content) {
  const svg = ["svg", "rect", "text", "g"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...content);
  return made;
}

function currentModel() {
  return known.models.find((model) => model.name === byId("model").value) ?? known.models[0];
}

// ---- starting

async function start() {
  try {
    known = await backend.describe();
  } catch (error) {
    byId("key").hidden = error.status !== 401;
    byId("state").textContent = error.status === 401 ? "" : error.message;
    return;
  }
  byId("key").hidden = true;
  byId("model").replaceChildren(...known.models.map(({ name }) => make("option", { value: name }, name)));
  byId("choice").hidden = known.models.length < 2;
  chooseModel();
  showExamples();
  await waitUntilReady();
}

function chooseModel() {
  const model = currentModel();
  const pictures = model.suffixes.includes(".jpg");
  byId("files").accept = pictures ? "image/*" : model.suffixes.join(",");
  byId("invitation").textContent = pictures
    ? "Drop pictures here, or paste one"
    : `Drop files here: ${model.suffixes.join(", ")}`;
  byId("shoot").hidden = !pictures;
  document.title = `${model.name} · UniRepLKNet`;
}

async function waitUntilReady() {
  const tell = (text) => { byId("state").textContent = text; };
  const { name, task } = currentModel();
  const done = known.models.length < 2 ? `${name}, ${task}` : "ready";
  tell(await backend.ready(tell).then(() => done, (error) => error.message));
}

async function showExamples() {
  byId("shelf").hidden = !known.examples.length;
  byId("shelf").replaceChildren();
  for (const [number, name] of known.examples.entries()) {
    const blob = await backend.example(number).catch(() => null);
    if (!blob) continue;
    const file = new File([blob], name);
    const image = make("img", { src: URL.createObjectURL(blob), alt: "" });
    byId("shelf").append(make("button", { type: "button", "aria-label": `Example ${name}`, onclick: () => take([file]) }, image));
  }
}

// ---- taking files

let last = Promise.resolve();

/** Show a card for each file, and fill them one after the other. */
function take(files) {
  if (!known.models.length) return; // the state says why there is none
  for (const file of files) {
    const card = newCard(file);
    last = last.then(() => fill(card, file));
  }
}

function newCard(file) {
  const card = byId("card").content.firstElementChild.cloneNode(true);
  const picture = card.querySelector(".picture");
  picture.src = URL.createObjectURL(file);
  picture.alt = file.name || "pasted picture";
  picture.onerror = () => { picture.hidden = true; };
  card.querySelector("figcaption").textContent = file.name || "pasted picture";
  card.querySelector(".said").append(make("p", { class: "nothing" }, "Waiting …"));
  card.querySelector(".close").onclick = () => drop(card);
  byId("results").prepend(card);
  while (byId("results").children.length > MOST_CARDS) drop(byId("results").lastElementChild);
  return card;
}

function drop(card) {
  URL.revokeObjectURL(card.querySelector(".picture").src);
  card.remove();
}

async function fill(card, file) {
  const model = currentModel();
  const said = card.querySelector(".said");
  const began = performance.now();
  try {
    const answer = await backend.predict(model.name, file);
    const passed = performance.now() - began;
    said.replaceChildren();
    for (const record of answer.results[0].records) show(card, model, record);
    const place = answer.place ?? "in the server";
    const times = `${Math.round(1000 * answer.seconds)} ms ${place}, ${Math.round(passed)} ms in all`;
    card.querySelector("figcaption").textContent = `${file.name || "pasted picture"} · ${times}`;
    if (model.sees) said.append(looksButton(card, model, file));
  } catch (error) {
    said.replaceChildren(make("p", { class: "wrong", role: "alert" }, error.message));
    byId("spoken").textContent = error.message;
  }
}

// ---- showing records

function show(card, model, record) {
  if (record.predictions) showBars(card, record.predictions);
  else if (record.classes) showMap(card, model, record);
  else if (record.objects) showObjects(card, model, record);
  else showTables(card, record);
}

function showBars(card, predictions) {
  const rows = predictions.map(({ label, score }) => {
    const filled = make("i");
    filled.style.width = `${100 * score}%`;
    const line = make("div", {}, make("span", { class: "label" }, label), make("span", { class: "score" }, percent(score)));
    return make("li", {}, line, make("span", { class: "bar", "aria-hidden": "true" }, filled));
  });
  card.querySelector(".said").append(make("ol", { class: "bars" }, ...rows));
  byId("spoken").textContent = `${predictions[0].label}, ${percent(predictions[0].score)}`;
}

function legendRow(rgb, label, value) {
  const box = make("svg", { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" });
  box.append(make("rect", { width: 10, height: 10, rx: 2, fill: colour(rgb) }));
  return make("li", {}, box, make("span", { class: "label" }, label), make("span", { class: "score" }, value));
}

function slider(text, value, least, act) {
  const input = make("input", { type: "range", min: least, max: 1, step: 0.01, value });
  const shown = document.createTextNode("");
  input.oninput = () => { shown.data = `${text}: ${Math.round(100 * input.value)} %`; act(Number(input.value)); };
  input.oninput();
  return make("label", {}, shown, input);
}

function showMap(card, model, { classes, mask }) {
  const rows = classes.map(({ index, label, share }) => legendRow(model.colours[index] ?? [128, 128, 128], label, percent(share)));
  const said = card.querySelector(".said");
  said.append(make("ul", { class: "legend" }, ...rows));
  if (mask) {
    const layer = make("img", { class: "layer", alt: "", src: `data:image/png;base64,${mask}` });
    card.querySelector(".stack").append(layer);
    said.append(slider("opacity", 0.5, 0, (value) => { layer.style.opacity = value; }));
  }
  byId("spoken").textContent = classes.map(({ label, share }) => `${label} ${percent(share)}`).join(", ");
}

function showObjects(card, model, { size: [height, width], objects }) {
  const said = card.querySelector(".said");
  const legend = make("ul", { class: "legend" });
  const boxes = make("svg", { class: "layer boxes", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const canvas = make("canvas", { class: "layer", width, height });
  const masks = make("input", { type: "checkbox" });
  masks.checked = true;
  const least = model.score ?? 0;
  const shade = (object) => model.colours[object.index] ?? [200, 60, 60];

  const draw = (score) => {
    const seen = objects.filter((object) => object.score >= score);
    legend.replaceChildren(...seen.map((object) => legendRow(shade(object), object.label, percent(object.score))));
    boxes.replaceChildren(...seen.map((object) => {
      const [left, top, right, bottom] = object.box;
      return make("rect", { x: left, y: top, width: right - left, height: bottom - top, stroke: colour(shade(object)) });
    }));
    canvas.hidden = !masks.checked;
    if (masks.checked) paint(canvas, [...seen].reverse(), shade);
    if (!seen.length) legend.append(make("li", { class: "nothing" }, "nothing above this score"));
  };

  card.querySelector(".stack").append(canvas, boxes);
  const control = slider("score", least, least, draw);
  const input = control.querySelector("input");
  masks.onchange = () => draw(Number(input.value));
  said.append(legend, control);
  if (objects.some((object) => object.mask)) said.append(make("label", {}, masks, " masks"));
  byId("spoken").textContent = objects.length ? objects.map(({ label }) => label).join(", ") : "nothing found";
}

/** Draw the masks of objects, the last on top: run lengths down the columns, first those that are not of the object. */
function paint(canvas, objects, shade) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (const object of objects) {
    if (!object.mask) continue;
    const [red, green, blue] = shade(object);
    const value = ((115 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    let place = 0;
    object.mask.counts.forEach((run, number) => {
      if (number % 2) {
        for (let k = place; k < place + run; k++) pixels[(k % height) * width + Math.floor(k / height)] = value;
      }
      place += run;
    });
  }
  context.putImageData(image, 0, 0);
}

function showTables(card, record) {
  const said = card.querySelector(".said");
  for (const [name, value] of Object.entries(record)) {
    if (!Array.isArray(value) || typeof value[0] !== "object") {
      said.append(make("p", {}, `${name}: ${value}`));
      continue;
    }
    const columns = Object.keys(value[0]);
    const rows = value.map((row) => make("tr", {}, ...columns.map((column) => make("td", {}, String(row[column] ?? "")))));
    const head = make("tr", {}, ...columns.map((column) => make("th", { scope: "col" }, column)));
    said.append(make("p", {}, name), make("div", { class: "scroll", tabindex: 0 }, make("table", {}, head, ...rows)));
  }
  byId("spoken").textContent = "the result is there";
}

function looksButton(card, model, file) {
  const button = make("button", { type: "button", class: "more" }, "What does it look at?");
  button.onclick = async () => {
    button.disabled = true;
    button.textContent = "Looking …";
    try {
      const found = await backend.see(model.name, file);
      const pictures = [[found.evidence, `speaks for ${found.class}`], [found.field, "what the middle sees"]];
      const figures = pictures.filter(([data]) => data).map(([data, text]) => {
        const image = make("img", { src: `data:image/png;base64,${data}`, alt: text });
        return make("figure", {}, image, make("figcaption", {}, text));
      });
      button.replaceWith(make("div", { class: "looks" }, ...figures));
    } catch (error) {
      button.replaceWith(make("p", { class: "wrong", role: "alert" }, error.message));
    }
  };
  return button;
}

// ---- the camera

let stream = null;

async function openCamera() {
  if (!navigator.mediaDevices?.getUserMedia) return byId("capture").click();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return byId("capture").click();
  }
  byId("view").srcObject = stream;
  byId("camera").showModal();
}

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  if (byId("camera").open) byId("camera").close();
}

function snap() {
  const view = byId("view");
  const canvas = make("canvas", { width: view.videoWidth, height: view.videoHeight });
  canvas.getContext("2d").drawImage(view, 0, 0);
  canvas.toBlob((blob) => { closeCamera(); if (blob) take([new File([blob], "camera.png", { type: "image/png" })]); });
}

// ---- wiring

byId("pick").onclick = () => byId("files").click();
byId("shoot").onclick = openCamera;
byId("snap").onclick = snap;
byId("leave").onclick = closeCamera;
byId("camera").addEventListener("close", closeCamera);
byId("model").onchange = () => { chooseModel(); waitUntilReady(); };
for (const name of ["files", "capture"]) {
  byId(name).onchange = ({ target }) => { take([...target.files]); target.value = ""; };
}
byId("key").onsubmit = (event) => {
  event.preventDefault();
  backend.token = byId("token").value.trim();
  sessionStorage.setItem("token", backend.token);
  start();
};
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) take([...event.clipboardData.files]);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  take([...event.dataTransfer.files]);
});
byId("about").textContent = backend.about;
start();
