"use strict";
(() => {
  const element = (id) => document.getElementById(id);
  const holder = element("data");
  const { clips, axis } = JSON.parse(holder.textContent);
  holder.remove(); // so that a listener of a blind test does not come across it

  // ------------------------------------------------------------------------------------------------------------------
  // Numbers of the plots
  // ------------------------------------------------------------------------------------------------------------------

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const point of document.querySelectorAll(".point")) {
    const title = point.querySelector("title");
    const text = title.textContent;
    title.remove(); // shown at once by the tip, and only there
    point.addEventListener("pointerenter", (event) => {
      tip.textContent = text;
      tip.hidden = false;
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 10)}px`;
    });
    point.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
  if (!clips.length) return;
  element("player").hidden = false;

  // ------------------------------------------------------------------------------------------------------------------
  // Sound: all versions of a clip play together, and one of them is audible, so that switching keeps the position
  // ------------------------------------------------------------------------------------------------------------------

  let context = null;
  const decoded = new Map(); // clip -> promise of the buffers of its versions
  let sounding = null; // {sources, gains, startedAt, offset, duration, loop}
  let position = 0; // s, while nothing plays
  let asked = 0; // counts requests, so that a sound that was decoded too late is not started

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  function buffersOf(clip) {
    if (!decoded.has(clip)) {
      decoded.set(clip, Promise.all(clip.versions.map((version) => context.decodeAudioData(bytes(version.sound)))));
    }
    return decoded.get(clip);
  }

  function now() {
    if (!sounding) return position;
    const { startedAt, offset, duration, loop } = sounding;
    const time = Math.max(0, context.currentTime - startedAt) + offset;
    return loop ? time % duration : Math.min(time, duration);
  }

  function goTo(time) {
    position = time;
    element("position").value = time;
  }

  function halt() {
    asked += 1;
    if (sounding) {
      position = now();
      for (const source of sounding.sources) {
        source.onended = null;
        source.stop();
      }
      sounding = null;
    }
    element("play").textContent = "Play";
  }

  async function start() {
    context ??= new AudioContext();
    context.resume();
    const ticket = ++asked;
    element("play").textContent = "Pause";
    let buffers;
    try {
      buffers = await buffersOf(state.clip);
    } catch {
      decoded.delete(state.clip);
      halt();
      element("hint").textContent = "This browser can't decode FLAC.";
      return;
    }
    if (ticket !== asked) return;
    const duration = buffers[0].duration;
    const offset = position >= duration - 0.01 ? 0 : position;
    const gains = buffers.map(() => new GainNode(context, { gain: 0 }));
    const loop = element("loop").checked;
    const sources = buffers.map((buffer, index) => {
      const source = new AudioBufferSourceNode(context, { buffer, loop });
      source.connect(gains[index]).connect(context.destination);
      return source;
    });
    const startedAt = context.currentTime + 0.03;
    for (const source of sources) source.start(startedAt, offset);
    sources[0].onended = () => { halt(); goTo(0); };
    sounding = { sources, gains, startedAt, offset, duration, loop };
    hear();
  }

  function hear() {
    sounding?.gains.forEach((gain, index) => {
      gain.gain.setTargetAtTime(index === state.version ? 1 : 0, context.currentTime, 0.004);
    });
  }

  // ------------------------------------------------------------------------------------------------------------------
  // Choice of clip and version
  // ------------------------------------------------------------------------------------------------------------------

  const state = { clip: clips[0], version: 0, blind: false };
  const trials = new Map(); // clip -> shuffled order of its versions, and their scores

  function trialOf(clip) {
    if (!trials.has(clip)) {
      const order = clip.versions.map((_, index) => index);
      for (let last = order.length - 1; last > 0; last -= 1) {
        const other = Math.floor(Math.random() * (last + 1));
        [order[last], order[other]] = [order[other], order[last]];
      }
      trials.set(clip, { order, scores: new Map() });
    }
    return trials.get(clip);
  }

  function choice(text, note, version, checked) {
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "version", checked });
    radio.addEventListener("change", () => choose(version));
    label.append(radio, text);
    if (note) label.append(Object.assign(document.createElement("span"), { textContent: note }));
    return label;
  }

  function choose(version) {
    state.version = version;
    hear();
    show();
  }

  function letter(index) {
    return index < 26 ? String.fromCharCode(65 + index) : `${letter(Math.floor(index / 26) - 1)}${letter(index % 26)}`;
  }

  function scored(trial, version, name) {
    const row = document.createElement("div");
    const score = trial.scores.get(version);
    const slider = Object.assign(document.createElement("input"), {
      type: "range", min: 0, max: 100, step: 1, value: score ?? 50,
    });
    slider.setAttribute("aria-label", `Score of ${name}, 0 to 100`);
    const value = Object.assign(document.createElement("output"), { textContent: score ?? "not scored" });
    const rate = () => {
      trial.scores.set(version, Number(slider.value));
      value.textContent = slider.value;
      element("status").textContent = "";
    };
    slider.addEventListener("input", rate);
    slider.addEventListener("pointerup", rate); // its initial position may be the score
    row.append(choice(name, "", version, false), slider, value);
    return row;
  }

  function list() {
    const versions = element("versions");
    versions.classList.toggle("blind", state.blind);
    element("position").max = state.clip.seconds;
    state.version = 0;
    if (state.blind) {
      const trial = trialOf(state.clip);
      versions.replaceChildren(
        choice("Reference", "", 0, true),
        ...trial.order.map((version, place) => scored(trial, version, letter(place))),
      );
    } else {
      versions.replaceChildren(...state.clip.versions.map((version, index) => {
        const name = [version.codec, version.setting].filter(Boolean).join(", ");
        return choice(name, version.kbps === null ? "" : `${version.kbps.toFixed(2)} kbit/s on disk`, index, index === 0);
      }));
    }
    element("versions-legend").textContent = state.blind ? "Versions, shuffled: how close are they to the reference?" : "Versions";
    element("hint").textContent = state.blind
      ? "Score each from 0 (bad) to 100 (excellent); the reference is among them, and so is an anchor (ITU-R BS.1534)."
      : "Space plays and pauses, 1 to 9 choose a version, L loops. Switching keeps the position.";
    element("open-only").hidden = state.blind;
    element("blind-only").hidden = !state.blind;
    for (const section of document.querySelectorAll("main > section:not(#listen), nav")) section.hidden = state.blind;
    hear();
    show();
  }

  function show() {
    const original = element("picture-original");
    const picture = element("picture");
    const version = state.clip.versions[state.version];
    original.closest("figure").hidden = state.blind || !version.picture;
    picture.closest("figure").hidden = state.blind || !version.picture || state.version === 0;
    if (state.blind) {
      for (const one of [picture, original]) one.removeAttribute("src");
      element("caption").textContent = "";
      return;
    }
    if (!version.picture) return;
    original.src = `data:image/jpeg;base64,${state.clip.versions[0].picture}`;
    picture.src = `data:image/jpeg;base64,${version.picture}`;
    element("caption").textContent = [version.codec, version.setting].filter(Boolean).join(", ");
  }

  function move() {
    const time = Math.max(0, now());
    if (sounding) element("position").value = time;
    element("time").textContent = `${time.toFixed(1)} s`;
    const share = `${100 * (axis[0] + axis[1] * (time / state.clip.seconds))}%`;
    for (const head of document.querySelectorAll(".picture i")) head.style.left = share;
    requestAnimationFrame(move);
  }

  // ------------------------------------------------------------------------------------------------------------------
  // Scores
  // ------------------------------------------------------------------------------------------------------------------

  const field = (value) => (/[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));

  function scores() {
    const listener = element("listener").value.trim();
    const rows = [["clip", "codec", "setting", "rate", "score", "listener"]];
    for (const [clip, trial] of trials) {
      for (const [version, score] of [...trial.scores].sort(([one], [other]) => one - other)) {
        const { codec, setting, kbps } = clip.versions[version];
        rows.push([clip.name, codec, setting, kbps ?? "", score, listener]);
      }
    }
    return rows;
  }

  element("save").addEventListener("click", () => {
    const rows = scores();
    if (rows.length === 1) {
      element("status").textContent = "Nothing is scored yet.";
      return;
    }
    const text = rows.map((row) => row.map(field).join(",") + "\n").join("");
    const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    Object.assign(document.createElement("a"), { href: url, download: "mushra-scores.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
    let missing = 0; // of the clips that were opened
    for (const [clip, trial] of trials) missing += clip.versions.length - trial.scores.size;
    element("status").textContent = `${rows.length - 1} scores saved${missing ? `, ${missing} not given` : ""}.`;
  });

  // ------------------------------------------------------------------------------------------------------------------
  // Controls
  // ------------------------------------------------------------------------------------------------------------------

  for (const clip of clips) element("clip").append(new Option(clip.name, clip.name));
  element("clip").addEventListener("change", () => {
    const playing = Boolean(sounding);
    halt();
    goTo(0);
    state.clip = clips[element("clip").selectedIndex];
    list();
    if (playing) start();
  });
  const toggle = () => (element("play").textContent === "Pause" ? halt() : start());
  element("play").addEventListener("click", toggle);
  element("loop").addEventListener("change", () => {
    if (!sounding) return;
    halt();
    start();
  });
  element("position").addEventListener("input", () => {
    const playing = Boolean(sounding);
    halt();
    goTo(Number(element("position").value));
    if (playing) start();
  });
  element("blind").addEventListener("change", () => {
    halt();
    goTo(0);
    state.blind = element("blind").checked;
    list();
  });
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || target.id === "listener" || target.tagName === "SELECT") return;
    if (event.key === " " && (target.type === "radio" || target.type === "range" || target === document.body)) {
      event.preventDefault();
      toggle();
    } else if (/^[1-9]$/.test(event.key)) {
      const radio = element("versions").querySelectorAll("input[type=radio]")[Number(event.key) - 1];
      if (radio) radio.click();
    } else if (event.key.toLowerCase() === "l") {
      element("loop").click();
    }
  });
  list();
  requestAnimationFrame(move);
})();
