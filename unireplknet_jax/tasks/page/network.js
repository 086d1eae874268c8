/* The network in the browser itself: a worker that reads pictures as `predict` reads them, runs network.onnx in ONNX
   Runtime Web, and answers the page as the server would. It asks for files that lie beside it, and for nothing else. */

import { classMap, forClassifier, forMasks, overlay, planes, withoutAlpha } from "./pixels.js";

// What can run a network, the fastest first.
const RUNTIMES = [
  { name: "WebGPU", provider: "webgpu", script: "ort.jspi.bundle.min.js", binary: "ort-wasm-simd-threaded.jspi.wasm.gz" },
  { name: "WebAssembly", provider: "wasm", script: "ort.wasm.bundle.min.js", binary: "ort-wasm-simd-threaded.wasm.gz" },
];
const TOLERANCE = 1e-2; // of logits of standard deviation 1, as where the file was written
const TOP = 5;
const FINISHED = "what the network gives are no finite numbers; its weights are not usable.";

const described = fetched("network.json").then((answer) => answer.json());
let started = null;

async function fetched(name) {
  const answer = await fetch(name).catch(() => null);
  if (!answer?.ok) throw new Error(`${name} is not where this page is, or cannot be fetched; put the whole folder there.`);
  return answer;
}

// ---- the network

/** {name of the runtime, run: ({image, size}) -> outputs}, started once. */
function network() {
  started ??= start();
  return started;
}

async function start() {
  const weights = new Uint8Array(await (await fetched("network.onnx")).arrayBuffer());
  const wanted = new URLSearchParams(location.search).get("runtime");
  const found = RUNTIMES.filter(({ provider }) => !wanted || wanted === provider);
  const reasons = [];
  for (const runtime of found) {
    try {
      if (runtime.provider === "webgpu") await requireGraphicsProcessor(wanted);
      return await startIn(runtime, weights);
    } catch (error) {
      reasons.push(`${runtime.name}: ${error.message}`);
    }
  }
  throw new Error(`this browser cannot run the network (${reasons.join("; ")}).`);
}

async function requireGraphicsProcessor(wanted) {
  if (!WebAssembly.Suspending) throw new Error("WebAssembly cannot wait for it in this browser");
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter || (adapter.info?.isFallbackAdapter && !wanted)) throw new Error("there is no graphics processor for it");
}

async function startIn({ name, provider, script, binary }, weights) {
  const runtime = await import(`./onnxruntime/${script}`);
  runtime.env.logLevel = "error";
  runtime.env.wasm.numThreads = 1; // more need headers that few servers send
  runtime.env.wasm.wasmBinary = await unpacked(await (await fetched(`onnxruntime/${binary}`)).arrayBuffer());
  const session = await runtime.InferenceSession.create(weights, { executionProviders: [provider], logSeverityLevel: 3 });

  async function run({ image, size }) {
    const { canvas, channels } = await described;
    const given = { image: new runtime.Tensor("uint8", image, [1, channels, ...canvas]) };
    if (size) given.size = new runtime.Tensor("int32", Int32Array.from(size), [1, 2]);
    return session.run(given);
  }
  if (provider === "webgpu") await check(run); // on a driver that nobody has tried it with
  return { name, run };
}

/** The bytes of a file that is packed by gzip, unless the server has unpacked it. */
async function unpacked(buffer) {
  const [first, second] = new Uint8Array(buffer, 0, 2);
  if (first !== 0x1f || second !== 0x8b) return buffer;
  const stream = new Blob([buffer]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** Throws where a made-up picture gives other logits than it gave where the network was written. */
async function check(run) {
  const { canvas: [height, width], channels, task, check: { logits, deviation } } = await described;
  const image = Uint8Array.from({ length: channels * height * width }, (_, place) => place % 251);
  const found = (await run({ image, size: task === "segmentation" && [height, width] })).logits;
  const positions = found.data.length / found.dims[1];
  for (const [index, expected] of logits.entries()) {
    const own = found.data.subarray(index * positions, (index + 1) * positions);
    const mean = own.reduce((total, value) => total + value, 0) / positions;
    if (!(Math.abs(mean - expected) <= TOLERANCE * deviation)) throw new Error("it gives other numbers");
  }
}

// ---- pictures

/** The picture in a file, upright, on white, in the colours that stand in the file. */
async function read(file) {
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, options).catch(() => null);
  if (!bitmap) {
    const name = file.name || "the picture";
    throw new Error(`${name} is damaged, or of a kind that this browser does not read; give for example a JPEG or PNG`);
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { height, width, pixels: withoutAlpha(context.getImageData(0, 0, width, height).data) };
}

/** {the picture in a file, as the network sees it, what it says, and where}. */
async function asked(file) {
  const { canvas, channels, task, preprocessing: rule } = await described;
  const { name, run } = await network();
  const began = performance.now();
  const picture = await read(file);
  const masks = task === "segmentation";
  const seen = masks ? forMasks(picture, rule.scale) : forClassifier(picture, rule.image_size, rule.resize);
  const size = masks && [seen.height, seen.width];
  const found = await run({ image: planes(seen, channels, ...canvas), size });
  if (!found.logits.data.every(Number.isFinite)) throw new Error(FINISHED);
  return { picture, seen, found, place: `in ${name}`, seconds: () => (performance.now() - began) / 1000 };
}

/** Pixels as a PNG in base64; rgb: the colour of the pixel at a place. */
async function png(height, width, rgb) {
  const image = new ImageData(width, height);
  for (let place = 0; place < height * width; place++) {
    image.data.set(rgb(place), 4 * place);
    image.data[4 * place + 3] = 255;
  }
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  const text = new FileReaderSync().readAsDataURL(await canvas.convertToBlob({ type: "image/png" }));
  return text.slice(text.indexOf(",") + 1);
}

async function labelOf(index) {
  return (await described).labels[index] ?? `class ${index}`;
}

/** The classes of a picture, best first. */
async function ranked({ found: { scores: { data: scores } } }) {
  const order = [...scores.keys()].sort((one, other) => scores[other] - scores[one] || one - other).slice(0, TOP);
  const predictions = order.map(async (index) => ({ index, label: await labelOf(index), score: scores[index] }));
  return { predictions: await Promise.all(predictions) };
}

/** The class of each pixel of a picture. */
async function mapped({ picture: { height, width }, seen, found: { logits } }) {
  const [, classes, rows, columns] = logits.dims;
  const { colours } = await described;
  const map = classMap(logits.data, classes, rows, columns, [seen.height, seen.width], height, width);
  const counts = new Array(classes).fill(0);
  for (const index of map) counts[index]++;
  const order = [...counts.keys()].filter((index) => counts[index]).sort((one, other) => counts[other] - counts[one]);
  const rowOf = async (index) => (
    { index, label: await labelOf(index), pixels: counts[index], share: counts[index] / map.length }
  );
  const mask = await png(height, width, (place) => colours[map[place]]);
  return { size: [height, width], classes: await Promise.all(order.map(rowOf)), mask };
}

// ---- what the page asks for

const answers = {
  async describe() {
    const { name, task, labels, colours, sees, examples } = await described;
    const model = { name, task, labels, colours, sees, suffixes: [".jpg", ".png", ".webp"], score: null };
    return { models: [model], examples: examples.map((example) => example.name) };
  },

  async ready() { await network(); },

  async example(number) { return (await fetched((await described).examples[number].file)).blob(); },

  async predict(file) {
    const { task } = await described;
    const own = await asked(file);
    const record = await (task === "segmentation" ? mapped : ranked)(own);
    return { results: [{ file: file.name, records: [record] }], seconds: own.seconds(), place: own.place };
  },

  async see(file) {
    const { tint } = await described;
    const own = await asked(file);
    const { predictions: [{ label }] } = await ranked(own);
    const { dims: [, rows, columns], data } = own.found.activation;
    const { height, width, pixels } = overlay(own.seen, data, rows, columns, tint);
    return { class: label, evidence: await png(height, width, (place) => pixels.subarray(3 * place, 3 * place + 3)) };
  },
};

addEventListener("message", async ({ data: { number, call, given } }) => {
  try {
    postMessage({ number, answer: await answers[call](...given) });
  } catch (error) {
    postMessage({ number, error: error.message });
  }
});
