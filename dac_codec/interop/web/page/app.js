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
const FIRST_BYTES = [0x8a, 0x93]; // of .dac files and of those of descript-audio-codec
const KEPT_SAMPLES = 60e6; // decoded sound in memory, in samples of all channels

let session = 0; // counts the files that were to be shown
let model;
let coming = null; // the newest file whose bytes go to the worker
let shown = null; // { id, file, info, done, url }; url when all of the file is there
let source = null; // { name, channels, sizes } of a sound that was compressed here; sizes are bytes of each codebook
let recorder = null;
let early = null; // a file that was dropped while the model was loaded
let frame; // the request of the frame in which the position is shown next
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
  else if (data.type === "failed" && [session, shown?.id].includes(data.id)) {
    if (data.id === session) session++; // no more of it is loaded
    fail(data.message);
    if (player.waiting) player.pause();
  } else if (data.type === "opened" && [session, shown?.id].includes(data.id)) opened(data.id, data.info);
  else if (data.type === "block" && data.id === shown?.id) block(data);
  else if (data.type === "share" && data.id === shown?.id) {
    shown.done = data.done;
    report();
  }
};
worker.onerror = () => fail("The page could not be started: its worker failed. Is the site complete?");

function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

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

/** The bytes of a file that was dropped or chosen. */
async function* contentOf(file) {
  yield new Uint8Array(await file.arrayBuffer());
}

/** The bytes of a response as they come. */
async function* partsOf({ body }) {
  const reader = body.getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Opens a file that was dropped or chosen. */
function openFile(file) {
  replace((id) => take(file.name, contentOf(file), file.size, id));
}

/** Opens a link to a file on this site. */
async function follow(link, id) {
  const url = new URL(link, document.baseURI);
  if (url.origin !== location.origin) throw new Error("This page opens files of its own site only.");
  say(`Loading ${link}…`);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${link} can't be loaded: ${response.status} ${response.statusText}`);
  const { headers } = response;
  const total = headers.has("Content-Encoding") ? 0 : Number(headers.get("Content-Length"));
  await take(decodeURIComponent(url.pathname.split("/").pop()), partsOf(response), total, id);
}

/**
 * Takes a file while it arrives. It ends when another one is shown.
 * @param {AsyncIterable<Uint8Array>} content
 * @param {number} total its bytes; 0 if that is not known
 */
async function take(name, content, total, id) {
  const file = { id, name, total, parts: [], loaded: 0, source: null, again: false };
  const isWanted = () => id === session || id === shown?.id;
  const isDac = () => file.parts.length > 0 && FIRST_BYTES.includes(file.parts[0][0]);
  say(`Reading ${name}…`);
  try {
    for await (const bytes of content) {
      if (!isWanted()) return;
      if (!bytes.length) continue;
      file.parts.push(bytes);
      file.loaded += bytes.length;
      if (isDac()) feed(file, bytes);
    }
  } catch (error) {
    if (!isDac()) throw error; // else the part that has arrived is played
  }
  if (!isWanted()) return;
  if (isDac()) feed(file);
  else await compress(await decodeSound(await new Blob(file.parts).arrayBuffer(), model.sampleRate), name, id);
}

/** Hands the next bytes of a file to the worker, or none at its end. */
function feed(file, bytes) {
  if (file.id === session) coming = file;
  worker.postMessage({ type: "part", id: file.id, bytes });
  if (shown?.id === file.id) report();
}

/** Encodes a sound, and opens the result. */
async function compress(channels, name, id) {
  if (id !== session) return;
  if (!channels[0].length) throw new Error("This sound is empty.");
  player.pause();
  $("result").hidden = true;
  say(`Compressing ${name}…`);
  progress(0);
  const { sizes } = await call("encode", { channels });
  if (id !== session) return;
  await openSource({ name: `${name.replace(/\.[^.]*$/, "")}.dac`, channels, sizes }, id);
}

/** Opens the file of a sound that was encoded, at the chosen bitrate. With `again`, position and playing are kept. */
async function openSource(sound, id, again = false) {
  const bytes = await call("write", { codebooks: Number($("rate").value) });
  if (id !== session) return;
  const file = { id, name: sound.name, total: bytes.length, parts: [bytes], loaded: bytes.length, source: sound, again };
  feed(file, bytes);
  feed(file);
}

/** Shows a file when it has begun to arrive, and what is known of it at its end. */
function opened(id, info) {
  if (info.anew) {
    scope.clear();
    decoded.clear();
  }
  if (shown?.id !== id) {
    const time = coming.again && shown ? player.time : 0;
    const playing = coming.again && player.playing;
    if (shown) URL.revokeObjectURL(shown.url);
    shown = { id, file: coming, info };
    source = coming.source;
    player.open(model.sampleRate, info.length, info.blockSamples);
    setVersion("compressed");
    if (time) player.seek(Math.min(time, info.duration));
    if (playing) player.play();
    showRate();
  }
  player.length = info.length;
  Object.assign(shown, { info, done: info.done });
  describe();
  $("download").hidden = !info.complete;
  if (info.complete) {
    shown.url = URL.createObjectURL(new Blob(shown.file.parts, { type: "audio/x-dac" }));
    $("download").href = shown.url;
    $("download").download = shown.file.name;
  }
  $("seek").max = info.length / model.sampleRate;
  report();
  tick();
}

/** Shows the progress of loading and decoding. */
function report() {
  const { info, done, file } = shown;
  const { total, loaded } = file;
  const share = info.complete ? done : total ? loaded / total : undefined;
  const percent = share === undefined ? size(loaded) : `${Math.round(100 * share)}%`;
  const ended = info.complete && done === 1;
  progress(ended ? null : share);
  if (ended) say("Decoded.");
  else if (!$("status").classList.contains("error")) say(`${info.complete ? "Decoding" : "Loading"}: ${percent}`); // of another file
  $("wav").disabled = !ended || decoded.size < info.blocks;
}

function describe() {
  const { info, file } = shown;
  const { header, duration } = info;
  const seconds = Math.max(duration, 1e-9);
  const bytes = info.complete ? info.size : file.total || NaN;
  const known = (text) => (bytes ? text : "not known yet");
  const codebooks = info.constant ? `${header.codebooks} of ${model.codebooks}` : `up to ${header.codebooks}, varying`;
  const facts = {
    Duration: duration < 60 ? `${duration.toFixed(2)} s` : clock(duration),
    Size: known(size(bytes)),
    Bitrate: known(rate((8 * bytes) / seconds)),
    Channels: ["mono", "stereo"][header.channels - 1] ?? header.channels,
    "Sample rate": `${header.sampleRate / 1000} kHz`,
    Codebooks: codebooks,
    "Band levels": header.levels ? "yes" : "no",
    "From 16 bits": known(`${((2 * header.channels * header.sampleRate * seconds) / bytes).toFixed(0)} : 1`),
  };
  $("facts").replaceChildren(
    ...Object.entries(facts).map(([key, value]) => {
      const group = document.createElement("div");
      group.append(element("dt", key), element("dd", value));
      return group;
    }),
  );
  $("name").textContent = file.name;
  $("problem-list").replaceChildren();
  $("problems").hidden = true;
  addProblems(info.problems);
  $("rate-row").hidden = $("versions").hidden = source === null;
  $("result").hidden = false;
}

function addProblems(texts) {
  if (!texts.length) return;
  $("problems").hidden = false;
  $("problem-list").append(...texts.slice(0, 100).map((text) => element("li", text)));
}

/** A block of decoded sound. */
function block({ index, channels, tails, shown: columns, done, problems }) {
  scope.add(columns);
  addProblems(problems);
  const before = decoded.get(index);
  decoded.set(index, { channels, tails });
  if (version === "compressed") player.arrived(index, before);
  const most = KEPT_SAMPLES / (channels.length * shown.info.blockSamples);
  if (decoded.size > most) forget();
  shown.done = done;
  report();
}

/** Drops the block that is farthest from the position. */
function forget() {
  const here = (player.time * model.sampleRate) / shown.info.blockSamples;
  let farthest = here;
  for (const index of decoded.keys()) if (Math.abs(index - here) > Math.abs(farthest - here)) farthest = index;
  decoded.delete(farthest);
  worker.postMessage({ type: "forget", id: shown.id, index: farthest });
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
  return { channels: source.channels.map((x) => x.subarray(index * blockSamples, (index + 1) * blockSamples)), tails: [] };
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
    const { channels } = decoded.get(b);
    for (let n = 0; n < channels[0].length; n++)
      for (const x of channels) {
        view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(32768 * x[n]))), true);
        at += 2;
      }
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([view], { type: "audio/wav" }));
  link.download = shown.file.name.replace(/\.dac$/, "") + ".wav";
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
  if (!source) return;
  const { sizes, channels } = source;
  const bytes = sizes.slice(0, Number($("rate").value)).reduce((a, b) => a + b);
  $("rate-text").textContent = `${rate((8 * bytes * model.sampleRate) / channels[0].length / channels.length)} per channel`;
}

/** Shows the position, in every frame while it moves. */
function tick() {
  cancelAnimationFrame(frame);
  if (player.playing) frame = requestAnimationFrame(tick);
  if (!shown) return;
  const duration = shown.info.length / model.sampleRate;
  const time = player.time;
  $("line").style.left = `${(100 * time) / duration}%`;
  $("seek").value = time;
  $("time").textContent = `${clock(time)} / ${clock(duration)}`;
  $("seek").setAttribute("aria-valuetext", `${clock(time)} of ${clock(duration)}`);
  const index = Math.floor((time * model.sampleRate) / shown.info.blockSamples);
  if (index !== shown.at) worker.postMessage({ type: "at", id: shown.id, index: (shown.at = index) });
}

player.onchange = () => {
  $("play").textContent = player.playing ? "Pause" : "Play";
  tick();
};
const toggle = () => (player.playing ? player.pause() : player.play());
$("play").onclick = toggle;
$("seek").oninput = () => player.seek(Number($("seek").value));
$("wav").onclick = wav;
$("record").onclick = () => attempt(record);
$("file").onchange = () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) openFile(file);
};
$("link").onsubmit = (event) => {
  event.preventDefault();
  const link = $("url").value.trim();
  if (!link) return;
  history.replaceState(null, "", `?file=${encodeURIComponent(link)}`);
  replace((id) => follow(link, id));
};
$("rate").oninput = showRate;
$("rate").onchange = () => replace((id) => openSource(source, id, true));
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
  if (["radio", "file", "text"].includes(event.target.type)) return;
  event.preventDefault();
  toggle();
});
for (const type of ["dragover", "dragleave", "drop"])
  document.addEventListener(type, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", type === "dragover");
    const [file] = type === "drop" ? event.dataTransfer.files : [];
    if (!file || recorder) return;
    if (model) openFile(file);
    else {
      early = file;
      say(`Loading the model, then ${file.name}…`);
    }
  });

$("file").disabled = true;
attempt(async () => {
  progress(undefined);
  ({ model } = await call("load"));
  $("model").textContent = model.name;
  $("rate").max = model.codebooks;
  $("rate").value = Math.ceil((2 * model.codebooks) / 3);
  $("file").disabled = $("record").disabled = $("open").disabled = false;
  progress(null);
  say("Ready.");
  const link = new URLSearchParams(location.search).get("file");
  if (early) openFile(early);
  else if (link) {
    $("url").value = link;
    replace((id) => follow(link, id));
  }
});
