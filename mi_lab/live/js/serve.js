/** The engine behind a message port: what runs in the worker, or in the page where there is none. */

import { allNodes, answer, attribution, measureOf, RunMean, sweepNodes } from "./analysis.js";
import { createEngine } from "./engine.js";
import { Donors, meansOf } from "./portable.js";
import { readModel, vocabOut } from "./weights.js";

/** @typedef {import("./portable.js").PortableEdit} PortableEdit */
/** @typedef {import("./portable.js").PortableValue} PortableValue */
/** @typedef {import("./session.js").Session} Session */

/** @typedef {{postMessage: (message: any, transfer: Transferable[]) => void, onmessage: any}} Port */

/**
 * @typedef {object} RunRequest
 * @property {number[] | number[][]} tokens
 * @property {PortableEdit[]} [edits]
 * @property {string[]} [want]  activations to send back
 * @property {string[]} [lens]  residual streams to send back as logits
 * @property {{row: number, targets: number[]}} [attribution]
 * @property {[number, number] | [number, number, number]} [answer]  first and stop position of the model's own
 *   answer, and the token that ends it
 */

/**
 * @typedef {object} RunResult
 * @property {number[]} tokens  with the model's own answer, if it was asked for
 * @property {number} batch
 * @property {number} n
 * @property {number} vocab
 * @property {Float32Array} logits  [batch, pos, vocab]
 * @property {Record<string, {shape: number[], data: Float32Array}>} activations
 * @property {Record<string, Float32Array>} lens  [row, vocab]
 * @property {ReturnType<typeof attribution> | null} attribution
 * @property {number} computed  rows computed, summed over layers
 * @property {number} ms
 */

/**
 * @typedef {object} SweepRequest
 * @property {number[]} tokens
 * @property {number[]} positions
 * @property {PortableValue} value
 * @property {import("./analysis.js").Measure} measure
 * @property {PortableEdit[]} [edits]
 */

/**
 * @typedef {object} Loaded
 * @property {import("./weights.js").Config} config
 * @property {number[]} labels
 * @property {string[] | null} vocab
 * @property {Record<string, unknown>} provenance
 * @property {string} sha256
 * @property {"wasm" | "js"} kernel
 * @property {boolean} means  does the file carry them
 */

/**
 * Answer the messages of a port: {id, method, params} with {id, result} or {id, error}, and
 * {id, progress} in between.
 * @param {Port} port
 */
export function serve(port) {
  const server = new Server();
  port.onmessage = async (/** @type {{data: {id: number, method: string, params: any}}} */ event) => {
    const { id, method, params } = event.data;
    try {
      const progress = (/** @type {number[]} */ ...x) => port.postMessage({ id, progress: x }, []);
      const result = await server.handle(method, params, progress);
      port.postMessage({ id, result }, buffersOf(result));
    } catch (error) {
      const { name, message } = error instanceof Error ? error : new Error(String(error));
      port.postMessage({ id, error: { name, message } }, []);
    }
  };
  port.postMessage({ ready: true }, []);
}

/** A model, its engine and three sessions. */
class Server {
  /** @type {{engine: import("./engine.js").Engine, model: import("./weights.js").Model, main: Session, sweep: Session, donors: Donors} | null} */
  #loaded = null;
  #sweeping = new AbortController();

  /**
   * @param {string} method
   * @param {any} params
   * @param {(done: number, total: number) => void} progress
   */
  async handle(method, params, progress) {
    if (method === "load") return this.load(params);
    if (method === "select") return this.select(params);
    if (method === "run") return this.run(params);
    if (method === "sweep") return this.sweep(params, progress);
    if (method === "means") return this.means(params, progress);
    throw new RangeError(`There is no method "${method}".`);
  }

  /**
   * @param {{bytes: Uint8Array, sha256?: string, kernel?: "auto" | "wasm" | "js", batch?: number}} params
   * @returns {Promise<Loaded>}
   */
  async load({ bytes, sha256, kernel = "auto", batch = 1 }) {
    const model = await readModel(bytes, { sha256 });
    const engine = await createEngine(model, { kernel, batch, sessions: 3 });
    this.#sweeping.abort(new DOMException("Another model was loaded.", "AbortError"));
    const means = meansOf(model);
    const [main, sweep, other] = [engine.session(), engine.session(), engine.session()];
    this.#loaded = { engine, model, main, sweep, donors: new Donors(other, means) };
    const { config, labels, vocab, provenance } = model;
    return { config, labels, vocab, provenance, sha256: model.sha256, kernel: engine.kernel.name, means: !!means };
  }

  /** Another model of the same file. @param {{label: number}} params */
  select({ label }) {
    const { engine, model, donors } = this.#model();
    this.#sweeping.abort(new DOMException("Another model was chosen.", "AbortError"));
    engine.setWeights(model.tensors(label));
    donors.reset(meansOf(model, label));
    return { label };
  }

  /**
   * What "mean" stands for from now on: the average over these questions, all of one length.
   * @param {{questions: number[][]}} params
   * @param {(done: number, total: number) => void} onProgress
   */
  async means({ questions }, onProgress) {
    const { donors } = this.#model();
    const mean = new RunMean();
    let busySince = performance.now();
    for (const [done, tokens] of questions.entries()) {
      if (performance.now() - busySince > 20) {
        onProgress(done, questions.length);
        await new Promise((resolve) => setTimeout(resolve, 0));
        busySince = performance.now();
      }
      mean.add(donors.session.forward(tokens));
    }
    donors.reset(mean.activations);
    return { questions: questions.length };
  }

  /**
   * @param {RunRequest} request
   * @returns {RunResult}
   */
  run(request) {
    const { main: session, donors } = this.#model();
    const begun = performance.now();
    const edits = donors.resolve(request.edits ?? []);
    const [first, stop, end = -1] = request.answer ?? [];
    if (first === undefined || stop === undefined) session.forward(request.tokens, edits);
    else answer(session, /** @type {number[]} */ (request.tokens), first, stop, edits, end);
    const { batch, n, computed } = session;
    const copied = (/** @type {string} */ name) => {
      const { shape, data } = session.get(name);
      return [name, { shape, data: data.slice() }];
    };
    return {
      tokens: Array.from(session.tokens.subarray(0, session.rows)),
      batch,
      n,
      vocab: vocabOut(session.engine.config),
      logits: session.logits.slice(),
      activations: Object.fromEntries((request.want ?? []).map(copied)),
      lens: Object.fromEntries((request.lens ?? []).map((name) => [name, session.lens(name).slice()])),
      attribution: request.attribution
        ? attribution(session, request.attribution.row, request.attribution.targets)
        : null,
      computed,
      ms: performance.now() - begun,
    };
  }

  /**
   * The measure without and with each node replaced. A new sweep ends the one before.
   * @param {SweepRequest} request
   * @param {(done: number, total: number) => void} onProgress
   */
  async sweep(request, onProgress) {
    const { sweep: session, donors, engine } = this.#model();
    this.#sweeping.abort(new DOMException("Another sweep was started.", "AbortError"));
    this.#sweeping = new AbortController();
    const { signal } = this.#sweeping;
    const nodes = allNodes(engine.config, request.positions);
    const measure = measureOf(request.measure);
    const [probe, ...edits] = donors.resolve([{ node: "L0H0", value: request.value }, ...(request.edits ?? [])]);
    const value = /** @type {number | import("./edits.js").Activations} */ ("value" in probe ? probe.value : 0);
    const clean = measure(session.forward(request.tokens, edits));
    const values = await sweepNodes(session, request.tokens, nodes, value, measure, { edits, onProgress, signal });
    return { nodes, values, clean };
  }

  #model() {
    if (!this.#loaded) throw new RangeError("No model is loaded yet.");
    return this.#loaded;
  }
}

/**
 * The memory that a result can hand over instead of copying it.
 * @param {any} result
 * @returns {Transferable[]}
 */
function buffersOf(result) {
  const found = new Set();
  const visit = (/** @type {any} */ x) => {
    if (ArrayBuffer.isView(x)) found.add(x.buffer);
    else if (x && typeof x === "object" && !Array.isArray(x)) Object.values(x).forEach(visit);
  };
  visit(result);
  return [...found];
}
