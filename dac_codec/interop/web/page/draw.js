// Draws what the worker computed: see view.js.
import { COLUMNS, ROWS } from "./view.js";

const WAVE_HEIGHT = 192;
// Colours of rising levels; the panel is dark in light and dark pages.
const STOPS = [
  [7, 6, 15],
  [58, 15, 110],
  [140, 41, 129],
  [222, 73, 104],
  [254, 159, 109],
  [252, 253, 191],
];
const COLOURS = Uint32Array.from({ length: 256 }, (_, level) => {
  const at = (level / 255) * (STOPS.length - 1);
  const k = Math.min(STOPS.length - 2, Math.floor(at));
  const [r, g, b] = STOPS[k].map((value, i) => Math.round(value + (at - k) * (STOPS[k + 1][i] - value)));
  return (255 << 24) | (b << 16) | (g << 8) | r;
});

/** Draws a waveform and a spectrogram on two canvases. */
export class Scope {
  constructor(wave, spectrogram) {
    Object.assign(this, { wave, spectrogram });
    wave.width = spectrogram.width = COLUMNS;
    wave.height = WAVE_HEIGHT;
    spectrogram.height = ROWS;
    this.clear();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#drawWave(0, COLUMNS));
  }

  clear() {
    this.peaks = new Float32Array(2 * COLUMNS);
    this.largest = 0.05;
    for (const canvas of [this.wave, this.spectrogram]) canvas.getContext("2d").clearRect(0, 0, COLUMNS, canvas.height);
  }

  /** @param {{first: number, peaks: Float32Array, levels: Uint8Array}} shown */
  add({ first, peaks, levels }) {
    const count = peaks.length / 2;
    if (!count) return;
    this.peaks.set(peaks, 2 * first);
    const largest = peaks.reduce((most, v) => Math.max(most, Math.abs(v)), this.largest);
    const all = largest > this.largest; // the scale changes
    this.largest = largest;
    this.#drawWave(all ? 0 : first, all ? COLUMNS : first + count);
    const image = new ImageData(count, ROWS);
    const pixels = new Uint32Array(image.data.buffer);
    for (let c = 0; c < count; c++)
      for (let row = 0; row < ROWS; row++) pixels[(ROWS - 1 - row) * count + c] = COLOURS[levels[c * ROWS + row]];
    this.spectrogram.getContext("2d").putImageData(image, first, 0);
  }

  #drawWave(from, to) {
    const context = this.wave.getContext("2d");
    context.clearRect(from, 0, to - from, WAVE_HEIGHT);
    context.fillStyle = getComputedStyle(this.wave).getPropertyValue("--accent");
    const scale = (0.47 * WAVE_HEIGHT) / this.largest;
    for (let c = from; c < to; c++) {
      const [low, high] = [this.peaks[2 * c], this.peaks[2 * c + 1]];
      if (low === high) continue;
      const top = WAVE_HEIGHT / 2 - high * scale;
      context.fillRect(c, top, 1, Math.max(1.5, (high - low) * scale));
    }
  }
}
