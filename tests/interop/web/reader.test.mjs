// The JavaScript reader against files and contents that cases.py wrote to the folder CASES.
import assert from "node:assert/strict";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import {
  ArrivingFile,
  ContextModel,
  DacFile,
  DacFormatError,
  FFT,
  LevelFilter,
  encodeChunks,
  write,
  writeChunks,
} from "../../../dac_codec/interop/web/reader/src/index.js";
import { crc32c } from "../../../dac_codec/interop/web/reader/src/crc32c.js";

const folder = process.env.CASES;
const read = (name) => new Uint8Array(readFileSync(`${folder}/${name}`));
const array = (name, Type) => new Type(read(name).buffer);
const names = readdirSync(folder)
  .filter((name) => name.endsWith(".dac") && name !== "context_long.dac") // the last test reads that one
  .map((name) => name.slice(0, -4));
const intact = names.filter((name) => !name.includes("damaged"));
const contextBytes = new Uint8Array(readFileSync(process.env.CONTEXT));
const contextModel = new ContextModel(contextBytes);

/** Pseudo-random integers below n (xorshift). */
function generator(seed) {
  let state = seed * 2654435761 || 1;
  return (n) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % n;
  };
}

function equal(actual, expected, what) {
  assert.equal(actual.length, expected.length, `${what}: length`);
  const at = actual.findIndex((value, i) => value !== expected[i]);
  assert.equal(at, -1, `${what}: ${actual[at]} at ${at}, not ${expected[at]}`);
}

/** Compares a file, and what was decoded of it, with what the Python package reads. */
function check(name, file, { codes, levels, problems }) {
  const expected = JSON.parse(readFileSync(`${folder}/${name}.json`, "utf8"));
  assert.equal(file.nFrames, expected.frames);
  assert.equal(file.length, expected.length);
  equal(codes, array(`${name}.codes`, Int32Array), "codes");
  if (expected.levels) equal(levels, array(`${name}.levels`, Int8Array), "levels");
  else assert.equal(levels, null);
  assert.equal(file.truncated, expected.truncated);
  if (expected.damaged) assert.notDeepEqual(problems, []);
  if (expected.intact) {
    assert.deepEqual(problems, []);
    new DacFile(read(`${name}.dac`), { contextModel, recover: false });
  }
}

for (const name of names) {
  test(name, () => {
    const file = new DacFile(read(`${name}.dac`), { contextModel });
    check(name, file, file.decodeAll());
  });
}

test("files that arrive in pieces are those that are there at once", () => {
  const next = generator(4);
  const looked = ["constant", "adaptive_sizes", "levels", "context_stereo_by_layers", "levels_by_layers"];
  for (const name of names) {
    const data = read(`${name}.dac`);
    const wanted = new DacFile(data, { contextModel });
    const arriving = new ArrivingFile();
    for (let at = 0; at < data.length; ) {
      const piece = data.slice(at, at + 1 + next(at < 100 ? 5 : data.length >> 2));
      at += piece.length;
      const file = arriving.push(piece);
      if (!file) continue;
      assert.deepEqual([file.size, file.complete, file.problems], [at, false, []]);
      const last = file.chunks.at(-1);
      if (!last || !looked.includes(name)) continue;
      // The newest chunk has the codes of the layers that have come, and nothing is reported as missing.
      file.setContextModel(contextModel);
      const { codes, problems } = file.decode(file.chunks.length - 1);
      const { layers, codebooks: N } = file.header;
      const kept = layers ? layers.slice(0, last.layers).reduce((a, b) => a + b) : N;
      const all = wanted.decode(file.chunks.length - 1).codes;
      equal(codes, all.map((code, n) => (Math.floor(n / last.frames) % N < kept ? code : -1)), `${name}, ${at} bytes`);
      assert.deepEqual(problems, []);
    }
    const file = arriving.end();
    for (const key of ["problems", "chunks", "gaps", "length", "totalFrames", "constant"]) assert.deepEqual(file[key], wanted[key]);
    if (looked.includes(name)) equal(file.decodeAll().codes, wanted.decodeAll().codes, name);
  }
  assert.throws(() => new ArrivingFile().push(new Uint8Array(3)), /no .dac file/);
  const theirs = new TextEncoder().encode("?NUMPY").fill(0x93, 0, 1);
  assert.throws(() => new ArrivingFile().push(theirs), /file of descript-audio-codec/);
  const cut = new ArrivingFile();
  assert.equal(cut.push(read("constant.dac").subarray(0, 30)), null);
  assert.throws(() => cut.end(), /ends inside its header/);
});

test("what is written equals what the Python package writes", () => {
  const whole = intact.filter((name) => name.startsWith("whole"));
  assert.notEqual(whole.length, 0);
  for (const name of whole) {
    const data = read(`${name}.dac`);
    const { header } = new DacFile(data);
    equal(write(header, array(`${name}.codes`, Int32Array), header.contextModel && contextModel), data, name);
  }
});

test("fewer codebooks of coded chunks are those of codes of fewer codebooks", () => {
  for (const name of ["whole_packed", "whole_adaptive", "whole_adaptive_sizes", "whole_context"]) {
    const file = new DacFile(read(`${name}.dac`), { contextModel });
    const codes = array(`${name}.codes`, Int32Array);
    const { codebooks: N, contextModel: named } = file.header;
    const chunks = [...encodeChunks(file.header, codes, named && contextModel)];
    for (const n of [1, N - 1]) {
      const header = { ...file.header, codebooks: n, codebookSizes: file.header.codebookSizes.slice(0, n), layers: null };
      const kept = codes.filter((_, at) => Math.floor(at / file.nFrames) % N < n);
      const data = writeChunks(header, chunks);
      equal(data, write(header, kept, named && contextModel), `${name}, ${n}`);
      equal(new DacFile(data, { contextModel, recover: false }).decodeAll().codes, kept, `${name}, ${n}`);
    }
  }
});

test("fewer codebooks are the first ones", () => {
  for (const name of ["constant", "context_stereo"]) {
    const file = new DacFile(read(`${name}.dac`), { contextModel });
    const { channels: C, codebooks: N } = file.header;
    const all = file.decodeAll().codes;
    for (const n of [1, 4, 9]) {
      const expected = all.map((code, at) => (Math.floor(at / file.nFrames) % N < n ? code : -1));
      equal(file.decodeAll({ codebooks: n }).codes, expected, `${name}, ${n} of ${N} codebooks, ${C} channels`);
    }
  }
});

test("a damaged file throws without recovery", () => {
  const data = read("levels.dac");
  data[data.length >> 1] ^= 1;
  assert.notDeepEqual(new DacFile(data).decodeAll().problems, []);
  assert.throws(() => new DacFile(data.subarray(0, 300), { recover: false }), /truncated/);
  assert.throws(() => new DacFile(new Uint8Array(100)), DacFormatError);
  assert.throws(() => new DacFile(data.subarray(0, 20)), /ends inside its header/);
});

test("a file of another context model is refused", () => {
  assert.throws(() => new DacFile(read("context.dac")).decodeAll(), /needs the context model/);
  const changed = contextBytes.slice();
  changed[changed.length - 1000] ^= 1;
  assert.throws(() => new DacFile(read("context.dac"), { contextModel: new ContextModel(changed) }), DacFormatError);
});

test("band levels are applied as the Python package applies them", () => {
  const applied = intact.filter((name) => readdirSync(folder).includes(`${name}.output`));
  assert.notEqual(applied.length, 0);
  for (const name of applied) {
    const file = new DacFile(read(`${name}.dac`), { contextModel });
    const { levels } = file.decodeAll();
    const [input, output] = ["input", "output"].map((suffix) => array(`${name}.${suffix}`, Float32Array));
    const filter = new LevelFilter(file.header);
    const { bands, hop } = file.header.levels;
    const windows = Math.ceil(file.nFrames / hop);
    const length = input.length / file.header.channels;
    for (let c = 0; c < file.header.channels; c++) {
      const of = (j) => {
        const at = (c * windows + Math.min(j, windows - 1)) * bands;
        return j < 0 ? null : levels.subarray(at, at + bands);
      };
      const x = input.subarray(c * length, (c + 1) * length);
      const whole = filter.apply(x, 0, 0, length, of);
      const largest = whole.reduce((most, y, n) => Math.max(most, Math.abs(y - output[c * length + n])), 0);
      assert.ok(largest < 1e-5, `${name}: ${largest}`);
      const [from, to] = [10001, 10777]; // a part, from the part of the input that it depends on
      const part = filter.apply(x.subarray(from - 2 * filter.hop, to + 2 * filter.hop), from - 2 * filter.hop, from, to, of);
      equal(part, whole.subarray(from, to), `${name}: a part`);
    }
  }
});

test("Fourier transforms of any size", () => {
  const next = generator(1);
  for (const size of [2, 8, 12, 60, 250]) {
    const [re, im] = [0, 1].map(() => Float64Array.from({ length: size }, () => next(1000) / 500 - 1));
    const [gotRe, gotIm] = [re.slice(), im.slice()];
    new FFT(size).transform(gotRe, gotIm);
    for (let k = 0; k < size; k++) {
      let [sumRe, sumIm] = [0, 0];
      for (let n = 0; n < size; n++) {
        const angle = (-2 * Math.PI * ((k * n) % size)) / size;
        sumRe += re[n] * Math.cos(angle) - im[n] * Math.sin(angle);
        sumIm += re[n] * Math.sin(angle) + im[n] * Math.cos(angle);
      }
      assert.ok(Math.hypot(gotRe[k] - sumRe, gotIm[k] - sumIm) < 1e-10 * size);
    }
  }
});

test("written files are read here and, by the caller, in Python", () => {
  const next = generator(2);
  const header = { fingerprint: "0123456789abcdef", modelName: "tiny", sampleRate: 48000, channels: 2, gain: -1.5 };
  Object.assign(header, { modelSampleRate: 44100, hopLength: 512, codebooks: 3, codebookSize: 1000, length: 700000 });
  const frames = Math.ceil((700000 * 44100) / 48000 / 512);
  const codes = Int32Array.from({ length: 2 * 3 * frames }, () => next(1000));
  const data = write(header, codes);
  const file = new DacFile(data, { recover: false });
  equal(file.decodeAll().codes, codes, "codes");
  for (const [key, value] of Object.entries(header)) assert.equal(file.header[key], value);
  writeFileSync(`${folder}/written.bytes`, data);
  writeFileSync(`${folder}/written.codes`, codes);
  const sized = { ...header, codebookSizes: [1000, 900, 5] };
  const few = codes.map((code, n) => code % sized.codebookSizes[Math.floor(n / frames) % 3]);
  const small = write(sized, few);
  equal(new DacFile(small, { recover: false }).decodeAll().codes, few, "codes of different sizes");
  assert.ok(small.length < data.length);
  writeFileSync(`${folder}/sized.bytes`, small);
  writeFileSync(`${folder}/sized.codes`, few);
  assert.throws(() => write(sized, codes), DacFormatError);
  assert.throws(() => write(header, codes.map((c) => c + 1)), DacFormatError);
  assert.throws(() => write({ ...header, length: 1 }, codes), DacFormatError);
  assert.throws(() => write({ ...header, channels: 70000 }, codes), DacFormatError);
  assert.throws(() => write({ ...header, contextModel: contextModel.fingerprint, coding: 1 }, codes), /is not given/);
  assert.throws(() => write({ ...header, coding: 1 }, codes, contextModel), /needs the context model/);
  assert.throws(() => write({ ...header, levels: {} }, codes), /band levels are not written/);
});

test("hostile bytes throw a DacFormatError or decode, in bounded time", () => {
  const next = generator(3);
  for (const name of intact.filter((name) => !name.startsWith("whole"))) {
    const original = read(`${name}.dac`);
    const bodyLength = original[5];
    for (let n = 0; n < 12; n++) {
      const data = original.slice(0, original.length - (n % 3 ? 0 : next(100)));
      // Change the header with a valid checksum, or anything.
      const inHeader = n % 2;
      for (let k = 0; k <= next(3); k++) data[inHeader ? 6 + next(bodyLength) : next(data.length)] = next(256);
      if (inHeader && data.length > 10 + bodyLength)
        new DataView(data.buffer).setUint32(6 + bodyLength, crc32c(data, 0, 6 + bodyLength), true);
      const begin = process.cpuUsage();
      try {
        new DacFile(data, { contextModel }).decodeAll({ maxCodes: 2 ** 18 });
      } catch (error) {
        if (!(error instanceof DacFormatError)) throw error;
      }
      const { user } = process.cpuUsage(begin);
      assert.ok(user < 2e6, `${name}, ${n}: ${user / 1000} ms`);
    }
  }
  for (const bytes of [new Uint8Array(0), new Uint8Array(8).fill(255), contextBytes.subarray(0, 5000)])
    assert.throws(() => new ContextModel(bytes), DacFormatError);
});

test("the search for chunks is bounded", () => {
  // Many keys of END, or of long chunks, behind the header.
  const header = read("constant.dac").subarray(0, 6 + read("constant.dac")[5] + 4);
  for (const fill of [[0], [0x81, 0x80, 0x40], [0x82, 0x80, 0x40, 1], [0x0d, 0x03]]) {
    const data = new Uint8Array(2 ** 17);
    for (let at = 0; at < data.length; at++) data[at] = fill[at % fill.length];
    data.set(header);
    const begin = process.cpuUsage();
    assert.equal(new DacFile(data).nFrames, 0);
    const { user } = process.cpuUsage(begin);
    assert.ok(user < 3e6, `${user / 1000} ms`);
  }
});

test("30 seconds with a context model decode in 2 seconds", () => {
  const file = new DacFile(read("context_long.dac"), { contextModel });
  const begin = process.cpuUsage();
  const decoded = file.decodeAll();
  const { user, system } = process.cpuUsage(begin); // other processes don't count
  assert.ok(user + system < 2e6, `${(user + system) / 1000} ms for ${file.duration} s of sound`);
  check("context_long", file, decoded);
});
