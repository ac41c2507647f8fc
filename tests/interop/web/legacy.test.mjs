// Files of descript-audio-codec: what test_legacy.py wrote to the folder CASES, and decoding with a network of this file.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { DacFile, DacFormatError, isLegacy, readLegacy } from "../../../dac_codec/interop/web/reader/src/index.js";
import { ArrivingLegacy, LegacyDecoder } from "../../../dac_codec/interop/web/page/legacy.js";
import { loudness } from "../../../dac_codec/interop/web/page/loudness.js";

const cases = JSON.parse(readFileSync(`${process.env.CASES}/cases.json`, "utf8")).map((one) => ({
  ...one,
  bytes: new Uint8Array(Buffer.from(one.file, "base64")),
}));

test("files are read as by the Python package, or refused in one sentence", () => {
  for (const { bytes, reason, expected } of cases) {
    const begin = process.cpuUsage();
    const what = Buffer.from(bytes.subarray(0, 600)).toString("latin1");
    if (expected === null)
      assert.throws(() => readLegacy(bytes), (error) => {
        assert.ok(error instanceof DacFormatError, `${error.stack}\n${what}`);
        assert.match(error.message, new RegExp(reason), what);
        assert.ok(error.message.length < 400, error.message);
        return true;
      }, what);
    else {
      const file = readLegacy(bytes);
      assert.ok(file.codes instanceof Uint16Array);
      assert.deepEqual({ ...file, codes: Array.from(file.codes) }, expected, what);
    }
    const { user } = process.cpuUsage(begin);
    assert.ok(user < 1e6, `${user / 1000} ms: ${what}`);
  }
  assert.throws(() => readLegacy("text"), DacFormatError);
});

test("files are recognized", () => {
  const [{ bytes }] = cases;
  assert.deepEqual([isLegacy(bytes), isLegacy(bytes.subarray(0, 5))], [true, false]);
  assert.throws(() => new DacFile(bytes), /file of descript-audio-codec, which readLegacy reads/);
  const arriving = new ArrivingLegacy();
  for (let at = 0; at < bytes.length; at += 100) assert.equal(arriving.push(bytes.slice(at, at + 100)), null);
  assert.deepEqual(arriving.end(), { complete: true, size: bytes.length, ...readLegacy(bytes) });
});

// A network in which each frame depends on 3 frames before and 2 after, and the last 5 samples are lost. Without padding it
// depends on no frame beyond the window, and gives 70 samples less on either side.
const model = { name: "tiny", sampleRate: 8000, hopLength: 40, codebooks: 2, codebookSize: 16, reference: true };
model.decoder = { before: 3, after: 2 };
const graph = { fewest: 6, short: 5 };
const runs = [];
async function network(codes, codebooks, frames, padding) {
  const count = codes.length / (codebooks * frames);
  runs.push({ count, frames });
  const parts = [];
  for (let w = 0; w < count; w++) {
    const sound = new Float32Array(frames * 40);
    for (let t = 0; t < frames; t++)
      for (let k = -3; k <= 2; k++)
        for (let i = 0; i < codebooks && t + k >= 0 && t + k < frames; i++)
          for (let n = 0; n < 40; n++)
            sound[t * 40 + n] += Math.sin(codes[(w * codebooks + i) * frames + t + k] + n * (k + 5)) / 20;
    parts.push(...(padding ? sound : sound.subarray(70, -70)));
  }
  return Float32Array.from(parts);
}

/** A file of 1500 frames. */
function fileOf(chunkLength, padding, changes = {}) {
  const codes = Uint16Array.from({ length: 2 * 2 * 1500 }, (_, n) => (n * n * 7 + n) % 16);
  const shape = { codes, channels: 2, codebooks: 2, frames: 1500, chunkLength, padding };
  return { ...shape, originalLength: 45000, inputDb: [-20, -33], sampleRate: 8000, dacVersion: "1.0.0", size: 9, ...changes };
}

/** The windows of a channel, each decoded as a whole, at the loudness of the file. */
async function wanted({ codes, chunkLength, padding, inputDb }, c) {
  const sound = [];
  for (let window = 0; window < 1500; window += chunkLength) {
    const end = Math.min(1500, window + chunkLength);
    const rows = [0, 1].flatMap((i) => [...codes.subarray((c * 2 + i) * 1500 + window, (c * 2 + i) * 1500 + end)]);
    sound.push(...(await network(rows, 2, end - window, padding)).slice(0, -5));
  }
  const gain = 10 ** ((inputDb[c] - loudness([Float32Array.from(sound)], 8000)) / 20);
  return Float32Array.from({ length: 45000 }, (_, n) => sound[n] * gain);
}

test("windows are decoded on their own, in batches and blocks", async () => {
  for (const [chunkLength, padding, most] of [
    [1500, true, 5],
    [1500, false, 5],
    [900, true, 4],
    [39, true, 5],
    [39, false, 5],
    [3, true, 12],
  ]) {
    const file = fileOf(chunkLength, padding);
    const shares = [];
    const decoder = new LegacyDecoder(file, model, graph, network, () => shares.push(decoder.done));
    assert.deepEqual([decoder.blocks, decoder.ready, decoder.update(), decoder.layers(0)], [3, 3, false, 1]);
    runs.length = 0;
    const blocks = [];
    for (const index of [2, 0, 1]) blocks[index] = await decoder.block(index);
    assert.ok(runs.length <= 2 * most, `${runs.length} runs`);
    assert.ok(runs.every(({ count, frames }) => count * frames <= 805));
    assert.equal(shares.length, runs.length);
    assert.ok(shares.every((share, n) => share > (shares[n - 1] ?? 0)) && Math.abs(shares.at(-1) - 0.9) < 1e-12);
    for (let c = 0; c < 2; c++) {
      const sound = await wanted(file, c);
      for (const { start, channels } of blocks) {
        const part = sound.subarray(start, start + 16000);
        assert.equal(channels[c].length, part.length);
        const largest = channels[c].reduce((sum, y, n) => Math.max(sum, Math.abs(y - part[n])), 0);
        assert.ok(largest < 1e-6, `${chunkLength}, ${padding}: ${largest}`);
      }
    }
  }
});

test("the length is that of the original at the model's rate", async () => {
  const decoder = new LegacyDecoder(fileOf(1500, true, { originalLength: 60040 }), model, graph, network);
  const { channels } = await decoder.block(decoder.blocks - 1);
  assert.deepEqual([decoder.length, channels[0].length], [60040, 60040 - 3 * 16000]);
  assert.ok(channels[0].subarray(-45).every((sample) => sample === 0)); // 5 are lost, 40 have no frame
  assert.notEqual(channels[0].at(-46), 0);
  const slow = new LegacyDecoder(fileOf(1500, true, { sampleRate: 4000, originalLength: 30000 }), model, graph, network);
  assert.deepEqual([slow.length, slow.file.duration], [60000, 7.5]);
  const hostile = new LegacyDecoder(fileOf(1500, true, { sampleRate: 1, originalLength: 87 }), model, graph, network);
  assert.deepEqual([hostile.length, hostile.file.duration], [60080, 87]);
});

test("files that the model can't have written are refused", async () => {
  const refused = (changes, reason, of = model) =>
    assert.throws(() => new LegacyDecoder(fileOf(1500, true, changes), of, graph, network), reason);
  refused({}, /has no models like tiny/, { ...model, reference: false });
  refused({}, /2 codebooks of 15 entries; tiny has 1 of 16/, { ...model, codebooks: 1 });
  refused({}, /2 codebooks of 15 entries; tiny has 2 of 8/, { ...model, codebookSize: 8 });
  refused({ channels: 33 }, /33 channels, more than 32/);
  refused({ originalLength: 60081 }, /claims 60081 samples, but its codes give 60000/);
  refused({ originalLength: 2 ** 63 }, /but its codes give 60000/);
  refused({ chunkLength: 1495, padding: false }, /a window of 5 frames; without padding it takes 6/);
  refused({ frames: 2 ** 26 }, /too long for this page/);
  const loud = new LegacyDecoder(fileOf(1500, true, { inputDb: [-20, 1e9] }), model, graph, network);
  await assert.rejects(loud.block(0), /a gain of 10{4}\d+ dB/);
  const short = new LegacyDecoder(fileOf(39, false, { originalLength: 60000 }), model, graph, network);
  await assert.rejects(short.block(0), /claims 60000 samples, but its codes give 54345/);
});
