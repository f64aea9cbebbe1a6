/** Models that a page has at hand: loaded when first wanted, kept, one engine for each shape. */

import { createEngine } from "../engine.js";
import { fetchBytes } from "../load.js";
import { Donors, meansOf } from "../portable.js";
import { readModel } from "../weights.js";

/** @typedef {import("../weights.js").Model} Model */
/** @typedef {import("../weights.js").Tensors} Tensors */
/** @typedef {import("../load.js").Source} Source */
/** @typedef {(done: number, total: number | null) => void} OnProgress */

/**
 * @typedef {object} Machine  an engine with one model's weights
 * @property {string} key
 * @property {Model} model
 * @property {Tensors} tensors
 * @property {import("../engine.js").Engine} engine
 * @property {import("../session.js").Session} session
 * @property {Donors} donors
 */

const SHELF = 48;

/** Loaded models by key. */
export class Shelf {
  /** @type {Map<string, {model: Model, tensors: Tensors}>} */
  #models = new Map();
  /** @type {Map<string, Machine>} */
  #machines = new Map();
  /** @type {Map<string, Promise<void>>} */
  #coming = new Map();

  /** @param {(key: string) => Source | Promise<Source>} sourceOf */
  constructor(sourceOf) {
    this.sourceOf = sourceOf;
  }

  /** Is it here? @param {string} key */
  has(key) {
    return this.#models.has(key);
  }

  /**
   * Fetch a model and make its engine. Throws an Error with one sentence.
   * @param {string} key
   * @param {OnProgress} [onProgress]
   */
  load(key, onProgress) {
    const coming = this.#coming.get(key) ?? this.#load(key, onProgress).finally(() => this.#coming.delete(key));
    this.#coming.set(key, coming);
    return coming;
  }

  /** @param {string} key @param {OnProgress} [onProgress] */
  async #load(key, onProgress) {
    if (this.has(key)) return;
    const source = await this.sourceOf(key);
    const bytes = await fetchBytes(source, onProgress ? { onProgress } : {});
    const model = await readModel(bytes, { sha256: "sha256" in source ? source.sha256 : undefined });
    const shape = JSON.stringify(model.config);
    const tensors = model.tensors();
    if (!this.#machines.has(shape)) {
      const engine = await createEngine(model, { sessions: 2 });
      const donors = new Donors(engine.session(), meansOf(model));
      this.#machines.set(shape, { key, model, tensors, engine, session: engine.session(), donors });
    }
    this.#models.set(key, { model, tensors });
    for (const old of this.#models.keys()) {
      if (this.#models.size > SHELF) this.#models.delete(old);
    }
  }

  /**
   * The engine with this model in it; it must be here.
   * @param {string} key
   * @returns {Machine}
   */
  machine(key) {
    const found = this.#models.get(key);
    if (!found) throw new RangeError(`The model "${key}" is not loaded.`);
    const machine = /** @type {Machine} */ (this.#machines.get(JSON.stringify(found.model.config)));
    if (machine.key !== key) {
      machine.engine.setWeights(found.tensors);
      machine.donors.reset(meansOf(found.model));
      Object.assign(machine, { key, ...found });
    }
    return machine;
  }
}

/**
 * Where the models of a page are: files beside it, base64 in it, or whatever `ask` answers (in a
 * notebook, the kernel).
 * @param {{folder?: string, bytes?: number, inline?: Record<string, string>}} weights
 * @param {(key: string) => Promise<Uint8Array>} [ask]
 * @returns {(key: string) => Source | Promise<Source>}
 */
export function sources(weights, ask) {
  return (key) => {
    const inline = weights.inline?.[key];
    if (inline) return { base64: inline };
    if (ask) return ask(key);
    const root = document.documentElement.dataset.content_root ?? "./";
    const place = (/** @type {string} */ ending) => new URL(`${root}${weights.folder}/${key}.${ending}`, document.baseURI).href;
    return { url: place("bin"), script: place("js"), bytes: weights.bytes ?? 0 };
  };
}
