/** Controls of explorers: native elements, so that keyboard and screen reader come for free. */

import { h, say } from "./dom.js";

/** @typedef {import("./frame.js").Frame} Frame */

/**
 * A line of text. Good text is taken at every keystroke; what is wrong is said when the reader rests.
 * @param {Frame} frame
 * @param {string} name
 * @param {string} label
 * @param {{hint?: string, inputmode?: string, extra?: HTMLElement[]}} [options]
 */
export function textField(frame, name, label, { hint, inputmode = "text", extra = [] } = {}) {
  const id = `${frame.prefix}-${name}`;
  const input = h("input", {
    type: "text", id, spellcheck: "false", autocomplete: "off", autocapitalize: "off", inputmode, maxlength: "400",
    oninput: () => frame.set({ [name]: input.value }, { merge: name, typing: true }),
    onchange: () => frame.set({ [name]: input.value }, { merge: name }) && (input.value = frame.state[name]),
  });
  const error = frame.field(name, input, { show: (value) => (input.value = value) });
  const box = h("div", { class: "mi-x-field mi-x-wide" },
    h("label", { for: id }, label, hint ? h("span", { class: "mi-x-hint" }, ` ${hint}`) : null),
    h("div", { class: "mi-x-line" }, input, ...extra), error);
  return { box, input };
}

/**
 * A slider over ordered values.
 * @param {Frame} frame
 * @param {string} name
 * @param {string} label
 * @param {(state: import("./frame.js").State) => readonly number[]} options  may depend on the state
 * @param {(value: number, state: import("./frame.js").State) => string} text
 * @param {{change?: (value: number, state: import("./frame.js").State) => import("./frame.js").State, placeOf?: (state: import("./frame.js").State) => number}} [how]
 *   change: what a new value changes; default the field itself. placeOf: where the slider stands; default the field
 */
export function slider(frame, name, label, options, text, { change = (value) => ({ [name]: value }), placeOf = (state) => state[name] } = {}) {
  const id = `${frame.prefix}-${name}`;
  const input = h("input", {
    type: "range", id, min: "0", step: "1",
    oninput: () => frame.set(change(options(frame.state)[Number(input.value)], frame.state), { merge: name }),
  });
  const output = h("output", { for: id });
  const move = (/** @type {number} */ by) => {
    const all = options(frame.state);
    const at = all.indexOf(placeOf(frame.state)) + by;
    if (at >= 0 && at < all.length) frame.set(change(all[at], frame.state), { merge: name });
  };
  const arrow = (/** @type {string} */ sign, /** @type {string} */ what, /** @type {number} */ by) =>
    h("button", { type: "button", class: "mi-x-button mi-x-arrow", "aria-label": `${what} ${label}`, onclick: () => move(by) }, sign);
  const [back, on] = [arrow("\u2039", "previous", -1), arrow("\u203a", "next", 1)];
  const error = frame.field(name, input, {
    show: (_, state) => {
      const all = options(state);
      const value = placeOf(state);
      const at = all.indexOf(value);
      input.max = String(all.length - 1);
      input.value = String(at);
      input.disabled = all.length < 2;
      input.setAttribute("aria-valuetext", text(value, state));
      say(output, text(value, state));
      back.disabled = at <= 0;
      on.disabled = at >= all.length - 1;
    },
  });
  const box = h("div", { class: "mi-x-field" }, h("label", { for: id }, label), h("div", { class: "mi-x-line" }, back, input, on, output), error);
  return { box, input };
}

/**
 * A menu.
 * @param {Frame} frame
 * @param {string} name
 * @param {string} label
 * @param {(state: import("./frame.js").State) => readonly {value: string | number, text: string}[]} options
 * @param {{change?: (value: string | number, state: import("./frame.js").State) => import("./frame.js").State}} [how]
 *   change: what a new value changes; default the field itself
 */
export function menu(frame, name, label, options, { change = (value) => ({ [name]: value }) } = {}) {
  const id = `${frame.prefix}-${name}`;
  let shown = "";
  const select = h("select", {
    id,
    onchange: () => {
      const found = options(frame.state).find((one) => String(one.value) === select.value);
      if (found) frame.set(change(found.value, frame.state));
    },
  });
  const error = frame.field(name, select, {
    show: (value, state) => {
      const all = options(state);
      if (shown !== JSON.stringify(all)) {
        shown = JSON.stringify(all);
        select.replaceChildren(...all.map((one) => h("option", { value: one.value }, one.text)));
      }
      select.value = String(value);
    },
  });
  const box = h("div", { class: "mi-x-field" }, h("label", { for: id }, label), h("div", { class: "mi-x-line" }, select), error);
  return { box, input: select };
}

/** A small square in a head's colour, before its name. @param {string} colour */
export function swatch(colour) {
  return h("span", { class: "mi-x-swatch", style: `background:${colour}` });
}

/**
 * A few words side by side, one of them chosen.
 * @param {Frame} frame
 * @param {string} key  for ids
 * @param {string} label
 * @param {readonly {value: string, text: string, title?: string}[]} options
 * @param {(value: string) => void} choose
 * @param {string} [colour]
 */
export function segments(frame, key, label, options, choose, colour) {
  const name = `${frame.prefix}-${key}`;
  const inputs = options.map(({ value }) =>
    h("input", { type: "radio", name, id: `${name}-${value}`, value, onchange: () => choose(value) }));
  const pieces = options.flatMap(({ value, text, title }, i) => [inputs[i], h("label", { for: `${name}-${value}`, title }, text)]);
  const text = h("span", { id: `${name}-label`, class: "mi-x-label" }, colour ? swatch(colour) : null, label);
  const group = h("span", { class: "mi-x-segments" }, ...pieces);
  const box = h("div", { class: "mi-x-choice", role: "radiogroup", "aria-labelledby": text.id }, text, group);
  const show = (/** @type {string} */ value) => inputs.forEach((input) => (input.checked = input.value === value));
  return { box, show, inputs };
}

/**
 * A whole number from 0 to `most`.
 * @param {Frame} frame
 * @param {string} name
 * @param {string} label
 * @param {number} most
 */
export function numberField(frame, name, label, most) {
  const id = `${frame.prefix}-${name}`;
  const input = h("input", {
    type: "number", id, min: "0", max: String(most), step: "1",
    oninput: () => frame.set({ [name]: input.value === "" ? NaN : Number(input.value) }, { merge: name, typing: true }),
    onchange: () => frame.set({ [name]: input.value === "" ? NaN : Number(input.value) }, { merge: name }),
  });
  const error = frame.field(name, input, {
    show: (value) => {
      if (Number(input.value) !== value || input.value === "") input.value = String(value);
    },
  });
  const text = h("label", { for: id }, label);
  const box = h("div", { class: "mi-x-field mi-x-number" }, text, h("div", { class: "mi-x-line" }, input), error);
  return { box, input, text };
}
