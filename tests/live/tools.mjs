/** What the engine's tests share; runs in Node and in the browser. */

import { createEngine } from "../../mi_lab/live/js/engine.js";
import { Donors, meansOf } from "../../mi_lab/live/js/portable.js";
import { bytesOfBase64 } from "../../mi_lab/live/js/base64.js";
import { argmax } from "../../mi_lab/live/js/analysis.js";
import { readModel, vocabOut } from "../../mi_lab/live/js/weights.js";

/** @param {{shape: number[], base64: string}} packed */
export function unpack(packed) {
  return new Float32Array(bytesOfBase64(packed.base64).buffer);
}

/** The largest difference; Infinity if the lengths differ or one is not a number. */
export function distance(a, b) {
  if (a.length !== b.length) return Infinity;
  let most = 0;
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i] - b[i]);
    if (!(d <= most)) most = Number.isNaN(d) ? Infinity : d;
  }
  return most;
}

/** A small random number generator, the same everywhere. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** An engine for golden cases, with two sessions and one for other runs. */
export async function prepare(golden, kernel, batch = 1) {
  const model = await readModel(bytesOfBase64(golden.model), { sha256: golden.sha256 });
  const engine = await createEngine(model, { kernel, sessions: 4, batch });
  if (kernel !== "auto" && engine.kernel.name !== kernel) throw new Error(`no ${kernel} kernel here`);
  const [reused, other] = [engine.session(), engine.session()];
  return { model, engine, reused, donors: new Donors(other, meansOf(model)) };
}

/**
 * Run all golden cases, each in the one session that reuses what it can. Returns what is wrong and
 * the largest difference of a logit and of an activation.
 */
export async function check(golden, kernel) {
  const { engine, reused, donors } = await prepare(golden, kernel);
  const vocab = vocabOut(engine.config);
  const wrong = [];
  let logits = 0;
  let activations = 0;
  // where torch's own fp32 does not agree to 1e-4 with double precision, twice its error
  const bar = Math.max(1e-4, 2 * golden.rounding);
  for (const item of golden.cases) {
    reused.forward(item.tokens, donors.resolve(item.edits));
    const want = unpack(item.logits);
    const d = distance(reused.logits, want);
    logits = Math.max(logits, d);
    if (!(d <= bar)) wrong.push(`${item.name}: logits differ by ${d}`);
    for (let row = 0; row < want.length / vocab; row++) {
      const [a, b] = [argmax(reused.logits, row * vocab, vocab), argmax(want, row * vocab, vocab)];
      if (a !== b) wrong.push(`${item.name}: argmax of row ${row} is ${a}, not ${b}`);
    }
    for (const [name, packed] of Object.entries(item.activations)) {
      const got = reused.get(name);
      const expected = unpack(packed);
      // fp32 rounds in proportion: a residual stream of hundreds can't agree to 1e-4 in absolute terms
      const size = expected.reduce((most, x) => (Number.isFinite(x) ? Math.max(most, Math.abs(x)) : most), 1);
      const e = distance(got.data, expected) / size;
      activations = Math.max(activations, e);
      if (!(e <= 1e-4)) wrong.push(`${item.name}: ${name} differs by ${e} of its largest entry`);
      if (String(got.shape) !== String(packed.shape)) wrong.push(`${name}: shape ${got.shape}, not ${packed.shape}`);
    }
  }
  return { cases: golden.cases.length, kernel: engine.kernel.name, logits, activations, wrong };
}
