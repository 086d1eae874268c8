// What page/pixels.js makes of made-up pictures, told by SHA-256: node pixel_hashes.mjs PIXELS.JS JOBS; browse.cjs runs
// the function in a browser.

export async function pixelHashes(module, jobs) {
  const mixed = (i) => {
    const once = Math.imul(i, 2654435761);
    return Math.imul(once ^ (once >>> 15), 2246822519) >>> 24;
  };
  const found = [];
  for (const { height, width, call, given } of jobs) {
    const pixels = Uint8ClampedArray.from({ length: 3 * height * width }, (_, i) => mixed(i));
    const made = module[call]({ height, width, pixels }, ...given);
    const digest = await crypto.subtle.digest("SHA-256", made.pixels ?? made);
    found.push([...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
  return found;
}

if (process.argv[1].endsWith("pixel_hashes.mjs")) {
  const [path, jobs] = process.argv.slice(2);
  console.log(JSON.stringify(await pixelHashes(await import(path), JSON.parse(jobs))));
}
