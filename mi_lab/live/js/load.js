/** Where a model file comes from: bytes, base64 in the page, or an address, with progress. */

import { bytesOfBase64 } from "./base64.js";
import { ModelFileError, readModel } from "./weights.js";

/**
 * @typedef {object} Remote
 * @property {string} url  the binary file
 * @property {string} [script]  the same as a script (`export.to_script`), for pages opened from a folder
 * @property {number} [bytes]  its size, for the progress bar
 * @property {string} [sha256]  the hash that the page was built with
 */

/** @typedef {ArrayBuffer | Uint8Array | {base64: string, sha256?: string} | Remote} Source */

/**
 * @typedef {object} LoadOptions
 * @property {(done: number, total: number | null) => void} [onProgress]  bytes so far, of how many
 * @property {AbortSignal} [signal]
 */

/**
 * Load a model. Throws ModelFileError with one sentence for the reader.
 * @param {Source} source
 * @param {LoadOptions} [options]
 */
export async function loadModel(source, options = {}) {
  const expect = "sha256" in source ? { sha256: source.sha256 } : {};
  return readModel(await fetchBytes(source, options), expect);
}

/**
 * The bytes of a model file.
 * @param {Source} source
 * @param {LoadOptions} [options]
 * @returns {Promise<Uint8Array>}
 */
export async function fetchBytes(source, options = {}) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (source instanceof Uint8Array) return source;
  if ("base64" in source) return decode(source.base64);
  const fromFolder = globalThis.location?.protocol === "file:";
  if (fromFolder && source.script) return decode(await fromScript(source.script, options.signal));
  return fromAddress(source, options);
}

/** @param {string} text */
function decode(text) {
  try {
    return bytesOfBase64(text);
  } catch {
    throw new ModelFileError("The model in this page is damaged: it is not base64.");
  }
}

/**
 * @param {Remote} source
 * @param {LoadOptions} options
 */
async function fromAddress({ url, bytes = 0 }, { onProgress, signal }) {
  let response;
  try {
    response = await fetch(url, signal ? { signal } : {});
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ModelFileError("The model file could not be fetched; is the page still online?");
  }
  if (!response.ok || !response.body) {
    throw new ModelFileError(`The model file could not be fetched (the server answered ${response.status}).`);
  }
  const named = response.headers.get("content-encoding") ? 0 : Number(response.headers.get("content-length"));
  const total = bytes || named || null;
  /** @type {Uint8Array[]} */
  const parts = [];
  let done = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    done += part.value.length;
    onProgress?.(done, total);
  }
  const whole = new Uint8Array(done);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * A classic script beside the page may be loaded from a folder where `fetch` may not. It calls
 * `globalThis.miLabModel(base64)`.
 * @param {string} url
 * @param {AbortSignal} [signal]
 * @returns {Promise<string>}
 */
function fromScript(url, signal) {
  const place = /** @type {{miLabModel?: (text: string) => void}} */ (globalThis);
  const turn = waiting.then(
    () =>
      new Promise((resolve, reject) => {
        signal?.throwIfAborted();
        const script = document.createElement("script");
        /** @type {string | undefined} */
        let text;
        place.miLabModel = (given) => (text = given);
        script.onload = () => (script.remove(), text === undefined ? script.onerror?.("") : resolve(text));
        script.onerror = () => reject(new ModelFileError("The model file beside this page could not be read."));
        script.src = url;
        document.head.append(script);
        signal?.addEventListener("abort", () => reject(signal.reason));
      }).finally(() => delete place.miLabModel),
  );
  waiting = turn.catch(() => {});
  return /** @type {Promise<string>} */ (turn);
}

/** Scripts are loaded one after the other: they all call the same function. @type {Promise<unknown>} */
let waiting = Promise.resolve();
