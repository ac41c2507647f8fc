import { ByteReader } from "./bytes.js";
import { DacFormatError } from "./errors.js";
import { FFT } from "./fft.js";
import { RangeDecoder } from "./rangecoder.js";

const TIME = [256, 37, 14, 8, 1];
const BAND = [256, 3, 15, 23, 5];
const ZERO = [
  [89, 16],
  [14, 16],
  [29, 16],
  [5, 16],
];

/** Counts of the symbols after the levels p and q, as they begin: LEVELS.md, section 3. */
function initialCounts(p, q, lowest, highest) {
  const size = lowest + highest + 1;
  const zero = ZERO[2 * (p === 0 ? 1 : 0) + (q === 0 ? 1 : 0)];
  const u = Float64Array.from({ length: size }, (_, symbol) => {
    const s = symbol > highest ? symbol - size : symbol;
    return TIME[Math.min(Math.abs(s - p), 4)] * BAND[Math.min(Math.abs(s - q), 4)] * zero[s === 0 ? 0 : 1];
  });
  const sum = u.reduce((a, b) => a + b);
  return u.map((x) => Math.floor((1024 * x) / sum) + 1);
}

/**
 * The levels of a chunk's windows.
 * @param {Uint8Array} layer
 * @param {number} start first frame of the chunk
 * @param {number} frames
 * @param {import("./index.js").Header} header
 * @returns {import("./index.js").Levels}
 */
export function decodeLevels(layer, start, frames, header) {
  const { hop, bands, lowest, highest } = header.levels;
  const C = header.channels;
  const first = Math.ceil(start / hop);
  const windows = Math.ceil((start + frames) / hop) - first;
  const size = lowest + highest + 1;
  const values = new Int8Array(C * windows * bands);
  if (!layer.length) return { first, windows, values };
  const reader = new ByteReader(layer);
  const lengths = Array.from({ length: C - 1 }, () => reader.varint());
  for (let c = 0; c < C; c++) {
    const decoder = new RangeDecoder(reader.take(c < C - 1 ? lengths[c] : reader.left));
    const rows = new Map();
    for (let w = 0; w < windows; w++) {
      for (let b = 0; b < bands; b++) {
        const at = (c * windows + w) * bands + b;
        const p = w ? values[at - bands] : 0;
        const q = b ? values[at - 1] : 0;
        let row = rows.get(p * 32 + q);
        if (!row) {
          const counts = initialCounts(p, q, lowest, highest);
          row = { counts, total: counts.reduce((a, b) => a + b) };
          rows.set(p * 32 + q, row);
        }
        const symbol = decoder.symbol(row.counts, row.total, size);
        row.counts[symbol] += 32;
        row.total += 32;
        values[at] = symbol > highest ? symbol - size : symbol;
      }
    }
    decoder.finish();
  }
  return { first, windows, values };
}

/** Applies band levels to the output of the network: LEVELS.md, section 4. */
export class LevelFilter {
  constructor(header) {
    const { hop, bands, top, lowest, highest, step } = header.levels;
    this.hop = hop * header.hopLength;
    if (this.hop > 2 ** 20) throw new DacFormatError("the windows of the band levels are too long");
    const H = this.hop;
    this.window = Float64Array.from({ length: 2 * H }, (_, i) => Math.sin((Math.PI * i) / (2 * H)));
    this.bandOf = new Uint8Array(H + 1);
    const [R, edge, n] = [BigInt(header.modelSampleRate), BigInt(top), BigInt(bands)];
    for (let k = 0; k <= H; k++) {
      const f = BigInt(k) * R;
      const band = Number((f * (1960n + edge) * n) / ((f + 1960n * 2n * BigInt(H)) * edge));
      this.bandOf[k] = Math.min(bands - 1, band);
    }
    this.lowest = lowest;
    this.gains = Float64Array.from({ length: lowest + highest + 1 }, (_, i) => 10 ** ((step * (i - lowest)) / 20));
    if (!this.gains.every(Number.isFinite)) throw new DacFormatError("the step of the band levels is too large");
    this.fft = new FFT(2 * H);
  }

  /** The samples from .. to-1 of the filtered signal, of which x[0] is sample `offset`. */
  apply(x, offset, from, to, levelsOf) {
    const H = this.hop;
    const at = (n) => (n >= offset && n < offset + x.length ? x[n - offset] : 0);
    const y = new Float64Array(to - from);
    for (let n = from; n < to; n++) y[n - from] = at(n);
    const re = new Float64Array(2 * H);
    const im = new Float64Array(2 * H);
    for (let j = Math.floor(from / H); j <= Math.floor((to - 1) / H) + 1; j++) {
      const levels = levelsOf(j);
      if (!levels || levels.every((s) => s === 0)) continue;
      const start = (j - 1) * H;
      for (let i = 0; i < 2 * H; i++) re[i] = this.window[i] * at(start + i);
      im.fill(0);
      this.fft.transform(re, im);
      for (let k = 0; k < 2 * H; k++) {
        const gain = this.gains[levels[this.bandOf[k <= H ? k : 2 * H - k]] + this.lowest] - 1;
        re[k] *= gain;
        im[k] *= gain;
      }
      this.fft.transform(im, re); // the inverse but for 1 / 2 H: real and imaginary parts change places
      const low = Math.max(from, start);
      const high = Math.min(to, start + 2 * H);
      for (let n = low; n < high; n++) y[n - from] += (this.window[n - start] * re[n - start]) / (2 * H);
    }
    return Float32Array.from(y);
  }
}
