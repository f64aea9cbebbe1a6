/**
 * Edits as plain JSON: what links, workers, golden cases and `mi_lab.live.export.to_run` speak.
 *
 * As in edits.js, but a value is a number, numbers, "mean" (the means that the model file carries) or
 * {run: tokens, edits}: the activations of another run.
 */

/** @typedef {import("./edits.js").Edit} Edit */
/** @typedef {import("./edits.js").Activations} Activations */
/** @typedef {import("./edits.js").KnockOut} KnockOut */
/** @typedef {import("./session.js").Session} Session */
/** @typedef {number | number[] | "mean" | {run: number[], edits?: PortableEdit[]}} PortableValue */
/**
 * @typedef {KnockOut
 *   | {node: string, value: PortableValue, row?: number}
 *   | {activation: string, value: PortableValue, positions?: number[], heads?: number[], row?: number}
 * } PortableEdit
 */

const KEPT = 16; // other runs remembered

/**
 * The means that a model file carries for one of its models, as activations of one run.
 * @param {import("./weights.js").Model} model
 * @param {number} [label]  default the first one
 * @returns {Activations | null}
 */
export function meansOf(model, label = model.labels[0]) {
  const start = `mean.${label}.`;
  /** @type {Activations["values"]} */
  const values = new Map();
  for (const [name, extra] of model.extras) {
    if (name.startsWith(start)) values.set(name.slice(start.length), extra.data);
  }
  return values.size ? { batch: 1, n: model.config.n_ctx, values } : null;
}

/** Turns portable edits into edits; runs the other runs on a session of its own and remembers them. */
export class Donors {
  /** @type {Map<string, Activations>} */
  #runs = new Map();

  /**
   * @param {Session} session
   * @param {Activations | null} means
   */
  constructor(session, means) {
    this.session = session;
    this.means = means;
  }

  /** Other weights: forget all runs. @param {Activations | null} means */
  reset(means) {
    this.#runs.clear();
    this.means = means;
  }

  /**
   * @param {readonly PortableEdit[]} edits
   * @returns {Edit[]}
   */
  resolve(edits) {
    return edits.map((edit) => {
      if ("knockOut" in edit) return edit;
      const name = "activation" in edit ? edit.activation : null;
      return { ...edit, value: this.#value(edit.value, name) };
    });
  }

  /**
   * @param {PortableValue} value
   * @param {string | null} name  the activation wanted, null for what nodes compute
   */
  #value(value, name) {
    if (value === "mean") {
      if (!this.means) throw new RangeError("This model file carries no means.");
      return this.means;
    }
    if (typeof value === "number" || Array.isArray(value)) return value;
    if (!value || !Array.isArray(value.run)) {
      throw new RangeError('A value is a number, numbers, "mean" or another run.');
    }
    const key = JSON.stringify([value, name]);
    let found = this.#runs.get(key);
    if (!found) {
      this.session.forward(value.run, this.resolve(value.edits ?? []));
      found = name === null ? this.session.snapshot() : this.session.snapshot([name]);
    }
    this.#runs.delete(key);
    this.#runs.set(key, found); // the last used is the last to go
    if (this.#runs.size > KEPT) this.#runs.delete(this.#runs.keys().next().value ?? "");
    return found;
  }
}
