import { DacFormatError } from "./errors.js";
import { hex } from "./header.js";
import { parseSafetensors } from "./safetensors.js";
import { sha256 } from "./sha256.js";

const LIMIT = 2 ** 24;
const EXP = new Int32Array(256); // T of ENTROPY.md, section 4
EXP[0] = 65536;
for (let j = 1; j < 256; j++) EXP[j] = Math.floor((EXP[j - 1] * 61565) / 65536);

function refuse(what) {
  throw new DacFormatError(`this is no context model: ${what}`);
}

/** [rows, columns] of each of `n` matrices -> [columns, rows], so that sums read memory in order. */
function transposed(data, n, rows, columns) {
  const out = new Int8Array(data.length);
  for (let m = 0; m < n; m++) {
    const base = m * rows * columns;
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++) out[base + c * rows + r] = data[base + r * columns + c];
  }
  return out;
}

/** The context model of ENTROPY.md, section 4. */
export class ContextModel {
  /** @param {Uint8Array} bytes a safetensors file */
  constructor(bytes) {
    const arrays = parseSafetensors(bytes);
    const get = (name, Type, shape) => {
      const array = arrays.get(name);
      if (!array) return refuse(`array ${name} is missing`);
      if (!(array.data instanceof Type)) refuse(`array ${name} has another type`);
      if (shape && (array.shape.length !== shape.length || shape.some((n, i) => n !== array.shape[i])))
        refuse(`array ${name} has the shape [${array.shape}], not [${shape}]`);
      return array;
    };
    const embeddings = get("embeddings", Int8Array);
    const [N, K, E] = embeddings.shape;
    const averages = get("averages", Int32Array);
    const A = averages.shape[0];
    const H = get("hidden.bias", Int32Array).shape[1];
    const R = get("features.bias", Int32Array).shape[1];
    const [, G, S] = get("second.bias", Int32Array).shape;
    const sizes = [N, K, E, H, R, G, S];
    if (embeddings.shape.length !== 3 || averages.shape.length !== 1 || !sizes.every((n) => n > 0)) refuse("its sizes");
    if (G + 1 > 4096 || S > 4096) refuse("it has too many groups or places");
    const inputs = (5 + A) * E;
    Object.assign(this, { codebooks: N, codebookSize: K, E, A, H, R, G, S, inputs });
    this.embeddings = embeddings.data;
    this.averages = averages.data;
    const matrix = (name, shape) => get(`${name}.weight`, Int8Array, shape).data;
    this.hiddenWeight = transposed(matrix("hidden", [N, inputs, H]), N, inputs, H);
    this.hiddenBias = get("hidden.bias", Int32Array, [N, H]).data;
    this.featuresWeight = transposed(matrix("features", [N, H, R]), N, H, R);
    this.featuresBias = get("features.bias", Int32Array, [N, R]).data;
    this.firstWeight = transposed(matrix("first", [N, R, G + 1]), N, R, G + 1);
    this.firstBias = get("first.bias", Int32Array, [N, G + 1]).data;
    this.secondWeight = transposed(matrix("second", [N, G, R, S]), N * G, R, S);
    this.secondBias = get("second.bias", Int32Array, [N, G, S]).data;
    this.shifts = get("shifts", Int32Array, [3]).data;
    for (const shift of [...this.shifts, ...this.averages])
      if (shift < 0 || shift > 16) refuse("a shift is not 0 to 16");
    this.places = get("places", Int32Array, [N, K]).data;
    this.codeAt = this.#inverse(this.places);
    this.#checkSums();
    const names = [...arrays.keys()].sort();
    const text = (name) => new TextEncoder().encode(`\n${name} [${arrays.get(name).shape.join(", ")}]\n`);
    const parts = names.flatMap((name) => [text(name), arrays.get(name).raw]);
    /** The fingerprint that headers name, in hexadecimal digits. */
    this.fingerprint = hex(sha256(parts).subarray(0, 8));
  }

  /** Refuses a header that names another model, or has other codebooks. */
  check(header) {
    if (this.fingerprint !== header.contextModel)
      throw new DacFormatError(`the file needs the context model ${header.contextModel}, this is ${this.fingerprint}`);
    if (this.codebooks < header.codebooks || this.codebookSize !== header.codebookSize)
      throw new DacFormatError("the context model has other codebooks than the file");
  }

  /** [N, G S]: the code at each place, or -1. */
  #inverse(places) {
    const { codebooks: N, codebookSize: K, G, S } = this;
    const codeAt = new Int32Array(N * G * S).fill(-1);
    for (let i = 0; i < N; i++) {
      for (let c = 0; c < K; c++) {
        const place = places[i * K + c];
        if (place < 0 || place >= G * S || codeAt[i * G * S + place] >= 0) refuse("its places are no places");
        codeAt[i * G * S + place] = c;
      }
    }
    return codeAt;
  }

  /** ENTROPY.md, "Exactness". */
  #checkSums() {
    const { codebooks: N, codebookSize: K, E, A, H, R, G, S, inputs } = this;
    const check = (bias, weight, n, rows, columns, bound) => {
      for (let m = 0; m < n; m++) {
        for (let c = 0; c < columns; c++) {
          let sum = Math.abs(bias[m * columns + c]);
          for (let r = 0; r < rows; r++) sum += Math.abs(weight[(m * columns + c) * rows + r]) * bound(m, r);
          if (sum > LIMIT) refuse("its sums may exceed 2^24");
        }
      }
    };
    const coarse = new Float64Array((N + 1) * E); // the largest magnitudes of s_i
    const own = new Float64Array(N * E);
    for (let i = 0; i < N; i++) {
      for (let c = 0; c < K; c++) {
        for (let e = 0; e < E; e++) {
          own[i * E + e] = Math.max(own[i * E + e], Math.abs(this.embeddings[(i * K + c) * E + e]));
        }
      }
      for (let e = 0; e < E; e++) coarse[(i + 1) * E + e] = coarse[i * E + e] + own[i * E + e];
    }
    check(this.hiddenBias, this.hiddenWeight, N, inputs, H, (i, r) => {
      const part = Math.floor(r / E);
      const e = r % E;
      return part < 3 ? coarse[i * E + e] : part < 5 ? own[i * E + e] : coarse[(i + 1) * E + e];
    });
    check(this.featuresBias, this.featuresWeight, N, H, R, () => 127);
    check(this.firstBias, this.firstWeight, N, R, G + 1, () => 127);
    check(this.secondBias, this.secondWeight, N * G, R, S, () => 127);
    const largest = coarse.reduce((a, b) => Math.max(a, b));
    for (let h = 0; h < A; h++) if ((largest + 1) * 2 ** this.averages[h] > LIMIT) refuse("its averages may exceed 2^24");
  }
}

/** out[j] = bias[j] + x . weight[j] for j = 0 .. columns-1; sums stay below 2^24. */
function affine(out, bias, biasAt, weight, weightAt, x, from, rows, columns) {
  let j = 0;
  for (; j + 3 < columns; j += 4) {
    let a = bias[biasAt + j];
    let b = bias[biasAt + j + 1];
    let c = bias[biasAt + j + 2];
    let d = bias[biasAt + j + 3];
    const row = weightAt + j * rows;
    for (let k = from; k < rows; k++) {
      const v = x[k];
      const at = row + k;
      a = (a + Math.imul(v, weight[at])) | 0;
      b = (b + Math.imul(v, weight[at + rows])) | 0;
      c = (c + Math.imul(v, weight[at + 2 * rows])) | 0;
      d = (d + Math.imul(v, weight[at + 3 * rows])) | 0;
    }
    out[j] = a;
    out[j + 1] = b;
    out[j + 2] = c;
    out[j + 3] = d;
  }
  for (; j < columns; j++) {
    let a = bias[biasAt + j];
    for (let k = from; k < rows; k++) a = (a + Math.imul(x[k], weight[weightAt + j * rows + k])) | 0;
    out[j] = a;
  }
}

function activate(values, shift) {
  for (let j = 0; j < values.length; j++) {
    const v = values[j] >> shift;
    values[j] = v < 0 ? 0 : v > 127 ? 127 : v;
  }
}

/** Turns sums into weights of symbols, in place, and returns the total. */
function toWeights(values, shift) {
  let largest = -Infinity;
  for (let k = 0; k < values.length; k++) {
    values[k] >>= shift;
    if (values[k] > largest) largest = values[k];
  }
  let total = 0;
  for (let k = 0; k < values.length; k++) {
    const distance = largest - values[k];
    total += values[k] = EXP[distance > 255 ? 255 : distance];
  }
  return total;
}

/** Codes or decodes the planes of one channel of one chunk, coarse ones first. */
export class ContextCoder {
  constructor(model, frames) {
    this.model = model;
    this.frames = frames;
    this.sums = new Int32Array((frames + 2) * model.E); // s_i(t) at row t + 1, with a row of zeros on either side
    this.x = new Int32Array(model.inputs);
    this.hidden = new Int32Array(model.H);
    this.features = new Int32Array(model.R);
    this.first = new Int32Array(model.G + 1);
    this.second = new Int32Array(model.S);
  }

  /** As `AdaptiveCoder.plane`, but planes must come in their order. */
  plane(i, coder, codes, counts, entries) {
    const { E, A, codebookSize: K, averages, embeddings } = this.model;
    const { sums, x, frames } = this;
    const m = new Int32Array(A * E);
    const v = new Int32Array(A * E);
    const own = new Int32Array(frames * E); // e_i(t), added to the sums when the plane is complete
    const put = (part, row) => {
      if (row < 0) x.fill(0, part * E, (part + 1) * E);
      else for (let e = 0; e < E; e++) x[part * E + e] = own[row * E + e];
    };
    for (let t = 0; t < frames; t++) {
      if (counts[t] > i) {
        for (let e = 0; e < 3 * E; e++) x[e] = sums[t * E + e];
        put(3, t - 1);
        put(4, t - 2);
        x.set(v, 5 * E);
        const code = this.#code(i, coder, codes[t], t > 0 ? codes[t - 1] : -1);
        if (code >= entries) throw new DacFormatError(`code ${code} is not below ${entries}`);
        codes[t] = code;
        for (let e = 0; e < E; e++) own[t * E + e] = embeddings[(i * K + code) * E + e];
      }
      for (let h = 0; h < A; h++) {
        for (let e = 0; e < E; e++) {
          m[h * E + e] += sums[(t + 1) * E + e] + own[t * E + e] - v[h * E + e];
          v[h * E + e] = m[h * E + e] >> averages[h];
        }
      }
    }
    for (let k = 0; k < own.length; k++) sums[E + k] += own[k];
  }

  /** Codes `code`, or decodes one, after `before`; returns it. */
  #code(i, coder, code, before) {
    const model = this.model;
    const place = model.places[i * model.codebookSize + code];
    const { H, R, G, S, E, inputs, shifts } = model;
    // The sums of plane 0 are zeros.
    const from = i === 0 ? 3 * E : 0;
    affine(this.hidden, model.hiddenBias, i * H, model.hiddenWeight, i * H * inputs, this.x, from, inputs, H);
    activate(this.hidden, shifts[0]);
    affine(this.features, model.featuresBias, i * R, model.featuresWeight, i * R * H, this.hidden, 0, H, R);
    activate(this.features, shifts[1]);
    const z = this.features;
    affine(this.first, model.firstBias, i * (G + 1), model.firstWeight, i * (G + 1) * R, z, 0, R, G + 1);
    const group = code === before ? G : Math.floor(place / S);
    const g = coder.symbol(this.first, toWeights(this.first, shifts[2]), G + 1, group);
    if (g === G) {
      if (before < 0) throw new DacFormatError("a code repeats one that is not there");
      return before;
    }
    const at = i * G + g;
    affine(this.second, model.secondBias, at * S, model.secondWeight, at * S * R, z, 0, R, S);
    const p = coder.symbol(this.second, toWeights(this.second, shifts[2]), S, place % S);
    const found = model.codeAt[at * S + p];
    if (found < 0) throw new DacFormatError("a code is not in its codebook");
    return found;
  }
}
