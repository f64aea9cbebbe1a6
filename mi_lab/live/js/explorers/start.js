/** Where explorers begin: in the places of a built page, and as anywidgets. */

import { h } from "./dom.js";
import { sameState } from "./link.js";

/** @typedef {import("./link.js").State} State */

/** @type {Map<string, any>} Kinds of explorers: classes (root, spec, initial state, options). */
const kinds = new Map();
/** @type {Map<string, ((Explorer: any) => void)[]>} */
const wanted = new Map();

/**
 * An explorer's class is here: its part has come.
 * @param {string} kind
 * @param {any} Explorer
 */
export function register(kind, Explorer) {
  kinds.set(kind, Explorer);
  for (const give of wanted.get(kind) ?? []) give(Explorer);
  wanted.delete(kind);
}

/** The class of a kind, if it is here. @param {string} kind */
export function kindKnown(kind) {
  return kinds.get(kind);
}

/**
 * An explorer's class, from a script beside the book's own unless it is here.
 * @param {string} kind
 * @returns {Promise<any>}
 */
function explorerOf(kind) {
  if (kinds.has(kind)) return Promise.resolve(kinds.get(kind));
  return new Promise((resolve, reject) => {
    wanted.set(kind, [...(wanted.get(kind) ?? []), resolve]);
    const name = `_static/mi-lab-live-${kind}.js`;
    if (document.querySelector(`script[src*="${name}"]`)) return;
    const src = new URL((document.documentElement.dataset.content_root ?? "./") + name, document.baseURI).href;
    document.head.append(h("script", { src, onerror: () => reject(new Error(`${name} could not be loaded`)) }));
  });
}

/**
 * Turn every place that waits for an explorer into one: an element with data-mi-live and, in a script
 * of type application/json, {kind, id, spec, state}. What stands there goes when the explorer is ready.
 * A place that the browser has not read to its end stays for the next call.
 * @param {ParentNode} [root]
 */
export function upgradeAll(root = document) {
  for (const place of root.querySelectorAll("[data-mi-live]")) {
    if (!(place instanceof HTMLElement) || place.dataset.miLive !== "waiting" || !isRead(place)) continue;
    place.dataset.miLive = "coming";
    whenNear(place, () => void upgrade(place));
  }
}

/** Is the element there with all that is in it? So it is when something follows it. @param {HTMLElement} place */
function isRead(place) {
  if (document.readyState !== "loading") return true;
  for (let node = /** @type {Element | null} */ (place); node; node = node.parentElement) if (node.nextSibling) return true;
  return false;
}

/** The still picture stays. @param {HTMLElement} place */
function refuse(place) {
  place.dataset.miLive = "failed";
  place.append(h("p", { role: "alert" }, "The live figure could not be loaded; this is a still picture of it."));
  return null;
}

/** @param {HTMLElement} place */
async function upgrade(place) {
  const still = /** @type {HTMLElement | null} */ (place.querySelector(".mi-live-still"));
  const script = place.querySelector("script[type='application/json']");
  const Explorer = await explorerOf(place.dataset.miKind ?? "").catch(() => refuse(place));
  if (!Explorer) return;
  const { id, spec, state } = JSON.parse(script?.textContent ?? "{}");
  const root = h("div", { class: "mi-live-root", hidden: true });
  place.append(root);
  const linked = isLinked(place);
  const goThere = () => linked && place.scrollIntoView({ block: "start" });
  goThere();
  const ready = () => {
    root.hidden = false;
    still?.remove();
    goThere(); // again: it has another height than the still picture
    place.dataset.miLive = "ready";
    place.dispatchEvent(new CustomEvent("mi-live-ready", { bubbles: true }));
  };
  const explorer = new Explorer(root, spec, state, {
    id,
    onReady: () => {
      ready();
      explorer.attention?.redraw();
      explorer.output?.redraw();
    },
  });
  /** @type {any} */ (place).miLive = explorer;
  explorer.begin();
  setTimeout(() => (root.hidden = false), 150); // a slow model shows its progress below the still picture
}

/** Does the page's address name this explorer and a state? @param {HTMLElement} place */
function isLinked(place) {
  return place.id !== "" && globalThis.location.hash.startsWith(`#${place.id}?`);
}

/**
 * At once if the place is near what is seen, else when it comes near.
 * @param {HTMLElement} place
 * @param {() => void} act
 */
function whenNear(place, act) {
  if (isLinked(place) || place.getBoundingClientRect().top < 1.5 * globalThis.innerHeight) return act();
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    act();
  }, { rootMargin: "800px" });
  watch.observe(place);
}

/**
 * The view of an anywidget. Its traits are the fields of the state; models come from the kernel.
 * @param {{model: any, el: HTMLElement}} view
 */
export function render({ model, el }) {
  const { kind, id, spec, fields } = model.get("_live");
  const read = () => Object.fromEntries(fields.map((/** @type {string} */ name) => [name, model.get(name)]));
  /** @type {Map<string, {resolve: (x: Uint8Array) => void, reject: (x: Error) => void}>} */
  const waiting = new Map();
  const onMessage = (/** @type {any} */ message, /** @type {DataView[]} */ buffers) => {
    const call = waiting.get(message.key);
    if (!call) return;
    waiting.delete(message.key);
    const bytes = buffers?.[0];
    if (bytes) call.resolve(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    else call.reject(new Error(message.error ?? "The kernel sent no model."));
  };
  const ask = (/** @type {string} */ key) =>
    new Promise((resolve, reject) => {
      waiting.set(key, { resolve, reject });
      model.send({ want: "model", key });
    });
  const root = h("div", { class: "mi-live" });
  el.append(root);
  const explorer = new (kinds.get(kind))(root, spec, read(), { id, ask, links: false });
  model.on("msg:custom", onMessage);
  const stop = explorer.frame.follow((/** @type {State} */ state) => {
    for (const name of fields) if (!sameState(state[name], model.get(name))) model.set(name, state[name]);
    model.save_changes();
  });
  const outside = () => explorer.frame.set(read());
  for (const name of fields) model.on(`change:${name}`, outside);
  /** @type {any} */ (el).miLive = explorer;
  explorer.begin();
  return () => {
    stop();
    model.off("msg:custom", onMessage);
    for (const name of fields) model.off(`change:${name}`, outside);
    explorer.end();
  };
}
