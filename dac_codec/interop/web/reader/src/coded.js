import { AdaptiveCoder } from "./adaptive.js";
import { ByteReader } from "./bytes.js";
import { ContextCoder } from "./context.js";
import { crc32c } from "./crc32c.js";
import { DacFormatError, EndOfBytes } from "./errors.js";
import { bitsOf } from "./header.js";
import { decodeLevels } from "./levels.js";
import { RangeDecoder } from "./rangecoder.js";

export const MOST_CODES = 2 ** 20; // in a chunk
export const MOST_FRAMES = 2 ** 10; // in a chunk of coding 1
const WEIGHTS = [32, 12, 6, 3, 2, 1]; // W(p, n) by |p - n|

/** The number of layers of a file with coding 1. */
export function layersOf(header) {
  return header.layers.length + (header.levels ? 1 : 0);
}

/** Checks the number of frames of a chunk. */
function checkFrames(frames, header, most) {
  if (frames < 1 || frames > most || frames * header.channels * header.codebooks > MOST_CODES)
    throw new DacFormatError(`a chunk has ${frames} frames`);
  return frames;
}

/** The bytes of a packed plane. */
function planeSize(frames, codebookSize) {
  return Math.ceil((frames * bitsOf(codebookSize)) / 8);
}

/**
 * The fields of a payload of CODES with coding 0.
 * @returns {{frames: number, covered: number, planes: number}} the end of what the checksum covers; where the planes begin
 */
export function parsePacked(bytes, start, end, header) {
  const reader = new ByteReader(bytes, start, end);
  const frames = checkFrames(reader.varint(), header, MOST_CODES);
  const size = header.codebookSizes.reduce((sum, K) => sum + planeSize(frames, K), 0);
  if (reader.left !== size * header.channels) throw new DacFormatError("a chunk has the wrong size");
  return { frames, covered: end, planes: reader.position };
}

/**
 * The fields of a payload of CODES with coding 1, without those that are entropy coded.
 * @returns {{frames: number, covered: number, counts: (number | Uint8Array)[], layers: {start: number, end: number, crc: number | null}[]}}
 *   the end of what the checksum covers; for each channel its v - 1 or the coded numbers; the layers 1 to k
 */
export function parseCoded(bytes, start, end, header) {
  const reader = new ByteReader(bytes, start, end);
  const k = reader.varint();
  if (k < 1 || k > layersOf(header)) throw new DacFormatError(`a chunk has ${k} layers`);
  const length = reader.varint();
  if (length > reader.left) throw new EndOfBytes("a chunk has the wrong size");
  const covered = reader.position + length;
  const inner = new ByteReader(bytes, reader.position, covered);
  const frames = checkFrames(inner.varint(), header, MOST_FRAMES);
  const counts = [];
  for (let c = 0; c < header.channels; c++) {
    const v = inner.varint();
    if (v > header.codebooks + 1) throw new DacFormatError(`a frame has ${v - 1} codes`);
    if (v > 0) counts.push(v - 1);
    else {
      const size = inner.varint();
      if (size > 6 * frames) throw new DacFormatError("numbers of codes take too many bytes");
      counts.push(inner.take(size));
    }
  }
  const sizes = [];
  for (let n = 2; n <= k; n++) {
    const size = inner.varint();
    sizes.push({ size, crc: size ? inner.u32() : null });
  }
  const layers = [{ start: inner.position, end: covered, crc: null }];
  let at = covered;
  for (const { size, crc } of sizes) {
    layers.push({ start: at, end: at + size, crc });
    at += size;
  }
  if (at !== end) throw new DacFormatError("a chunk has the wrong size");
  return { frames, covered, counts, layers };
}

/**
 * Unpacks the planes of a chunk with coding 0.
 * @returns {Int32Array} [C, N, F]
 */
export function decodePacked(bytes, chunk, header, codebooks) {
  const { channels: C, codebooks: N, codebookSizes } = header;
  const F = chunk.frames;
  const codes = new Int32Array(C * N * F).fill(-1);
  let at = chunk.planes;
  for (let i = 0; i < codebooks; i++) {
    for (let c = 0; c < C; c++) {
      const start = (c * N + i) * F;
      const size = planeSize(F, codebookSizes[i]);
      unpack(bytes.subarray(at, at + size), codebookSizes[i], codes.subarray(start, start + F));
      at += size;
    }
  }
  return codes;
}

/** Unpacks one plane, most significant bit first. */
function unpack(bytes, codebookSize, codes) {
  const bits = bitsOf(codebookSize);
  let at = 0;
  let held = 0;
  let nHeld = 0;
  for (let t = 0; t < codes.length; t++) {
    while (nHeld < bits) {
      held = ((held << 8) | bytes[at++]) & 0xffffff;
      nHeld += 8;
    }
    nHeld -= bits;
    codes[t] = (held >> nHeld) & ((1 << bits) - 1);
    if (codes[t] >= codebookSize) throw new DacFormatError(`code ${codes[t]} is not below ${codebookSize}`);
  }
  if (held & ((1 << nHeld) - 1)) throw new DacFormatError("unused bits are not zero");
}

/** The number of codes of each frame of a channel. */
function decodeCounts(coded, frames, N) {
  const counts = new Uint8Array(frames);
  if (typeof coded === "number") return counts.fill(coded);
  const decoder = new RangeDecoder(coded);
  const rows = new Map();
  let before = N;
  for (let t = 0; t < frames; t++) {
    let row = rows.get(before);
    if (!row) {
      const weights = Float64Array.from({ length: N + 1 }, (_, n) => WEIGHTS[Math.min(Math.abs(before - n), 5)]);
      row = { weights, total: weights.reduce((a, b) => a + b) };
      rows.set(before, row);
    }
    const n = decoder.symbol(row.weights, row.total, N + 1);
    row.weights[n] += 8;
    row.total += 8;
    counts[t] = before = n;
  }
  decoder.finish();
  return counts;
}

/** The length of a plane of `m` codes to which layers store the difference, in bytes. */
export function typicalLength(m, bits) {
  return Math.floor((m * bits * 15) / 128);
}

/** Decodes the planes of the codebooks first .. last-1, the whole of a layer, into `out`. */
function decodeLayer(layer, first, last, header, counts, coders, out) {
  const C = header.channels;
  const planes = [];
  for (let i = first; i < last; i++) {
    for (let c = 0; c < C; c++) {
      let m = 0;
      for (const n of counts[c]) if (n > i) m++;
      if (m) planes.push({ i, c, m });
    }
  }
  if (!planes.length && layer.length) throw new DacFormatError("a layer without codes has bytes");
  const reader = new ByteReader(layer);
  const bits = bitsOf(header.codebookSize);
  const lengths = planes.slice(0, -1).map(({ m }) => {
    const u = reader.varint();
    const length = typicalLength(m, bits) + (u % 2 ? -(u + 1) / 2 : u / 2);
    if (!(length >= 0)) throw new DacFormatError("a plane has a negative length");
    return length;
  });
  planes.forEach(({ i, c }, index) => {
    const bytes = reader.take(index < lengths.length ? lengths[index] : reader.left);
    const decoder = new RangeDecoder(bytes);
    coders[c].plane(i, decoder, out[c * header.codebooks + i], counts[c], header.codebookSizes[i]);
    decoder.finish();
  });
}

/** The coder, for either direction, of the planes of one channel of a chunk. */
export function coderOf(header, model, frames) {
  return model ? new ContextCoder(model, frames) : new AdaptiveCoder(header.codebookSize);
}

/**
 * Decodes a chunk with coding 1.
 * @param {Uint8Array} bytes
 * @param {any} chunk fields of parseCoded, `start`, and `late`: layers that ANCILLARY chunks hold
 * @param {import("./index.js").Header} header
 * @param {import("./context.js").ContextModel | null} model
 * @param {number} codebooks how many of them are wanted
 * @param {boolean} complete a layer that is not there is missing; else it may come
 * @returns {{codes: Int32Array, levels: object | null, problems: string[]}}
 * @throws {DacFormatError} for a layer with a valid checksum that is no layer
 */
export function decodeCoded(bytes, chunk, header, model, codebooks, complete) {
  const { channels: C, codebooks: N } = header;
  const F = chunk.frames;
  const problems = [];
  const codes = new Int32Array(C * N * F).fill(-1);
  const planes = Array.from({ length: C * N }, (_, n) => codes.subarray(n * F, (n + 1) * F));
  const counts = chunk.counts.map((coded) => decodeCounts(coded, F, N));
  const coders = counts.map(() => coderOf(header, model, F));
  /** The bytes of a layer, or null if it is damaged or missing. */
  const bytesOf = (number, name) => {
    const layer = chunk.layers[number - 1] ?? chunk.late.get(number);
    const intact = layer && (layer.crc === null || crc32c(bytes, layer.start, layer.end) === layer.crc);
    if (intact) return bytes.subarray(layer.start, layer.end);
    if (layer || complete) problems.push(`${name} left out: ${layer ? "the checksum does not match" : "there is no such layer"}`);
    return null;
  };
  let first = 0;
  for (let number = 1; number <= header.layers.length && first < codebooks; number++) {
    const layer = bytesOf(number, `layers from ${number} on are`);
    if (!layer) break;
    const last = first + header.layers[number - 1];
    decodeLayer(layer, first, last, header, counts, coders, planes);
    first = last;
  }
  for (let c = 0; c < C && first > codebooks; c++) codes.fill(-1, (c * N + codebooks) * F, (c * N + first) * F);
  const layer = header.levels ? bytesOf(layersOf(header), "the band levels are") : null;
  const levels = layer ? decodeLevels(layer, chunk.start, F, header) : null;
  return { codes, levels, problems };
}
