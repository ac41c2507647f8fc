/** Discrete Fourier transforms of one size: radix 2, and Bluestein's algorithm for sizes that are no powers of two. */
export class FFT {
  constructor(size) {
    this.size = size;
    const angle = (2 * Math.PI) / size;
    if ((size & (size - 1)) === 0) {
      this.cos = Float64Array.from({ length: size / 2 }, (_, k) => Math.cos(angle * k));
      this.sin = Float64Array.from({ length: size / 2 }, (_, k) => -Math.sin(angle * k));
      return;
    }
    // X_k = c_k sum over n of (x_n c_n) conj(c_(k-n)), with c_n = exp(-pi i n^2 / size): a convolution.
    const padded = 2 ** Math.ceil(Math.log2(2 * size - 1));
    this.inner = new FFT(padded);
    this.chirpRe = new Float64Array(size);
    this.chirpIm = new Float64Array(size);
    this.kernelRe = new Float64Array(padded);
    this.kernelIm = new Float64Array(padded);
    for (let n = 0; n < size; n++) {
      const turn = (angle / 2) * ((n * n) % (2 * size));
      this.chirpRe[n] = Math.cos(turn);
      this.chirpIm[n] = -Math.sin(turn);
      for (const at of [n, (padded - n) % padded]) {
        this.kernelRe[at] = Math.cos(turn);
        this.kernelIm[at] = Math.sin(turn);
      }
    }
    this.inner.transform(this.kernelRe, this.kernelIm);
  }

  /** The forward transform, in place, without scaling. */
  transform(re, im) {
    if (this.inner) this.#bluestein(re, im);
    else this.#radix2(re, im);
  }

  #radix2(re, im) {
    const n = this.size;
    for (let i = 1, j = 0; i < n; i++) {
      let bit = n >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) {
        [re[i], re[j]] = [re[j], re[i]];
        [im[i], im[j]] = [im[j], im[i]];
      }
    }
    for (let half = 1; half < n; half *= 2) {
      const stride = n / (2 * half);
      for (let start = 0; start < n; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const c = this.cos[k * stride];
          const s = this.sin[k * stride];
          const a = start + k;
          const b = a + half;
          const tr = re[b] * c - im[b] * s;
          const ti = re[b] * s + im[b] * c;
          re[b] = re[a] - tr;
          im[b] = im[a] - ti;
          re[a] += tr;
          im[a] += ti;
        }
      }
    }
  }

  #bluestein(re, im) {
    const { size, inner, chirpRe: cr, chirpIm: ci, kernelRe: kr, kernelIm: ki } = this;
    const ar = new Float64Array(inner.size);
    const ai = new Float64Array(inner.size);
    for (let n = 0; n < size; n++) {
      ar[n] = re[n] * cr[n] - im[n] * ci[n];
      ai[n] = re[n] * ci[n] + im[n] * cr[n];
    }
    inner.transform(ar, ai);
    for (let k = 0; k < inner.size; k++) {
      const r = ar[k] * kr[k] - ai[k] * ki[k];
      ai[k] = ar[k] * ki[k] + ai[k] * kr[k];
      ar[k] = r;
    }
    inner.transform(ai, ar); // inverse, without 1 / size
    for (let n = 0; n < size; n++) {
      re[n] = (ar[n] * cr[n] - ai[n] * ci[n]) / inner.size;
      im[n] = (ar[n] * ci[n] + ai[n] * cr[n]) / inner.size;
    }
  }
}
