/**
 * What all live explorers share: one state, controls that change it, undo and redo, reset, a link to
 * the exact state, the same as Python, errors beside the field, progress, a live region.
 *
 * An explorer gives fields and a `check`; it builds controls into `frame.controls` and pictures into
 * `frame.views`, and draws in `show`. A state that `check` refuses never arrives: the message stands
 * beside the field, and the last good state stays.
 */

import { copyText, h, say } from "./dom.js";
import { fromHash, History, sameState, toHash } from "./link.js";
import { installStyle } from "./style.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {{show: (value: any, state: State) => void}} Control */

/**
 * @typedef {object} FrameOptions
 * @property {string} id  of the explorer in links
 * @property {string} title
 * @property {string} [tryThis]
 * @property {Record<string, import("./link.js").FieldKind>} fields
 * @property {State} initial  what reset goes back to
 * @property {(state: State) => State} check  throws FieldError
 * @property {(state: State) => string} python
 * @property {boolean} [links]  does the address follow the state (default: yes)
 */

/** What a reader gave and the explorer can't take. The message is one sentence. */
export class FieldError extends RangeError {
  /** @param {string} field @param {string} message */
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

const TYPING_PAUSE = 500; // ms before an unfinished word is called wrong

/** One explorer's frame. */
export class Frame {
  #history;
  #prelude = "";
  /** @type {Map<string, {control: Control, input: Element, error: HTMLElement}>} */
  #fields = new Map();
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #timers = new Map();
  /** @type {Set<(state: State) => void>} */
  #followers = new Set();
  /** @type {() => void} */
  #release = () => {};

  /**
   * @param {HTMLElement} root  emptied of nothing: the frame is put at its end
   * @param {FrameOptions} options
   */
  constructor(root, options) {
    installStyle(root);
    this.options = options;
    this.root = root;
    /** @type {State} */
    this.state = options.check(options.initial);
    /** @type {(state: State) => void} */
    this.show = () => {};
    this.#history = new History(this.state);
    this.prefix = `${options.id}-${nextNumber()}`;
    this.controls = h("div", { class: "mi-x-controls" });
    this.views = h("div", { class: "mi-x-views" });
    const { prefix } = this;
    const button = (/** @type {string} */ text, /** @type {string} */ label, /** @type {() => void} */ act) =>
      h("button", { type: "button", class: "mi-x-button", title: label, onclick: act }, text);
    this.undoButton = button("Undo", "Undo (Ctrl+Z)", () => this.step(-1));
    this.redoButton = button("Redo", "Redo (Ctrl+Shift+Z)", () => this.step(1));
    this.resetButton = button("Reset", "Back to the first state", () => void this.reset());
    this.linkButton = button("Copy link", "Copy a link to exactly this state", () => void this.copyLink());
    this.pythonButton = button("Python", "The same in Python", () => this.togglePython());
    this.pythonButton.setAttribute("aria-expanded", "false");
    this.pythonButton.setAttribute("aria-controls", `${prefix}-python`);
    this.code = h("code");
    const copy = button("Copy", "Copy the Python code", () => void this.#copied(this.code.textContent ?? "", "Python code"));
    this.python = h("div", { class: "mi-x-python", id: `${prefix}-python`, hidden: true }, h("pre", { tabindex: "0", "aria-label": "The same in Python" }, this.code), copy);
    this.bar = h("progress", { max: "1", "aria-label": "model loading" });
    this.busyText = h("span");
    this.busyLine = h("p", { class: "mi-x-busy", hidden: true }, this.bar, this.busyText);
    this.general = h("p", { class: "mi-x-error", role: "alert" });
    this.headline = h("p", { class: "mi-x-headline" });
    this.status = h("p", { class: "mi-x-unseen", role: "status", "aria-live": "polite" });
    this.note = h("span", { class: "mi-x-note", "aria-hidden": "true" });
    const tools = h("div", { class: "mi-x-tools", role: "toolbar", "aria-label": `${options.title}: state` },
      this.undoButton, this.redoButton, this.resetButton, options.links === false ? null : this.linkButton, this.pythonButton, this.note);
    this.box = h("section", { class: "mi-x", id: `${prefix}-box`, "aria-label": options.title, onkeydown: (/** @type {KeyboardEvent} */ e) => this.#key(e) },
      h("div", { class: "mi-x-top" }, h("p", { class: "mi-x-title" }, options.title), tools),
      this.general, this.controls, this.busyLine, this.headline, this.views, this.python, this.status,
      options.tryThis ? h("p", { class: "mi-x-try" }, options.tryThis) : null);
    this.root.append(this.box);
    this.#buttons();
    if (options.links === false) return;
    const follow = () => this.#fromLink(true);
    globalThis.addEventListener("hashchange", follow);
    this.#release = () => globalThis.removeEventListener("hashchange", follow);
  }

  /** Take the state of the address, if it names this explorer; then draw for the first time. */
  begin() {
    this.#sync();
    if (this.options.links === false || !this.#fromLink(false)) this.show(this.state);
  }

  /** Forget the page: listeners and timers. */
  end() {
    this.#release();
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.box.remove();
  }

  /**
   * A field's control, with room for its error.
   * @param {string} name
   * @param {Element} input  what is marked as invalid
   * @param {Control} control
   * @returns {HTMLElement} the place of the error
   */
  field(name, input, control) {
    const error = h("p", { class: "mi-x-error", role: "alert", id: `${this.prefix}-${name}-error` });
    this.#fields.set(name, { control, input, error });
    return error;
  }

  /** Call with every new state. @param {(state: State) => void} follower @returns {() => void} stops it */
  follow(follower) {
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }

  /**
   * Change the state. False: refused, the message stands beside the field.
   * @param {State} changes
   * @param {{merge?: string, typing?: boolean}} [how]  merge: one undo step with changes of this name;
   *   typing: the reader may not be done, so wait before calling it wrong
   */
  set(changes, { merge = "", typing = false } = {}) {
    let next;
    for (const name of Object.keys(changes)) this.#stop(name);
    try {
      next = this.options.check({ ...this.state, ...changes });
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      const refuse = () => this.refuse(error.field, error.message);
      if (typing) this.#later(error.field, refuse, TYPING_PAUSE);
      else refuse();
      return false;
    }
    for (const name of Object.keys(changes)) this.accept(name);
    say(this.general, "");
    if (sameState(next, this.state)) return true;
    this.#history.push(next, merge);
    this.#become(next);
    return true;
  }

  /** @param {-1 | 1} step */
  step(step) {
    const state = this.#history.move(step);
    if (!state) return;
    for (const name of this.#fields.keys()) this.accept(name);
    this.#done(step < 0 ? "Undone." : "Done again.");
    this.#become(state);
  }

  /** Back to the first state; it can be undone. */
  reset() {
    for (const name of this.#fields.keys()) this.accept(name);
    this.#done("Back to the first state.");
    this.set({ ...this.options.initial });
    this.#sync(true);
  }

  /**
   * The state can't be shown after all (its model did not load): put back what could.
   * @param {State} good
   * @param {string} field
   * @param {string} message
   */
  fallBack(good, field, message) {
    this.#history.replace(good);
    this.#become(good);
    this.refuse(field, message);
  }

  /** Say beside a field, in one sentence, why it was not taken. @param {string} name @param {string} message */
  refuse(name, message) {
    const field = this.#fields.get(name);
    if (!field) return say(this.general, message);
    say(field.error, message);
    field.input.setAttribute("aria-invalid", "true");
    field.input.setAttribute("aria-describedby", field.error.id);
  }

  /** @param {string} name */
  accept(name) {
    this.#stop(name);
    const field = this.#fields.get(name);
    if (!field) return;
    say(field.error, "");
    field.input.removeAttribute("aria-invalid");
    field.input.removeAttribute("aria-describedby");
  }

  /**
   * What is going on; null: nothing.
   * @param {string | null} text
   * @param {number} [done]
   * @param {number | null} [total]
   */
  busy(text, done = 0, total = null) {
    this.busyLine.hidden = text === null;
    if (text === null) return;
    say(this.busyText, text);
    if (total) this.bar.value = done / total;
    else this.bar.removeAttribute("value");
  }

  /** Say something to a screen reader once the reader's hand rests. @param {string} text */
  announce(text) {
    const whole = [this.#prelude, text].filter(Boolean).join(" ");
    this.#later("announce", () => {
      this.#prelude = "";
      say(this.status, whole);
    }, 350);
  }

  /** Said before what the new state shows, which would else be said instead of it. @param {string} text */
  #done(text) {
    this.#prelude = text;
    this.announce("");
  }

  /** The address of exactly this state. */
  get link() {
    const { id, fields } = this.options;
    return globalThis.location.href.replace(/#.*$/s, "") + toHash(id, this.state, fields);
  }

  /** Copy it. */
  copyLink() {
    this.#address();
    return this.#copied(this.link, "Link");
  }

  /** Show or hide the Python code. */
  togglePython() {
    this.python.hidden = !this.python.hidden;
    this.pythonButton.setAttribute("aria-expanded", String(!this.python.hidden));
  }

  // ---- inside ---------------------------------------------------------------------------------------

  /** @param {string} text @param {string} what */
  async #copied(text, what) {
    const told = (await copyText(text)) ? `${what} copied.` : `${what} could not be copied: the browser refused.`;
    say(this.status, told);
    say(this.note, told);
    this.#later("copied", () => say(this.note, ""), 4000);
  }

  /** @param {State} state */
  #become(state) {
    this.state = state;
    this.#sync();
    this.show(state);
    for (const follower of this.#followers) follower(state);
    if (this.options.links !== false) this.#later("link", () => this.#address(), 300);
  }

  /** @param {boolean} [force]  also the field in which the reader is writing */
  #sync(force = false) {
    for (const [name, { control, input }] of this.#fields) {
      const writing = !force && input === document.activeElement && input instanceof HTMLInputElement && input.type === "text";
      if (!writing) control.show(this.state[name], this.state);
    }
    say(this.code, this.options.python(this.state));
    this.#buttons();
  }

  #buttons() {
    const { undoButton: undo, redoButton: redo, resetButton: reset } = this;
    undo.disabled = !this.#history.canUndo;
    redo.disabled = !this.#history.canRedo;
    reset.disabled = sameState(this.state, this.options.check(this.options.initial));
  }

  #address() {
    try {
      globalThis.history.replaceState(globalThis.history.state, "", this.link);
    } catch {
      // a page that may not change its address still has the button
    }
  }

  /** @param {boolean} later  not at the beginning @returns {boolean} was the picture drawn */
  #fromLink(later) {
    const { id, fields } = this.options;
    try {
      const found = fromHash(globalThis.location.hash, id, fields);
      if (!found) return false;
      const next = this.options.check({ ...this.options.initial, ...found });
      this.box.scrollIntoView({ block: "center" });
      if (sameState(next, this.state)) return false;
      this.#history.push(next);
      this.#become(next);
      say(this.general, "");
      return true;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      const kept = later ? "The last state stays" : "The first state is shown instead";
      say(this.general, `The link's state could not be taken. ${error.message} ${kept}.`);
      return false;
    }
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const target = event.target;
    const writing = target instanceof HTMLInputElement && (target.type === "text" || target.type === "number");
    if (writing || !(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key !== "z" && key !== "y") return;
    event.preventDefault();
    this.step(key === "y" || event.shiftKey ? 1 : -1);
  }

  /** @param {string} name @param {() => void} act @param {number} pause */
  #later(name, act, pause) {
    this.#stop(name);
    this.#timers.set(name, setTimeout(act, pause));
  }

  /** @param {string} name */
  #stop(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

let frames = 0;

function nextNumber() {
  return ++frames;
}
