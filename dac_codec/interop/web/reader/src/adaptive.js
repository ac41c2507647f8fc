import { DacFormatError } from "./errors.js";

/** Codes and decodes by adaptive counts: ENTROPY.md, sections 2 and 3. Planes do not depend on each other. */
export class AdaptiveCoder {
  constructor(codebookSize) {
    this.places = 2 ** ((32 - Math.clz32(codebookSize - 1) + 1) >> 1);
    this.groups = Math.ceil(codebookSize / this.places);
  }

  /**
   * Codes or decodes plane `i`.
   * @param {RangeEncoder | RangeDecoder} coder
   * @param {Int32Array} codes one for each frame; a decoder is given -1 and fills in the codes
   * @param {Uint8Array} counts number of codes of each frame
   * @param {number} entries of the codebook, which every code is below
   */
  plane(i, coder, codes, counts, entries) {
    const { places: S, groups: G } = this;
    const sizeOf = (g) => Math.max(0, Math.min(S, entries - g * S));
    const first = new Float64Array(G + 1);
    for (let g = 0; g < G; g++) first[g] = sizeOf(g);
    first[G] = 16;
    let firstTotal = entries + 16;
    const second = new Array(G);
    const secondTotal = new Float64Array(G);
    for (let t = 0; t < codes.length; t++) {
      if (counts[t] <= i) continue;
      const code = codes[t];
      const repeats = t > 0 && code === codes[t - 1];
      const g = coder.symbol(first, firstTotal, G + 1, repeats ? G : Math.floor(code / S));
      if (g === G) {
        if (t === 0 || codes[t - 1] < 0) throw new DacFormatError("a code repeats one that is not there");
        codes[t] = codes[t - 1];
        first[G] += 32;
        firstTotal += 32;
        continue;
      }
      if (!sizeOf(g)) throw new DacFormatError("a code is of a group without codes");
      if (!second[g]) {
        second[g] = new Float64Array(S).fill(1, 0, sizeOf(g));
        secondTotal[g] = sizeOf(g);
      }
      const p = coder.symbol(second[g], secondTotal[g], S, code % S);
      if (p >= sizeOf(g)) throw new DacFormatError("a code is not in its codebook");
      codes[t] = g * S + p;
      first[g] += 2;
      firstTotal += 2;
      second[g][p] += 2;
      secondTotal[g] += 2;
    }
  }
}
