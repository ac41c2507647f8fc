// Runs the networks and everything else that takes time.
import * as ort from "../runtime/ort.wasm.min.mjs";
import { ContextModel, DacFile } from "../reader/src/index.js";
import { Decoder, encode } from "./codec.js";
import { gainOf } from "./loudness.js";
import { view } from "./view.js";

ort.env.wasm.wasmPaths = new URL("../runtime/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;

const folder = new URL("../model/", import.meta.url);
const networks = {};
let model;
let contextModel = null;
let current = null; // the file that is decoded
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

/** The session of encoder_model or decoder_model; fetched once. */
function session(name) {
  networks[name] ??= fetched(`${name}.onnx`).then((bytes) => ort.InferenceSession.create(bytes));
  return networks[name];
}

async function load() {
  model = JSON.parse(new TextDecoder().decode(await fetched("model.json")));
  if (model.context) contextModel = new ContextModel(await fetched("context.safetensors"));
  await Promise.all([session("decoder_model"), session("encoder_model")]); // no network after this
  return { model };
}

async function decodeFrames(codes, codebooks, frames) {
  const tensor = new ort.Tensor("int64", BigInt64Array.from(codes, BigInt), [1, codebooks, frames]);
  const { audio_values: audio } = await run("decoder_model", { audio_codes: tensor });
  return audio.data;
}

async function encodeFrames(sound) {
  const tensor = new ort.Tensor("float32", sound, [1, 1, sound.length]);
  const { audio_codes: codes } = await run("encoder_model", { input_values: tensor });
  return { codes: codes.data, codebooks: codes.dims[1], frames: codes.dims[2] };
}

function open(id, bytes) {
  const file = new DacFile(bytes);
  const { header } = file;
  if (header.fingerprint !== model.fingerprint)
    throw new Error(
      `This file was made by the model ${header.modelName}@${header.fingerprint}; this page has ${model.name}@${model.fingerprint} only.`,
    );
  if (header.contextModel !== null) {
    if (!contextModel) throw new Error("This file needs a context model, which this page does not have.");
    file.setContextModel(contextModel);
  }
  if (file.nFrames === 0) throw new Error("This file holds no sound.");
  const decoder = new Decoder(file, model, decodeFrames);
  const { blocks, blockFrames, hop, length } = decoder;
  encoding++;
  current = { id, decoder, wanted: [], done: new Set(), next: 0, told: 0 };
  sweep(current);
  const { duration, size, problems } = file;
  return { header, duration, size, problems, blocks, blockSamples: blockFrames * hop, length };
}

/** Decodes all blocks, those that are wanted first. */
async function sweep(job) {
  const { decoder } = job;
  try {
    for (;;) {
      await pause();
      if (job !== current) return;
      let index = job.wanted.shift();
      if (index === undefined) {
        for (let tried = 0; job.done.has(job.next) && tried < decoder.blocks; tried++) job.next = (job.next + 1) % decoder.blocks;
        index = job.next;
        if (job.done.has(index)) {
          job.idle = true; // a message wakes it
          return;
        }
      }
      const { start, channels } = await decoder.block(index);
      job.done.add(index);
      const shown = view(channels, start, decoder.length, model.sampleRate);
      const transfer = [...channels, shown.peaks, shown.levels].map((array) => array.buffer);
      const done = job.done.size / decoder.blocks;
      const problems = [...decoder.problems].slice(job.told);
      job.told += problems.length;
      postMessage({ type: "block", id: job.id, index, channels, shown, done, problems }, transfer);
    }
  } catch (error) {
    postMessage({ type: "failed", id: job.id, message: error.message });
  }
}

const actions = {
  load,
  open: ({ id, bytes }) => open(id, bytes),
  encode: async ({ channels }) => {
    current = null;
    const gain = gainOf(channels, model.sampleRate);
    const louder = channels.map((x) => x.map((sample) => sample * 10 ** (gain / 20)));
    const mine = ++encoding;
    const share = (value) => {
      if (mine !== encoding) throw new Error("another sound came");
      postMessage({ type: "progress", share: value });
    };
    return { gain, ...(await encode(louder, model, encodeFrames, share)) };
  },
};

onmessage = async ({ data }) => {
  if (data.type === "want") {
    if (!current || current.id !== data.id) return;
    if (!current.wanted.includes(data.index)) current.wanted.push(data.index);
    current.next = data.index;
    if (current.idle) {
      current.idle = false;
      sweep(current);
    }
    return;
  }
  try {
    const result = await actions[data.type](data);
    postMessage({ type: "reply", call: data.call, result });
  } catch (error) {
    postMessage({ type: "reply", call: data.call, error: error.message });
  }
};
