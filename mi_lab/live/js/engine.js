/**
 * The engine: any transformer of the lab, in the page.
 *
 *     const engine = await createEngine(await loadModel(source));
 *     const session = engine.session();
 *     session.forward(tokens, [{ node: "P14L0H1", value: 0 }]);
 *     session.logits                                   // Float32Array [pos, vocab]
 *     session.get("blocks.0.attn.pattern")             // {shape, data}
 *
 * An engine holds one model's weights, a session one run: tokens, edits and every activation. What
 * a new run of the same session shares with the last one is not computed again (`Session.forward`).
 * Agreement with `mi_lab.run`: logits to 1e-4 (or twice torch's own fp32 error, where that is more) and the
 * same argmax, tested on every shape and edit.
 */

import { makeKernel, padded } from "./kernels.js";
import { fillWeights, placeBuffers, placeWeights } from "./memory.js";
import { Session } from "./session.js";

/** @typedef {import("./weights.js").Config} Config */
/** @typedef {import("./weights.js").Tensors} Tensors */

/**
 * @typedef {object} EngineOptions
 * @property {"auto" | "wasm" | "js"} [kernel]
 * @property {number} [sessions]  how many can be made
 * @property {number} [batch]  sequences that a session can hold
 * @property {number} [label]  which model of the file
 */

/**
 * An engine with a model's weights.
 * @param {{config: Config, tensors: (label?: number) => Tensors}} model
 * @param {EngineOptions} [options]
 */
export async function createEngine(model, options = {}) {
  const { kernel: want = "auto", sessions = 2, batch = 1, label } = options;
  let size = 0;
  const count = (/** @type {number} */ n) => (size += padded(n));
  placeWeights(model.config, count);
  for (let i = 0; i < sessions; i++) placeBuffers(model.config, batch, count);
  const { arena, kernel } = await makeKernel(size, want);
  const engine = new Engine(model.config, arena, kernel, batch, sessions);
  engine.setWeights(model.tensors(label));
  return engine;
}

/** One model's weights and the memory for its sessions. Made by `createEngine`. */
export class Engine {
  /**
   * @param {Config} config
   * @param {import("./kernels.js").Arena} arena
   * @param {import("./kernels.js").Kernel} kernel
   * @param {number} batch
   * @param {number} sessions
   */
  constructor(config, arena, kernel, batch, sessions) {
    this.config = config;
    this.arena = arena;
    this.kernel = kernel;
    this.batch = batch;
    this.version = 0;
    /** @type {Tensors} */
    this.tensors = new Map();
    this.places = placeWeights(config, (n) => arena.take(n));
    this.sessionsLeft = sessions;
  }

  /**
   * Other weights of the same shape: another seed or training step. Sessions start afresh.
   * @param {Tensors} tensors
   */
  setWeights(tensors) {
    this.version++;
    this.tensors = tensors;
    fillWeights(this.arena.floats, this.places, this.config, tensors);
  }

  /** A new session. */
  session() {
    if (this.sessionsLeft-- < 1) throw new RangeError("the engine has no memory for a further session");
    return new Session(this);
  }
}
