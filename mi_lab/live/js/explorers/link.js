/**
 * An explorer's exact state as the end of an address: #mi-sorting?list=46,11&output=3.
 *
 * A field is "text", "int" or "words" (short words, joined by commas).
 */

/** @typedef {"text" | "int" | "words"} FieldKind */
/** @typedef {Record<string, any>} State */

/**
 * @param {string} id  of the explorer
 * @param {State} state
 * @param {Record<string, FieldKind>} fields
 */
export function toHash(id, state, fields) {
  const parts = Object.keys(fields).map((name) => {
    const value = fields[name] === "words" ? state[name].join(",") : String(state[name]);
    return `${name}=${encodeURIComponent(value).replace(/%2C/g, ",").replace(/%20/g, "+")}`;
  });
  return `#${id}?${parts.join("&")}`;
}

/**
 * The part of a state that a link names, or null if the link is not for this explorer. Throws
 * RangeError, with one sentence, for a link that can't be read.
 * @param {string} hash
 * @param {string} id
 * @param {Record<string, FieldKind>} fields
 * @returns {State | null}
 */
export function fromHash(hash, id, fields) {
  if (!hash.startsWith(`#${id}?`)) return null;
  /** @type {State} */
  const state = {};
  for (const part of hash.slice(id.length + 2).split("&")) {
    const at = part.indexOf("=");
    const name = part.slice(0, at);
    if (at < 1 || !Object.hasOwn(fields, name)) throw new RangeError("This link names something that the figure does not have.");
    let text;
    try {
      text = decodeURIComponent(part.slice(at + 1).replace(/\+/g, " "));
    } catch {
      throw new RangeError("This link is damaged.");
    }
    if (fields[name] === "int") {
      if (!/^-?\d{1,9}$/.test(text)) throw new RangeError(`This link gives no whole number for "${name}".`);
      state[name] = Number(text);
    } else state[name] = fields[name] === "words" ? (text ? text.split(",") : []) : text;
  }
  return state;
}

/**
 * @param {any} a
 * @param {any} b
 */
export function sameState(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Undo and redo over whole states. */
export class History {
  /** @type {State[]} */
  #states;
  #at = 0;
  #merge = "";
  #when = -Infinity;

  /** @param {State} first */
  constructor(first) {
    this.#states = [first];
  }

  get canUndo() {
    return this.#at > 0;
  }

  get canRedo() {
    return this.#at < this.#states.length - 1;
  }

  /**
   * A new state. Changes with the same non-empty `merge` in quick succession are one step back.
   * @param {State} state
   * @param {string} [merge]
   * @param {number} [now]  milliseconds
   */
  push(state, merge = "", now = performance.now()) {
    const joins = merge !== "" && merge === this.#merge && now - this.#when < 800 && this.#at > 0;
    this.#states.length = this.#at + 1;
    if (joins) this.#states[this.#at] = state;
    else {
      this.#states.push(state);
      if (this.#states.length > 200) this.#states.shift();
      this.#at = this.#states.length - 1;
    }
    this.#merge = merge;
    this.#when = now;
  }

  /** @param {-1 | 1} step @returns {State | null} */
  move(step) {
    const at = this.#at + step;
    if (at < 0 || at >= this.#states.length) return null;
    this.#at = at;
    this.#merge = "";
    return this.#states[at];
  }

  /** Put another state in the place of the newest one, which turned out not to be possible. @param {State} state */
  replace(state) {
    this.#states[this.#at] = state;
    this.#merge = "";
  }
}
