// Waveform and spectrogram of a block, computed in the worker.
import { FFT } from "../reader/src/index.js";

export const COLUMNS = 900; // of the whole sound
export const ROWS = 128;
const SIZE = 1024;
const FLOOR_DB = -100;
const RANGE_DB = 80;
const fft = new FFT(SIZE);
const hann = Float64Array.from({ length: SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / SIZE));

/** The edges of the rows in bins of the transform, low frequencies first: equal widths in Bark. */
function edges(rate) {
  const bark = (f) => (26.81 * f) / (1960 + f);
  const top = bark(rate / 2);
  return Array.from({ length: ROWS + 1 }, (_, row) => {
    const z = (top * row) / ROWS;
    return (((1960 * z) / (26.81 - z)) * SIZE) / rate;
  });
}

/**
 * The columns whose centres lie in a block.
 * @param {Float32Array[]} channels
 * @param {number} start first sample of the block
 * @param {number} length samples of the whole sound
 * @param {number} rate
 * @returns {{first: number, peaks: Float32Array, levels: Uint8Array}} lowest and highest sample, and 0..255 of each row
 */
export function view(channels, start, length, rate) {
  const n = channels[0].length;
  const first = Math.max(0, Math.ceil((start * COLUMNS) / length - 0.5));
  const last = Math.max(first, Math.min(COLUMNS, Math.ceil(((start + n) * COLUMNS) / length - 0.5)));
  const peaks = new Float32Array(2 * (last - first));
  const levels = new Uint8Array(ROWS * (last - first));
  const rows = edges(rate);
  const mono = (at) => channels.reduce((sum, x) => sum + (x[at] ?? 0), 0) / channels.length;
  const [re, im] = [new Float64Array(SIZE), new Float64Array(SIZE)];
  for (let column = first; column < last; column++) {
    const c = column - first;
    const a = Math.max(0, Math.floor((column * length) / COLUMNS) - start);
    const b = Math.min(n, Math.max(a + 1, Math.ceil(((column + 1) * length) / COLUMNS) - start));
    for (let at = a; at < b; at++) {
      const v = mono(at);
      if (v < peaks[2 * c]) peaks[2 * c] = v;
      if (v > peaks[2 * c + 1]) peaks[2 * c + 1] = v;
    }
    const from = Math.max(0, Math.min(n - SIZE, Math.round(((column + 0.5) * length) / COLUMNS - start - SIZE / 2)));
    for (let k = 0; k < SIZE; k++) re[k] = hann[k] * mono(from + k);
    im.fill(0);
    fft.transform(re, im);
    for (let row = 0; row < ROWS; row++) {
      const low = Math.min(SIZE / 2, Math.floor(rows[row]));
      const high = Math.min(SIZE / 2 + 1, Math.max(low + 1, Math.floor(rows[row + 1])));
      let power = 0;
      for (let k = low; k < high; k++) power = Math.max(power, re[k] ** 2 + im[k] ** 2);
      const db = 10 * Math.log10(power / (SIZE / 4) ** 2 + 1e-20);
      levels[c * ROWS + row] = Math.max(0, Math.min(255, ((db - FLOOR_DB) / RANGE_DB) * 255));
    }
  }
  return { first, peaks, levels };
}
