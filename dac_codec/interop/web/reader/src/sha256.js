// SHA-256 (FIPS 180-4). Ours because crypto.subtle is asynchronous and missing on plain http.
const K = new Uint32Array(64);
const INITIAL = new Uint32Array(8);
{
  const fraction = (x) => ((x - Math.floor(x)) * 2 ** 32) >>> 0;
  for (let n = 2, i = 0; i < 64; n++) {
    let prime = true;
    for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
    if (!prime) continue;
    if (i < 8) INITIAL[i] = fraction(Math.sqrt(n));
    K[i++] = fraction(Math.cbrt(n));
  }
}

/**
 * @param {Uint8Array[]} parts the data, in parts
 * @returns {Uint8Array} 32 bytes
 */
export function sha256(parts) {
  const length = parts.reduce((n, part) => n + part.length, 0);
  const data = new Uint8Array((Math.floor((length + 8) / 64) + 1) * 64);
  let at = 0;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  data[length] = 0x80;
  const view = new DataView(data.buffer);
  view.setBigUint64(data.length - 8, BigInt(length) * 8n);
  const hash = INITIAL.slice();
  const w = new Int32Array(64);
  const rotate = (x, n) => (x >>> n) | (x << (32 - n));
  for (let block = 0; block < data.length; block += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getInt32(block + 4 * i);
    for (let i = 16; i < 64; i++) {
      const s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >>> 3);
      const s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >>> 10);
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let i = 0; i < 64; i++) {
      const t1 = (h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      const t2 = ((rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => (hash[i] += x));
  }
  const digest = new Uint8Array(32);
  hash.forEach((x, i) => new DataView(digest.buffer).setUint32(4 * i, x));
  return digest;
}
