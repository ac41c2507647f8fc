// Plays blocks of sound without gaps, as they arrive.
const AHEAD = 1.5; // seconds scheduled before they are heard
const DELAY = 0.05;
const FADE = 0.01; // seconds in which finer sound replaces coarse sound

export class Player {
  /**
   * @param {(index: number) => {channels: Float32Array[], tails: Float32Array[]} | undefined} blockOf the sound of a
   *   block, if it is there, and samples after its end, from which the next block is faded in
   * @param {(index: number) => void} want asks for a block that is not there
   */
  constructor(blockOf, want) {
    Object.assign(this, { blockOf, want });
    this.onchange = () => {}; // called when playing begins or ends, and after a seek
    this.nodes = new Set();
    this.length = this.position = 0; // in samples; the position is where playing starts
    setInterval(() => this.#schedule(), 100);
  }

  /**
   * Takes another sound, and goes to its beginning.
   * @param {number} rate Hz
   * @param {number} length samples per channel
   * @param {number} blockSamples
   */
  open(rate, length, blockSamples) {
    this.pause();
    Object.assign(this, { rate, length, blockSamples, position: 0 });
  }

  /** Says that a block has arrived. It replaces the coarser block `before`, if given, also where that is scheduled. */
  arrived(index, before) {
    if (before && this.playing && !this.waiting) this.#replace(index, before);
    if (this.waiting) this.#schedule();
  }

  /** Schedules a block again, from the position on, and what comes after it. */
  #replace(index, before) {
    const start = index * this.blockSamples;
    const from = Math.max(start, Math.ceil(this.#now() + DELAY * this.rate));
    const offset = from - start;
    if (from >= this.scheduled || offset >= before.channels[0].length) return;
    for (const node of this.nodes) node.stop(this.began + (from - this.position) / this.rate);
    const fade = Math.round(FADE * this.rate);
    this.tails = offset ? before.channels.map((x) => x.subarray(offset, offset + fade)) : (this.blockOf(index - 1)?.tails ?? []);
    this.scheduled = from;
    this.#schedule();
  }

  /** Seconds. */
  get time() {
    return this.#now() / this.rate || 0;
  }

  #now() {
    if (!this.playing || this.waiting) return this.position;
    const since = Math.max(0, this.context.currentTime - this.began) * this.rate;
    return Math.min(this.length, this.position + since);
  }

  play() {
    this.context ??= new AudioContext({ sampleRate: this.rate });
    this.context.resume();
    if (this.position >= this.length) this.position = 0;
    this.playing = this.waiting = true;
    this.#schedule();
    this.onchange();
  }

  pause() {
    if (this.playing) this.position = this.#now();
    this.#stop();
    this.playing = this.waiting = false;
    this.onchange();
  }

  seek(seconds) {
    const { playing } = this;
    if (playing) this.#stop();
    this.position = Math.max(0, Math.min(this.length, Math.round(seconds * this.rate)));
    this.waiting = playing;
    const index = Math.floor(this.position / this.blockSamples);
    if (this.position < this.length && !this.blockOf(index)) this.want(index);
    this.#schedule();
    this.onchange();
  }

  #stop() {
    for (const node of this.nodes) {
      node.onended = null;
      node.stop();
    }
    this.nodes.clear();
  }

  #schedule() {
    if (!this.playing) return;
    if (this.waiting) {
      const index = Math.floor(this.position / this.blockSamples);
      if (!this.blockOf(index)) {
        this.want(index);
        return;
      }
      this.waiting = false;
      // A whole sample of the context, so that blocks meet without a gap.
      this.began = Math.ceil((this.context.currentTime + DELAY) * this.rate) / this.rate;
      this.scheduled = this.position;
      this.tails = [];
    }
    while (this.scheduled < this.length && this.scheduled - this.#now() < AHEAD * this.rate) {
      const index = Math.floor(this.scheduled / this.blockSamples);
      const block = this.blockOf(index);
      if (!block) {
        this.want(index);
        break;
      }
      this.#start(block.channels, this.scheduled - index * this.blockSamples);
      this.tails = block.tails;
    }
    if (this.#now() >= this.length) {
      this.pause();
      this.position = this.length;
      this.onchange();
    } else if (this.scheduled < this.length && this.#now() >= this.scheduled) {
      this.position = this.scheduled; // the decoder is behind
      this.waiting = true;
    }
  }

  /** Schedules the rest of a block. */
  #start(channels, offset) {
    const length = channels[0].length - offset;
    const buffer = this.context.createBuffer(channels.length, length, this.rate);
    channels.forEach((x, c) => {
      const sound = offset ? x.subarray(offset) : x;
      buffer.copyToChannel(sound, c);
      const tail = this.tails[c]?.subarray(0, length);
      if (tail) buffer.copyToChannel(tail.map((y, n) => y + ((sound[n] - y) * n) / tail.length), c);
    });
    const node = new AudioBufferSourceNode(this.context, { buffer });
    node.connect(this.context.destination);
    node.onended = () => this.nodes.delete(node);
    node.start(this.began + (this.scheduled - this.position) / this.rate);
    this.nodes.add(node);
    this.scheduled += length;
  }
}
