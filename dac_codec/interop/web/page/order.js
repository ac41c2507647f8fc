// The order in which the blocks of a file are decoded. A job has
//   done: layers that each block was decoded with, 0 if it is to be decoded again, or FAILED
//   kept: blocks that the page has
//   next: the block that plays
//   wanted: blocks that the player requested since the last choice

export const FAILED = Infinity;

/** Whether a block is decoded with all layers that have arrived, or was decoded and dropped by the page. */
function isDone({ decoder, done, kept }, index) {
  return kept.has(index) ? done.get(index) >= decoder.layers(index) : done.has(index);
}

/** The share of the work that is done. */
export function share(job) {
  let count = 0;
  const { done = 0, ready, blocks } = job.decoder;
  for (let index = 0; index < ready; index++) if (isDone(job, index)) count++;
  return done + ((1 - done) * count) / blocks;
}

/** The block to decode next: the newest requested one, else `next` or its successor if not decoded yet, else one with finer layers. */
export function choose(job) {
  const { decoder, done, kept, next } = job;
  const { ready } = decoder;
  const wanted = job.wanted.findLast((index) => index < ready && !kept.has(index) && done.get(index) !== FAILED);
  Object.assign(job, { wanted: [], urgent: wanted ?? next });
  if (wanted !== undefined) return wanted;
  const order = Array.from({ length: ready }, (_, n) => (Math.min(next, ready) + n) % ready);
  return order.slice(0, 2).find((index) => !done.has(index)) ?? order.find((index) => !isDone(job, index));
}

/** The codebooks of layer 1 if a block is to be decoded with these first, as it is waited for; else undefined. */
export function coarse({ decoder, done, urgent }, index) {
  const first = decoder.file.header.layers?.[0];
  const isPart = first < decoder.file.header.codebooks && decoder.layers(index) > 1;
  return isPart && index === urgent && !done.has(index) ? first : undefined;
}
