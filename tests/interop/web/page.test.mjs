// What the page computes, without networks, against values that test_page_modules.py wrote to the folder CASES.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ArrivingFile, DacFile, write } from "../../../dac_codec/interop/web/reader/src/index.js";
import { Decoder, LowPass, encode } from "../../../dac_codec/interop/web/page/codec.js";
import { gainOf, loudness } from "../../../dac_codec/interop/web/page/loudness.js";
import { FAILED, choose, coarse, share } from "../../../dac_codec/interop/web/page/order.js";
import { Player } from "../../../dac_codec/interop/web/page/player.js";
import { COLUMNS, ROWS, view } from "../../../dac_codec/interop/web/page/view.js";

const folder = process.env.CASES;
const expected = JSON.parse(readFileSync(`${folder}/expected.json`, "utf8"));
const array = (name) => new Float32Array(new Uint8Array(readFileSync(`${folder}/${name}.f32`)).buffer);
const whole = array("sound");
const channels = [whole.subarray(0, whole.length / 2), whole.subarray(whole.length / 2)];

function closest(actual, wanted, tolerance) {
  assert.equal(actual.length, wanted.length);
  const largest = actual.reduce((most, y, n) => Math.max(most, Math.abs(y - wanted[n])), 0);
  assert.ok(largest <= tolerance, `${largest}`);
}

test("the low-pass is that of the Python package", () => {
  const filter = new LowPass(44100, 8000);
  const x = new Float32Array(channels[0].length + 2 * filter.reach);
  x.set(channels[0], filter.reach);
  closest(filter.apply(x), array("filtered"), 1e-6);
  assert.equal(new LowPass(44100, null).apply(x), x);
  assert.equal(new LowPass(44100, 21900).apply(x), x);
});

test("loudness and gain are those of the Python package", () => {
  assert.ok(Math.abs(loudness(channels, 44100) - expected.loudness) < 1e-4);
  assert.ok(Math.abs(gainOf(channels, 44100) - expected.gain) < 1e-4);
  const short = channels.map((x) => x.subarray(0, 9000));
  assert.ok(Math.abs(loudness(short, 44100) - expected.shortLoudness) < 1e-4);
  assert.equal(gainOf([new Float32Array(44100)], 44100), 0);
});

// A network in which each frame depends on 3 frames before and 2 after.
const model = { sampleRate: 8000, hopLength: 40, codebooks: 2, codebookSize: 16 };
model.encoder = { before: 1, after: 1 };
model.decoder = { before: 3, after: 2 };
async function decodeFrames(codes, codebooks, frames) {
  const sound = new Float32Array(frames * model.hopLength);
  for (let t = 0; t < frames; t++)
    for (let k = -3; k <= 2; k++)
      for (let i = 0; i < codebooks && t + k >= 0 && t + k < frames; i++)
        for (let n = 0; n < model.hopLength; n++)
          sound[t * model.hopLength + n] += Math.sin(codes[i * frames + t + k] + n * (k + 5)) / 20;
  return sound;
}

const frames = 1500;
const header = { fingerprint: "0011223344556677", ...model, modelSampleRate: 8000, channels: 2, length: 59970, gain: 6 };
const codes = Int32Array.from({ length: 2 * 2 * frames }, (_, n) => (n * n * 7 + n) % 16);
const data = write(header, codes);

test("blocks are parts of the whole", async () => {
  const decoder = new Decoder(new DacFile(data), model, decodeFrames);
  assert.equal(decoder.blocks, 4);
  assert.equal(decoder.length, 59970);
  for (let c = 0; c < 2; c++) {
    const all = await decodeFrames(codes.subarray(c * 2 * frames, (c + 1) * 2 * frames), 2, frames);
    const wanted = all.subarray(0, 59970).map((sample) => sample * 10 ** (-6 / 20));
    for (const index of [2, 0, 3, 1]) {
      const block = await decoder.block(index);
      const end = block.start + block.channels[c].length;
      closest(block.channels[c], wanted.subarray(block.start, end), 1e-6);
      closest(block.tails[c], wanted.subarray(end, end + 80), 1e-6);
    }
  }
});

test("blocks of a file that arrives are those of the whole file", async () => {
  const whole = new Decoder(new DacFile(data), model, decodeFrames);
  const arriving = new ArrivingFile();
  const decoder = new Decoder(arriving.push(data.subarray(0, 100)), model, decodeFrames);
  assert.deepEqual([decoder.ready, decoder.blocks, decoder.length], [0, 4, 59970]);
  const found = [];
  for (let at = 100; at < data.length; at += 100) {
    arriving.push(data.subarray(at, at + 100));
    assert.equal(decoder.update(), false);
    while (found.length < decoder.ready) found.push(await decoder.block(found.length));
    if (arriving.file.nFrames < 1500) assert.ok(decoder.ready < 4);
  }
  assert.equal(arriving.end(), decoder.file);
  assert.equal(decoder.update(), false);
  for (const index of [0, 1, 2, 3]) assert.deepEqual(found[index], await whole.block(index));
});

test("of a file whose end is missing, the blocks that are there are decoded anew", async () => {
  const part = data.subarray(0, Math.floor(0.96 * data.length));
  const arriving = new ArrivingFile();
  const decoder = new Decoder(arriving.push(part), model, decodeFrames);
  assert.deepEqual([decoder.ready, decoder.blocks, decoder.length], [3, 4, 59970]);
  arriving.end();
  assert.equal(decoder.update(), true);
  const whole = new Decoder(new DacFile(part), model, decodeFrames);
  assert.deepEqual([decoder.blocks, decoder.length], [whole.blocks, whole.length]);
  for (const index of [2, 3]) assert.deepEqual(await decoder.block(index), await whole.block(index));
});

test("a block is decoded with the layers that have come", async () => {
  const layered = new Uint8Array(readFileSync(`${folder}/layers.dac`)); // ordered by layers
  const all = new DacFile(layered).decodeAll().codes;
  const coarse = all.map((code, n) => (n < frames ? code : -1));
  const arriving = new ArrivingFile();
  const decoder = new Decoder(arriving.push(layered.subarray(0, 100)), model, decodeFrames);
  const found = new Map(); // the first block by its number of layers
  for (let at = 100; at < layered.length; at += 100) {
    arriving.push(layered.subarray(at, at + 100));
    decoder.update();
    const layers = decoder.ready > 0 ? decoder.layers(0) : 0;
    if (!found.has(layers)) found.set(layers, layers && (await decoder.block(0)).channels[0]);
  }
  assert.deepEqual([...found.keys()], [0, 1, 2]);
  closest(found.get(1), (await decodeFrames(coarse, 2, frames)).subarray(0, 400 * 40), 1e-6);
  closest(found.get(2), (await decodeFrames(all, 2, frames)).subarray(0, 400 * 40), 1e-6);
  assert.equal(decoder.problems.size, 0);
});

test("a block is decoded with the first codebooks, then with all", async () => {
  const layered = new DacFile(new Uint8Array(readFileSync(`${folder}/layers.dac`)));
  const all = layered.decodeAll().codes;
  const decoder = new Decoder(layered, model, decodeFrames);
  const coarse = all.map((code, n) => (n < frames ? code : -1));
  closest((await decoder.block(0, 1)).channels[0], (await decodeFrames(coarse, 2, frames)).subarray(0, 400 * 40), 1e-6);
  closest((await decoder.block(0)).channels[0], (await decodeFrames(all, 2, frames)).subarray(0, 400 * 40), 1e-6);
});

test("a file that does not fit the model is refused", () => {
  const file = new DacFile(data);
  for (const other of [{ hopLength: 80 }, { sampleRate: 16000 }, { codebookSize: 32 }, { codebooks: 1 }])
    assert.throws(() => new Decoder(file, { ...model, ...other }, decodeFrames), /does not fit its model/);
  const many = write({ ...header, channels: 40, length: 40, codebooks: 1 }, new Int32Array(40));
  assert.throws(() => new Decoder(new DacFile(many), model, decodeFrames), /40 channels/);
});

test("missing frames are silent", async () => {
  const damaged = data.slice();
  const file = new DacFile(data);
  damaged[Math.floor(data.length / 2)] ^= 1;
  const decoder = new Decoder(new DacFile(damaged), model, decodeFrames);
  const [gap] = decoder.file.gaps;
  assert.equal(gap.frames, file.chunks[1].frames);
  const { start, channels: sounds } = await decoder.block(Math.floor(gap.start / decoder.blockFrames) + 1);
  const from = Math.max(0, gap.start * 40 - start);
  assert.ok(sounds[0].subarray(from, from + 1000).every((sample) => sample === 0));
});

/** A player in an audio context without sound; `played` gets [samples of channel 1, node, when] of each node. */
function playerOf(blocks, played) {
  globalThis.AudioContext = class {
    currentTime = 0;
    resume() {}
    createBuffer(channels, length) {
      const data = Array.from({ length: channels }, () => new Float32Array(length));
      return { data, copyToChannel: (x, c) => data[c].set(x) };
    }
  };
  globalThis.AudioBufferSourceNode = class {
    constructor(_, { buffer }) {
      this.samples = buffer.data[0];
    }
    connect() {}
    start(when) {
      played.push([this.samples, this, when]);
    }
    stop(when) {
      this.end = when;
    }
  };
  globalThis.setInterval = () => {};
  const player = new Player((index) => blocks[index], () => {});
  player.open(1000, 200, 100);
  return player;
}

const blockOf = (v) => ({ channels: [new Float32Array(100).fill(v)], tails: [new Float32Array(10).fill(v)] });

test("a block that differs is faded in, and one after a seek is not", () => {
  const played = [];
  const player = playerOf([0, 1].map(blockOf), played);
  player.play();
  player.seek(0.15);
  const [first, second, third] = played.map(([x]) => x);
  assert.ok(first.every((y) => y === 0));
  closest(second, Float32Array.from({ length: 100 }, (_, n) => Math.min(1, n / 10)), 1e-6);
  closest(third, new Float32Array(50).fill(1), 0);
});

test("a finer block replaces what is scheduled of a coarser one", () => {
  const played = [];
  const blocks = [2, 3].map(blockOf);
  const [coarse, next] = blocks;
  const player = playerOf(blocks, played);
  player.play();
  player.context.currentTime = 0.05 + 0.02; // 20 samples have been heard
  blocks[0] = blockOf(1);
  player.arrived(0, coarse);
  const [, , [x, , when], [y, , after]] = played; // from 50 ms later on
  closest(x, Float32Array.from({ length: 30 }, (_, n) => 2 - Math.min(1, n / 10)), 1e-6);
  assert.ok(Math.abs(when - 0.12) < 1e-9 && Math.abs(after - 0.15) < 1e-9);
  assert.deepEqual(played.map(([, node]) => node.end), [when, when, undefined, undefined]);
  closest(y, Float32Array.from({ length: 100 }, (_, n) => 1 + 2 * Math.min(1, n / 10)), 1e-6);
  blocks[1] = blockOf(5);
  player.arrived(1, next); // before it is heard
  closest(played[4][0], Float32Array.from({ length: 100 }, (_, n) => 1 + 4 * Math.min(1, n / 10)), 1e-6);
  player.context.currentTime = 0.24;
  player.arrived(1, blocks[1]); // too late
  assert.equal(played.length, 5);
});

test("what plays is decoded first, and better while it plays", () => {
  const decoder = { ready: 6, blocks: 6, layers: () => 3, file: { header: { layers: [3, 3, 3], codebooks: 9 } } };
  const job = { decoder, wanted: [], done: new Map(), kept: new Set(), next: 2 };
  const step = (...wanted) => {
    job.wanted = wanted;
    const index = choose(job);
    if (index === undefined) return index;
    const first = coarse(job, index);
    job.done.set(index, first ? 0 : 3);
    job.kept.add(index);
    return first ? [index, first] : index;
  };
  const order = [step(0, 2), step(3), ...Array.from({ length: 7 }, () => step())]; // the newest request, then one ahead
  assert.deepEqual(order, [[2, 3], [3, 3], 2, 3, 4, 5, 0, 1, undefined]);
  assert.equal(share(job), 1);
  job.kept.delete(4);
  assert.equal(step(), undefined);
  assert.equal(step(4), 4);
  job.kept.delete(4);
  job.done.set(4, FAILED);
  assert.equal(step(4), undefined);
});

test("encoding in blocks is that of the whole", async () => {
  // A code is the sum of a frame and its neighbours, in eighths.
  const sums = (x) => Array.from({ length: x.length / 40 }, (_, t) => x.subarray(40 * t, 40 * t + 40).reduce((a, b) => a + b, 0));
  const network = async (x) => {
    const s = sums(x);
    const found = s.map((v, t) => BigInt(Math.floor(8 * (v + (s[t - 1] ?? 0) + (s[t + 1] ?? 0)))));
    return { codes: BigInt64Array.from([...found, ...found]), codebooks: 2, frames: s.length };
  };
  const x = Float32Array.from({ length: 40010 }, (_, n) => ((n * 37) % 64) / 64);
  const shares = [];
  const found = await encode([x], model, network, (share) => shares.push(share));
  const padded = new Float32Array(found.frames * 40);
  padded.set(x);
  assert.deepEqual([...found.codes], [...(await network(padded)).codes].map(Number));
  assert.equal(found.frames, 1001);
  assert.equal(shares.at(-1), 1);
});

test("columns of all blocks make up the view", () => {
  const length = channels[0].length;
  let next = 0;
  for (let start = 0; start < length; start += 30000) {
    const block = channels.map((x) => x.subarray(start, start + 30000));
    const { first, peaks, levels } = view(block, start, length, 44100);
    assert.equal(first, next);
    assert.equal(levels.length, (peaks.length / 2) * ROWS);
    next += peaks.length / 2;
  }
  assert.equal(next, COLUMNS);
});
