import { write } from "../reader/src/index.js";
import { Scope } from "./draw.js";
import { Player } from "./player.js";
import { Recorder, decodeSound } from "./sound.js";

const $ = (id) => document.getElementById(id);
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const scope = new Scope($("wave"), $("spectrogram"));
const decoded = new Map(); // blocks of the file
const player = new Player(
  (index) => (version === "original" ? originalBlock(index) : decoded.get(index)),
  (index) => worker.postMessage({ type: "want", id: shown.id, index }),
);
const calls = new Map();
let nCalls = 0;
const KEPT_SAMPLES = 60e6; // decoded sound in memory, in samples of all channels

let session = 0; // counts the files that were to be shown
let model;
let shown = null; // { id, name, info, url } of the file
let source = null; // { channels, codes, frames, gain } of a sound that was compressed here
let recorder = null;
let version = "compressed";

/** Asks the worker. */
function call(type, message = {}) {
  return new Promise((resolve, reject) => {
    const id = ++nCalls;
    calls.set(id, { resolve, reject });
    worker.postMessage({ type, call: id, ...message });
  });
}

worker.onmessage = ({ data }) => {
  if (data.type === "reply") {
    const { resolve, reject } = calls.get(data.call);
    calls.delete(data.call);
    if (data.error === undefined) resolve(data.result);
    else reject(new Error(data.error));
  } else if (data.type === "progress") progress(data.share);
  else if (data.id === shown?.id) {
    if (data.type === "failed") fail(data.message);
    else block(data);
  }
};
worker.onerror = () => fail("The page could not be started: its worker failed. Is the site complete?");

function say(text, error = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", error);
}

function fail(message) {
  say(message, true);
  progress(null);
}

/** A share from 0 to 1, undefined for unknown, null for none. */
function progress(share) {
  $("progress").classList.toggle("done", share === null);
  if (share === undefined) $("progress").removeAttribute("value");
  else $("progress").value = share ?? 1;
}

function clock(seconds) {
  const whole = Math.floor(seconds + 1e-6);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function size(bytes) {
  return bytes < 1000 ? `${bytes} bytes` : bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

function rate(bits) {
  return `${(bits / 1000).toFixed(bits < 9950 ? 2 : 1)} kbit/s`;
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    fail(error.message);
  }
}

/** Replaces the file that is shown. The action takes the number of its session; when a newer one has begun, it ends. */
async function replace(action) {
  const id = ++session;
  try {
    await action(id);
  } catch (error) {
    if (id === session) fail(error.message);
  }
}

/** Takes a file that was dropped or chosen. */
async function take(file, id) {
  say(`Reading ${file.name}…`);
  const bytes = await file.arrayBuffer();
  const head = new Uint8Array(bytes, 0, Math.min(4, bytes.byteLength));
  if (String.fromCharCode(...head.subarray(1)) === "DAC" && head[0] === 0x8a) {
    if (id === session) source = null;
    await open(new Uint8Array(bytes), file.name, id);
  } else await compress(await decodeSound(bytes, model.sampleRate), file.name, id);
}

/** Encodes a sound, and opens the result. */
async function compress(channels, name, id) {
  if (id !== session) return;
  if (!channels[0].length) throw new Error("This sound is empty.");
  player.pause();
  $("result").hidden = true;
  say(`Compressing ${name}…`);
  progress(0);
  const encoded = await call("encode", { channels });
  if (id !== session) return;
  source = { name, channels, ...encoded };
  await openSource(id);
}

/** Writes the codes of the source at the chosen bitrate, and opens the file. `again` is as in `open`. */
async function openSource(id, again = false) {
  const { channels, codes, frames, gain, name } = source;
  const n = Number($("rate").value);
  const { codebooks: N, fingerprint, name: modelName, sampleRate: modelSampleRate, hopLength, codebookSize } = model;
  const kept = new Int32Array(channels.length * n * frames);
  for (let c = 0; c < channels.length; c++) kept.set(codes.subarray(c * N * frames, (c * N + n) * frames), c * n * frames);
  const header = { fingerprint, modelName, sampleRate: modelSampleRate, channels: channels.length, length: channels[0].length };
  const codebookSizes = model.codebookSizes.slice(0, n);
  Object.assign(header, { gain, modelSampleRate, hopLength, codebooks: n, codebookSize, codebookSizes });
  await open(write(header, kept), `${name.replace(/\.[^.]*$/, "")}.dac`, id, again);
}

/** Opens a .dac file and begins to decode it. With `again`, it is the same sound: position and playing are kept. */
async function open(bytes, name, id, again = false) {
  if (id !== session) return;
  const time = again && shown ? player.time : 0;
  const playing = again && player.playing;
  player.pause();
  const info = await call("open", { id, bytes });
  if (id !== session) return;
  if (shown) URL.revokeObjectURL(shown.url);
  shown = { id, name, info, url: URL.createObjectURL(new Blob([bytes], { type: "audio/x-dac" })) };
  scope.clear();
  decoded.clear();
  player.open(model.sampleRate, info.length, info.blockSamples);
  setVersion("compressed");
  describe(info, name);
  $("download").href = shown.url;
  $("download").download = name;
  $("wav").disabled = true;
  $("seek").max = info.length / model.sampleRate;
  if (time) player.seek(Math.min(time, info.duration));
  if (playing) player.play();
  say("Decoding…");
  progress(0);
}

function describe(info, name) {
  const { header, duration } = info;
  const seconds = Math.max(duration, 1e-9);
  const of = header.coding === 0 ? `${header.codebooks} of ${model.codebooks}` : `up to ${header.codebooks}, varying`;
  const facts = {
    Duration: duration < 60 ? `${duration.toFixed(2)} s` : clock(duration),
    Size: size(info.size),
    Bitrate: rate((8 * info.size) / seconds),
    Channels: ["mono", "stereo"][header.channels - 1] ?? header.channels,
    "Sample rate": `${header.sampleRate / 1000} kHz`,
    Codebooks: of,
    "Band levels": header.levels ? "yes" : "no",
    "From 16 bits": `${((2 * header.channels * header.sampleRate * seconds) / info.size).toFixed(0)} : 1`,
  };
  $("facts").replaceChildren(
    ...Object.entries(facts).map(([key, value]) => {
      const group = document.createElement("div");
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = key;
      dd.textContent = value;
      group.append(dt, dd);
      return group;
    }),
  );
  $("name").textContent = name;
  $("problem-list").replaceChildren();
  $("problems").hidden = true;
  addProblems(info.problems);
  $("rate-row").hidden = $("versions").hidden = source === null;
  $("result").hidden = false;
}

function addProblems(texts) {
  if (!texts.length) return;
  $("problems").hidden = false;
  for (const text of texts.slice(0, 100)) {
    const item = document.createElement("li");
    item.textContent = text;
    $("problem-list").append(item);
  }
}

/** A block of decoded sound. */
function block({ index, channels, shown: columns, done, problems }) {
  scope.add(columns);
  addProblems(problems);
  decoded.set(index, channels);
  player.arrived();
  const most = KEPT_SAMPLES / (channels.length * shown.info.blockSamples);
  if (decoded.size > most) forget();
  if (done < 1) {
    progress(done);
    say(`Decoding: ${Math.round(100 * done)}%`);
  } else {
    progress(null);
    say("Decoded.");
    $("wav").disabled = decoded.size < shown.info.blocks;
  }
}

/** Drops the block that is farthest from the position. */
function forget() {
  const here = (player.time * model.sampleRate) / shown.info.blockSamples;
  let farthest = here;
  for (const index of decoded.keys()) if (Math.abs(index - here) > Math.abs(farthest - here)) farthest = index;
  decoded.delete(farthest);
}

/** Plays the compressed sound or the original, from the same place on. */
function setVersion(name) {
  const { time } = player;
  version = name;
  document.querySelector(`input[name=version][value=${name}]`).checked = true;
  player.seek(time);
}

/** A block of the sound that was compressed here. */
function originalBlock(index) {
  const { blockSamples } = player;
  return source.channels.map((x) => x.subarray(index * blockSamples, (index + 1) * blockSamples));
}

/** The decoded sound as a wav file of 16 bits. */
function wav() {
  const { blocks, length } = shown.info;
  const C = shown.info.header.channels;
  const view = new DataView(new ArrayBuffer(44 + 2 * C * length));
  const text = (at, value) => [...value].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  const r = model.sampleRate;
  text(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  text(8, "WAVEfmt ");
  [[16, 16, 4], [20, 1, 2], [22, C, 2], [24, r, 4], [28, 2 * C * r, 4], [32, 2 * C, 2], [34, 16, 2]].forEach(([at, value, n]) =>
    n === 2 ? view.setUint16(at, value, true) : view.setUint32(at, value, true),
  );
  text(36, "data");
  view.setUint32(40, 2 * C * length, true);
  let at = 44;
  for (let b = 0; b < blocks; b++) {
    const channels = decoded.get(b);
    for (let n = 0; n < channels[0].length; n++)
      for (const x of channels) {
        view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(32768 * x[n]))), true);
        at += 2;
      }
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([view], { type: "audio/wav" }));
  link.download = shown.name.replace(/\.dac$/, "") + ".wav";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function record() {
  if (recorder) {
    const ended = recorder;
    recorder = null;
    recording(false);
    const { sampleRate } = model;
    await replace(async (id) => compress(await ended.stop(sampleRate), "recording", id));
    return;
  }
  player.pause();
  const starting = new Recorder();
  await starting.start();
  recorder = starting;
  recording(true);
  say("Recording.");
}

function recording(on) {
  $("record").setAttribute("aria-pressed", String(on));
  $("record-text").textContent = on ? "Stop recording" : "Record the microphone";
  $("file").disabled = on;
}

function showRate() {
  const n = Number($("rate").value);
  const bits = model.codebookSizes.slice(0, n).reduce((sum, size) => sum + Math.ceil(Math.log2(size)), 0);
  $("rate-text").textContent = `${rate((bits * model.sampleRate) / model.hopLength)} per channel`;
}

function tick() {
  if (shown) {
    const duration = shown.info.length / model.sampleRate;
    const time = player.time;
    $("line").style.left = `${(100 * time) / duration}%`;
    $("seek").value = time;
    $("time").textContent = `${clock(time)} / ${clock(duration)}`;
    $("seek").setAttribute("aria-valuetext", `${clock(time)} of ${clock(duration)}`);
  }
  requestAnimationFrame(tick);
}

player.onchange = () => ($("play").textContent = player.playing ? "Pause" : "Play");
const toggle = () => (player.playing ? player.pause() : player.play());
$("play").onclick = toggle;
$("seek").oninput = () => player.seek(Number($("seek").value));
$("wav").onclick = wav;
$("record").onclick = () => attempt(record);
$("file").onchange = () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) replace((id) => take(file, id));
};
$("rate").oninput = showRate;
$("rate").onchange = () => replace((id) => openSource(id, true));
document.querySelectorAll("input[name=version]").forEach((input) => (input.onchange = () => setVersion(input.value)));
$("seek").onkeydown = (event) => {
  const seconds = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
  if (seconds === undefined) return;
  event.preventDefault();
  player.seek(player.time + seconds);
};
document.addEventListener("keydown", (event) => {
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
  if (event.key !== " " || !plain || !shown || /^(BUTTON|A|SUMMARY)$/.test(event.target.tagName)) return;
  if (event.target.type === "radio" || event.target.type === "file") return;
  event.preventDefault();
  toggle();
});
for (const type of ["dragover", "dragleave", "drop"])
  document.addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    const [file] = type === "drop" ? event.dataTransfer.files : [];
    if (file && model && !recorder) replace((id) => take(file, id));
  });

$("file").disabled = true;
attempt(async () => {
  progress(undefined);
  ({ model } = await call("load"));
  $("model").textContent = model.name;
  $("rate").max = model.codebooks;
  $("rate").value = Math.ceil((2 * model.codebooks) / 3);
  showRate();
  $("file").disabled = $("record").disabled = false;
  progress(null);
  say("Ready.");
  requestAnimationFrame(tick);
});
