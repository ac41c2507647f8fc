// Integrated loudness, ITU-R BS.1770-4, and the gain to the loudness that the model was trained at.
const TARGET_LUFS = -16;
const SILENCE_LUFS = -70;

/** The sections (b0, b1, b2, a1, a2) of the K-weighting: R. Bristow-Johnson's cookbook of audio filters. */
function sections(rate) {
  const corner = (frequency, q) => {
    const w = (2 * Math.PI * frequency) / rate;
    return [Math.cos(w), Math.sin(w) / (2 * q)];
  };
  const found = [];
  if (rate > 3000) {
    const A = 10 ** (4 / 40);
    const [cos, alpha] = corner(1500, Math.SQRT1_2);
    const [more, less, width] = [A + 1, A - 1, 2 * Math.sqrt(A) * alpha];
    const a0 = more - less * cos + width;
    const b = [A * (more + less * cos + width), -2 * A * (less + more * cos), A * (more + less * cos - width)];
    found.push([...b, 2 * (less - more * cos), more - less * cos - width].map((value) => value / a0));
  }
  if (rate > 76) {
    const [cos, alpha] = corner(38, 0.5);
    found.push([(1 + cos) / 2, -(1 + cos), (1 + cos) / 2, -2 * cos, 1 - alpha].map((value) => value / (1 + alpha)));
  }
  return found;
}

/** Loudness in LUFS, -70 or more, of channels at a sample rate. */
export function loudness(channels, rate) {
  const hop = Math.max(1, Math.floor(rate / 10));
  const length = Math.max(5 * hop, channels[0].length); // shorter sounds are padded
  const hops = Math.ceil(length / hop);
  const energy = new Float64Array(hops);
  channels.forEach((x, c) => {
    const weight = channels.length <= 5 && c >= 3 ? 1.41 : 1;
    const filters = sections(rate).map((coefficients) => ({ coefficients, s1: 0, s2: 0 }));
    for (let n = 0; n < length; n++) {
      let v = n < x.length ? x[n] : 0;
      for (const filter of filters) {
        const [b0, b1, b2, a1, a2] = filter.coefficients;
        const y = b0 * v + filter.s1;
        filter.s1 = b1 * v - a1 * y + filter.s2;
        filter.s2 = b2 * v - a2 * y;
        v = y;
      }
      energy[Math.floor(n / hop)] += weight * v * v;
    }
  });
  const powerOf = (_, j) => energy.subarray(j, j + 4).reduce((a, b) => a + b) / (4 * hop);
  let powers = Array.from({ length: hops - 3 }, powerOf);
  const mean = () => powers.reduce((a, b) => a + b, 0) / powers.length;
  powers = powers.filter((power) => power > 10 ** ((SILENCE_LUFS + 0.691) / 10));
  if (!powers.length) return SILENCE_LUFS;
  const gate = 0.1 * mean();
  powers = powers.filter((power) => power > gate);
  return Math.max(SILENCE_LUFS, -0.691 + 10 * Math.log10(mean()));
}

/** Gain in dB that brings a sound to -16 LUFS, or its peak to full scale if that is lower. Silence is not amplified. */
export function gainOf(channels, rate) {
  const measured = loudness(channels, rate);
  if (measured <= SILENCE_LUFS) return 0;
  let peak = 0;
  for (const x of channels) for (const sample of x) peak = Math.max(peak, Math.abs(sample));
  return Math.fround(Math.min(TARGET_LUFS - measured, -20 * Math.log10(peak)));
}
