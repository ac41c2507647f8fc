// Runs the networks and everything else that takes time.
import * as ort from "../runtime/ort.wasm.min.mjs";
import { ArrivingFile, ContextModel, encodeChunks, writeChunks } from "../reader/src/index.js";
import { Decoder, encode } from "./codec.js";
import { withoutPadding } from "./graph.js";
import { ArrivingLegacy, LegacyDecoder } from "./legacy.js";
import { gainOf } from "./loudness.js";
import { FAILED, choose, coarse, share } from "./order.js";
import { view } from "./view.js";

ort.env.wasm.wasmPaths = new URL("../runtime/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;

const folder = new URL("../model/", import.meta.url);
const MOST_CODED = 64; // codebooks that FORMAT.md allows with coding 1
const LEGACY = 0x93; // the first byte of files of descript-audio-codec
const networks = {};
let model;
let graph; // of the decoder: see `withoutPadding`; `unpadded` is a Blob, which takes no memory of the worker
let contextModel = null;
const incoming = new Map(); // files that arrive, by id: the one that is shown, and newer ones
let current = null; // the file that is decoded
let sound = null; // { header, chunks } of the sound that was coded last
let encoding = 0; // counts sounds, so that a newer one ends the encoding of an older one
let busy = Promise.resolve();
const pause = () => new Promise((resolve) => setTimeout(resolve));

/** Runs a network when no other one runs. */
function run(name, inputs) {
  const result = busy.then(async () => (await session(name)).run(inputs));
  busy = result.catch(() => {});
  return result;
}

async function fetched(name) {
  const response = await fetch(new URL(name, folder));
  if (!response.ok) throw new Error(`${name} is missing from the site`);
  return new Uint8Array(await response.arrayBuffer());
}

async function content(name) {
  if (name === "unpadded") return new Uint8Array(await graph.unpadded.arrayBuffer());
  const bytes = await fetched(`${name}.onnx`);
  if (name === "decoder_model") {
    graph = withoutPadding(bytes);
    graph.unpadded = new Blob([graph.unpadded]);
  }
  return bytes;
}

/** The session of encoder_model, decoder_model or unpadded; made once. */
function session(name) {
  networks[name] ??= content(name).then((bytes) => ort.InferenceSession.create(bytes));
  return networks[name];
}

async function load() {
  model = JSON.parse(new TextDecoder().decode(await fetched("model.json")));
  if (model.context) contextModel = new ContextModel(await fetched("context.safetensors"));
  await Promise.all([session("decoder_model"), session("encoder_model")]); // no network after this
  return { model };
}

/** Sound of codes [B, N, F]. */
async function decodeFrames(codes, codebooks, frames, padding = true) {
  const shape = [codes.length / (codebooks * frames), codebooks, frames];
  const tensor = new ort.Tensor("int64", BigInt64Array.from(codes, BigInt), shape);
  const { audio_values: audio } = await run(padding ? "decoder_model" : "unpadded", { audio_codes: tensor });
  return audio.data;
}

async function encodeFrames(sound) {
  const tensor = new ort.Tensor("float32", sound, [1, 1, sound.length]);
  const { audio_codes: codes } = await run("encoder_model", { input_values: tensor });
  return { codes: codes.data, codebooks: codes.dims[1], frames: codes.dims[2] };
}

/** Begins to decode a file. */
function open(id, file) {
  const decoder = file.inputDb ? legacyDecoder(id, file) : decoderOf(file);
  if (!decoder.length) throw new Error("This file holds no sound.");
  encoding++;
  current = { id, decoder, wanted: [], done: new Map(), kept: new Set(), next: 0, told: 0, idle: true };
  return current;
}

/** The decoder of a file of descript-audio-codec, which ends when another file is decoded. */
function legacyDecoder(id, file) {
  const network = async (...batch) => {
    await pause();
    if (current?.id !== id) throw new Error("another file came");
    return decodeFrames(...batch);
  };
  return new LegacyDecoder(file, model, graph, network, () => {
    if (current?.id === id) postMessage({ type: "share", id, done: share(current) });
  });
}

function decoderOf(file) {
  const { header } = file;
  if (header.fingerprint !== model.fingerprint)
    throw new Error(
      `This file was made by the model ${header.modelName}@${header.fingerprint}; this page has ${model.name}@${model.fingerprint} only.`,
    );
  if (header.contextModel !== null) {
    if (!contextModel) throw new Error("This file needs a context model, which this page does not have.");
    file.setContextModel(contextModel);
  }
  return new Decoder(file, model, decodeFrames);
}

/** Takes the next bytes of a file, or none at its end. */
function part({ id, bytes }) {
  if (!incoming.has(id)) {
    const arriving = bytes?.[0] === LEGACY ? new ArrivingLegacy() : new ArrivingFile();
    incoming.set(id, { arriving, job: null });
  }
  const one = incoming.get(id);
  const file = bytes ? one.arriving.push(bytes) : one.arriving.end();
  const isNew = !one.job;
  // A file whose header does not give its length is opened when all of it is there.
  if (isNew && !file?.complete && !(file?.nFrames && file.totalFrames)) return;
  const job = (one.job ??= open(id, file));
  for (const other of incoming.keys()) if (other < id) incoming.delete(other);
  const anew = job.decoder.update() || isNew;
  if (anew) for (const blocks of [job.done, job.kept]) blocks.clear();
  if (isNew || file.complete) postMessage({ type: "opened", id, info: { ...described(job), anew } });
  wake(job);
}

/** What the page is told of a file. */
function described(job) {
  const { file, blocks, blockFrames, hop, length } = job.decoder;
  const { header, duration, size, problems, complete, constant } = file;
  const info = { header, duration, size, problems, complete, constant, blocks, blockSamples: blockFrames * hop, length };
  return { ...info, done: share(job) };
}

function wake(job) {
  if (!job.idle) return;
  job.idle = false;
  sweep(job);
}

/** Decodes all blocks that have arrived. */
async function sweep(job) {
  const { decoder } = job;
  for (;;) {
    await pause();
    if (job !== current) return;
    const index = choose(job);
    if (index === undefined) {
      job.idle = true; // a message wakes it
      return;
    }
    const codebooks = coarse(job, index);
    const layers = codebooks ? 0 : decoder.layers(index); // 0: to be decoded once more
    const { frames } = decoder;
    try {
      const { start, channels, tails } = await decoder.block(index, codebooks);
      if (frames !== decoder.frames) continue; // the end of the file is another one now
      job.done.set(index, layers);
      job.kept.add(index);
      const shown = view(channels, start, decoder.length, model.sampleRate);
      const transfer = [...channels, ...tails, shown.peaks, shown.levels].map((array) => array.buffer);
      const problems = [...decoder.problems].slice(job.told);
      job.told += problems.length;
      postMessage({ type: "block", id: job.id, index, channels, tails, shown, done: share(job), problems }, transfer);
    } catch (error) {
      if (job !== current) return;
      job.done.set(index, FAILED);
      postMessage({ type: "failed", id: job.id, message: (job.failure = error.message) });
    }
  }
}

const actions = {
  load,
  /** Codes a sound, for `write`. Returns the bytes of each codebook. */
  encode: async ({ channels }) => {
    current = null;
    const gain = gainOf(channels, model.sampleRate);
    const louder = channels.map((x) => x.map((sample) => sample * 10 ** (gain / 20)));
    const mine = ++encoding;
    const report = (value) => {
      if (mine !== encoding) throw new Error("another sound came");
      postMessage({ type: "progress", share: value });
    };
    const { codes, frames } = await encode(louder, model, encodeFrames, (value) => report(0.9 * value));
    const { name: modelName, sampleRate: modelSampleRate, codebooks, context } = model;
    const header = { ...model, modelName, modelSampleRate, channels: channels.length, length: channels[0].length, gain };
    if (codebooks <= MOST_CODED) Object.assign(header, { coding: 1, contextModel: context });
    sound = { header, chunks: [] };
    const sizes = new Array(codebooks).fill(0);
    for (const chunk of encodeChunks(header, codes, header.coding ? contextModel : null)) {
      sound.chunks.push(chunk);
      chunk.planes.forEach(({ length }, n) => (sizes[Math.floor(n / channels.length)] += length));
      report(0.9 + (0.1 * (chunk.start + chunk.frames)) / frames);
      await pause();
    }
    return { sizes };
  },
  /** The file of the sound that was coded, with its first codebooks. */
  write: ({ codebooks }) => {
    const { header, chunks } = sound;
    return writeChunks({ ...header, codebooks, codebookSizes: header.codebookSizes.slice(0, codebooks) }, chunks);
  },
};

onmessage = async ({ data }) => {
  const { type, id, index, call } = data;
  try {
    if (type === "part") part(data);
    else if (call !== undefined) postMessage({ type: "reply", call, result: await actions[type](data) });
    else if (current?.id === id) {
      // "at" is the block that plays, "want" asks for it, and "forget" says that the page has dropped it.
      if (type === "forget") current.kept.delete(index);
      else if (type === "at") current.next = index;
      else if (current.done.get(index) === FAILED) postMessage({ type: "failed", id, message: current.failure });
      else current.wanted.push(index);
      wake(current);
    }
  } catch (error) {
    postMessage(call === undefined ? { type: "failed", id, message: error.message } : { type: "reply", call, error: error.message });
  }
};
