/* Pictures for a network and its answers as pictures, as the package makes them, number by number. A picture is
   {height, width, pixels}: red, green and blue of each pixel, row by row, 0 to 255. Nothing here needs a browser. */

const PRECISION = 22; // bits of Pillow's weights
const BITS = 11; // of OpenCV's weights
const STRIDE = 4; // pixels of the network's picture for each entry of a map of classes
const POSITION = 32; // and for each position of its last map
const THIN = 25; // times the area of the crop: of pictures that get larger, only what is kept is resized

/** Red, green and blue of pixels that have an alpha, too. */
export function withoutAlpha(data) {
  const pixels = new Uint8ClampedArray((data.length / 4) * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    pixels[to++] = data[from];
    pixels[to++] = data[from + 1];
    pixels[to++] = data[from + 2];
  }
  return pixels;
}

/** What a classifier sees of a picture: the rule of `data.pictures.transforms.eval_transform`. */
export function forClassifier(picture, size, rule) {
  if (rule === "warp") return bicubic(picture, size, size);
  const target = Math.trunc(size / 0.875);
  const longer = Math.floor((target * Math.max(picture.width, picture.height)) / Math.min(picture.width, picture.height));
  const [width, height] = picture.width <= picture.height ? [target, longer] : [longer, target];
  const [left, top] = [roundedToEven((width - size) / 2), roundedToEven((height - size) / 2)];
  if (width * height > THIN * size ** 2) {
    const [across, down] = [picture.width / width, picture.height / height];
    return bicubic(picture, size, size, [left * across, top * down, (left + size) * across, (top + size) * down]);
  }
  return cut(bicubic(picture, height, width), top, left, size, size);
}

function roundedToEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 ? low + 1 : low;
}

function cut({ width, pixels }, top, left, rows, columns) {
  const found = new Uint8ClampedArray(3 * rows * columns);
  for (let row = 0; row < rows; row++) {
    const start = 3 * ((top + row) * width + left);
    found.set(pixels.subarray(start, start + 3 * columns), 3 * row * columns);
  }
  return { height: rows, width: columns, pixels: found };
}

/** A part of a picture, [left, top, right, bottom], at another size: Pillow's antialiased bicubic filter, bit for bit. */
export function bicubic({ height, width, pixels }, rows, columns, box = [0, 0, width, height]) {
  const [left, top, right, bottom] = box.map(Math.fround);
  const [down, across] = [weights(height, top, bottom, rows), weights(width, left, right, columns)];
  // Since Pillow 13, whose pull request 9549 says why.
  if (rows < height && height - rows > 2 * (width - columns)) {
    const low = resampled(pixels, 1, height, 3 * width, down);
    return { height: rows, width: columns, pixels: resampled(low, rows, width, 3, across) };
  }
  const narrow = resampled(pixels, height, width, 3, across);
  return { height: rows, width: columns, pixels: resampled(narrow, 1, height, 3 * columns, down) };
}

/** For each of `count` new entries of an axis the first old one that it is made of, and the weights of those from there. */
function weights(length, start, end, count) {
  if (count === length && start === 0 && end === length) return null;
  const scale = Math.fround(end - start) / count;
  const spread = Math.max(scale, 1);
  return Array.from({ length: count }, (_, number) => {
    const centre = start + (number + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - 2 * spread + 0.5), 0);
    const last = Math.min(Math.trunc(centre + 2 * spread + 0.5), length);
    const shares = Array.from({ length: last - first }, (_, i) => cubic((i + first - centre + 0.5) * (1 / spread)));
    const sum = shares.reduce((total, share) => total + share, 0);
    const whole = shares.map((share) => {
      const scaled = (sum ? share / sum : share) * 2 ** PRECISION;
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { first, whole };
  });
}

function cubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
}

/** (blocks, length, step) bytes whose middle axis gets the entries that `taps` make. */
function resampled(bytes, blocks, length, step, taps) {
  if (!taps) return bytes;
  const found = new Uint8ClampedArray(blocks * taps.length * step);
  const sums = new Float64Array(step);
  for (let block = 0, place = 0; block < blocks; block++) {
    for (const { first, whole } of taps) {
      sums.fill(2 ** (PRECISION - 1));
      for (let tap = 0; tap < whole.length; tap++) {
        const start = (block * length + first + tap) * step;
        for (let i = 0; i < step; i++) sums[i] += bytes[start + i] * whole[tap];
      }
      for (let i = 0; i < step; i++) found[place++] = sums[i] >> PRECISION;
    }
  }
  return found;
}

/** What a network for masks sees of a picture: `data.pictures.mask_transforms.prepared`. */
export function forMasks(picture, scale) {
  const sides = [picture.height, picture.width];
  const factor = scale && Math.min(Math.max(...scale) / Math.max(...sides), Math.min(...scale) / Math.min(...sides));
  const [rows, columns] = sides.map((side) => (scale ? Math.max(Math.trunc(side * factor + 0.5), 1) : side));
  return bilinear(bilinear(picture, rows, columns), 32 * Math.ceil(rows / 32), 32 * Math.ceil(columns / 32));
}

/** A picture at another size: OpenCV's bilinear filter for bytes, bit for bit. */
export function bilinear(picture, rows, columns) {
  const { height, width, pixels } = picture;
  if (height === rows && width === columns) return picture;
  const found = new Uint8ClampedArray(3 * rows * columns);
  const [down, across] = [between(height, rows), between(width, columns)];
  const blended = (row, { low, high, share }, channel) => {
    const start = 3 * row * width + channel;
    return (pixels[start + 3 * low] * (2 ** BITS - share) + pixels[start + 3 * high] * share) >> 4;
  };
  for (let row = 0, place = 0; row < rows; row++) {
    const { low, high, share } = down[row];
    for (let column = 0; column < columns; column++) {
      for (let channel = 0; channel < 3; channel++) {
        const above = (blended(low, across[column], channel) * (2 ** BITS - share)) >> 16;
        const below = (blended(high, across[column], channel) * share) >> 16;
        found[place++] = (above + below + 2) >> 2;
      }
    }
  }
  return { height: rows, width: columns, pixels: found };
}

function between(length, count) {
  const clipped = (place) => Math.min(Math.max(place, 0), length - 1);
  return Array.from({ length: count }, (_, number) => {
    const place = Math.fround((number + 0.5) * (length / count) - 0.5);
    const low = Math.floor(place);
    return { low: clipped(low), high: clipped(low + 1), share: roundedToEven(Math.fround(place - low) * 2 ** BITS) };
  });
}

/** (channels, rows, columns) of the bytes of a picture in the upper left, luma where there is one channel. */
export function planes({ height, width, pixels }, channels, rows, columns) {
  const found = new Uint8Array(channels * rows * columns);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const from = 3 * (row * width + column);
      const to = row * columns + column;
      if (channels === 1) {
        found[to] = (19595 * pixels[from] + 38470 * pixels[from + 1] + 7471 * pixels[from + 2] + 0x8000) >> 16;
      } else {
        for (let channel = 0; channel < 3; channel++) found[channel * rows * columns + to] = pixels[from + channel];
      }
    }
  }
  return found;
}

// ---- what the network says

/** The class of every pixel of a picture (height, width), of logits (classes, rows, columns) at stride 4 of what the
    network saw of it, seen = [height, width]: `tasks.mask_assembly.class_map` of one window. */
export function classMap(logits, classes, rows, columns, seen, height, width) {
  const maps = new Float32Array(logits.length);
  const area = rows * columns;
  for (let index = 0; index < classes; index++) {
    for (let place = 0; place < area; place++) maps[place * classes + index] = logits[index * area + place];
  }
  const [down, across] = [mixed(seen[0], height), mixed(seen[1], width)];
  const found = new Int16Array(height * width);
  const line = new Float32Array(columns * classes);
  const sums = new Float32Array(classes);
  for (let row = 0, place = 0; row < height; row++) {
    add(line, maps, columns * classes, down[row]);
    for (let column = 0; column < width; column++) {
      add(sums, line, classes, across[column]);
      let best = 0;
      for (let index = 1; index < classes; index++) if (sums[index] > sums[best]) best = index;
      found[place++] = best;
    }
  }
  return found;
}

/** sums = the sum of entries of `step` numbers each, with their shares. */
function add(sums, entries, step, { first, shares }) {
  sums.fill(0);
  shares.forEach((share, number) => {
    const start = (first + number) * step;
    for (let i = 0; i < step; i++) sums[i] += share * entries[start + i];
  });
}

/** How each of `count` pixels is made of the entries of a map at stride 4 of `length` pixels. */
function mixed(length, count) {
  const inner = linear(Math.ceil(length / STRIDE), length);
  return linear(length, count).map((outer) => {
    const first = inner[outer.low].low;
    const shares = new Float64Array(inner[outer.high].high + 1 - first);
    for (const [place, share] of [[outer.low, 1 - outer.share], [outer.high, outer.share]]) {
      shares[inner[place].low - first] += share * (1 - inner[place].share);
      shares[inner[place].high - first] += share * inner[place].share;
    }
    return { first, shares };
  });
}

/** The two of `length` entries that each of `count` new ones lies between: `ops.resize.bilinear_places`. */
function linear(length, count) {
  const scale = Math.fround(length / count);
  return Array.from({ length: count }, (_, number) => {
    const place = Math.max(Math.fround(Math.fround(Math.fround(number + 0.5) * scale) - 0.5), 0);
    const low = Math.min(Math.trunc(place), length - 1);
    return { low, high: Math.min(low + 1, length - 1), share: Math.fround(place - low) };
  });
}

/** A picture in grey with the tint, 256 colours, where an activation (rows, columns) is positive: `tasks.see_plot.overlay`. */
export function overlay({ height, width, pixels }, activation, rows, columns, tint) {
  const [down, across] = [hats(height, rows), hats(width, columns)];
  const heat = new Float64Array(height * width);
  let most = 0;
  for (let row = 0, place = 0; row < height; row++) {
    for (let column = 0; column < width; column++, place++) {
      for (const [i, share] of down[row]) {
        for (const [j, other] of across[column]) heat[place] += share * other * Math.max(activation[i * columns + j], 0);
      }
      most = Math.max(most, heat[place]);
    }
  }
  const found = new Uint8ClampedArray(pixels.length);
  for (let place = 0; place < heat.length; place++) {
    const value = heat[place] / (most || 1);
    const share = 0.65 * Math.sqrt(value);
    const grey = (pixels[3 * place] + pixels[3 * place + 1] + pixels[3 * place + 2]) / 3;
    const colour = tint[Math.min(Math.trunc(256 * value), 255)];
    for (let i = 0; i < 3; i++) found[3 * place + i] = (1 - share) * grey + share * colour[i];
  }
  return { height, width, pixels: found };
}

function hats(length, count) {
  return Array.from({ length }, (_, pixel) => {
    const place = Math.min(pixel / POSITION, count - 1);
    const low = Math.trunc(place);
    return [[low, 1 - (place - low)], ...(place > low ? [[low + 1, place - low]] : [])];
  });
}
