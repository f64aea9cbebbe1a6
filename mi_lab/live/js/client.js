/**
 * The page's side of the engine: the same calls whether it runs in a worker or, where a page may
 * not start one, in the page itself.
 *
 *     const client = await connect();
 *     const { config } = await client.load({ url, script, bytes, sha256 }, { onProgress });
 *     const result = await client.latest("run", { tokens, edits });   // null: a newer call replaced it
 */

import { fetchBytes } from "./load.js";
import { serve } from "./serve.js";
import { spawn } from "./spawn.js";

/** @typedef {import("./serve.js").RunRequest} RunRequest */
/** @typedef {import("./serve.js").RunResult} RunResult */
/** @typedef {import("./serve.js").Loaded} Loaded */
/** @typedef {(...x: number[]) => void} Progress */
/** @typedef {{resolve: (x: any) => void, reject: (x: Error) => void, onProgress: Progress | undefined}} Call */
/** @typedef {{postMessage: (message: any, transfer: Transferable[]) => void, onmessage: any, terminate: () => void}} Line */

/** Milliseconds after which a worker that says nothing is given up. */
const PATIENCE = 10_000;

/**
 * A client, in a worker if one can be made.
 * @param {{where?: "worker" | "page" | "auto", spawn?: () => Worker}} [options]
 */
export async function connect({ where = "auto", spawn: start = spawn } = {}) {
  if (where !== "page") {
    try {
      return new Client(await ready(start()), "worker");
    } catch (error) {
      if (where === "worker") throw error;
    }
  }
  return new Client(localLine(), "page");
}

/**
 * The worker once it has started; rejects if it can't.
 * @param {Worker} worker
 * @returns {Promise<Worker>}
 */
function ready(worker) {
  return new Promise((resolve, reject) => {
    const fail = (/** @type {string} */ why) => {
      clearTimeout(timer);
      worker.terminate();
      reject(new Error(why));
    };
    const timer = setTimeout(fail, PATIENCE, "the worker does not answer");
    worker.onerror = (event) => {
      event.preventDefault();
      fail(`the worker could not start: ${event.message ?? "no reason given"}`);
    };
    worker.onmessage = () => {
      clearTimeout(timer);
      worker.onerror = null;
      resolve(worker);
    };
  });
}

/**
 * A line to a server in this very thread; every message waits for its turn, as with a worker.
 * @returns {Line}
 */
function localLine() {
  /** @type {any} */
  const far = { onmessage: null, postMessage: (/** @type {any} */ data) => setTimeout(() => near.onmessage?.({ data })) };
  /** @type {any} */
  const near = {
    onmessage: null,
    postMessage: (/** @type {any} */ data) => setTimeout(() => far.onmessage?.({ data })),
    terminate: () => (far.onmessage = null),
  };
  serve(far);
  return near;
}

/** Calls to an engine. Errors come back as they were thrown there, with their one-sentence message. */
export class Client {
  /** @type {Map<number, Call>} */
  #calls = new Map();
  /** @type {Map<string, {busy: boolean, waiting: {params: any, resolve: (x: any) => void, reject: (x: any) => void} | null}>} */
  #queues = new Map();
  #next = 0;
  #closed = "";
  #line;

  /**
   * @param {Line | Worker} line
   * @param {"worker" | "page"} where
   */
  constructor(line, where) {
    this.#line = line;
    this.where = where;
    line.onmessage = (/** @type {{data: any}} */ event) => this.#answer(event.data);
    if ("onerror" in line) line.onerror = () => this.close("The engine's worker stopped.");
  }

  /**
   * Fetch a model's bytes, check them and make it the one that is run. Throws Error named
   * ModelFileError with one sentence for a file that is not whole.
   * @param {import("./load.js").Source} source
   * @param {import("./load.js").LoadOptions & {kernel?: "auto" | "wasm" | "js", batch?: number}} [options]
   * @returns {Promise<Loaded>}
   */
  async load(source, { kernel = "auto", batch = 1, ...options } = {}) {
    const bytes = (await fetchBytes(source, options)).slice();
    const sha256 = "sha256" in source ? source.sha256 : undefined;
    return this.call("load", { bytes, kernel, batch, ...(sha256 && { sha256 }) }, { transfer: [bytes.buffer] });
  }

  /**
   * One run.
   * @param {RunRequest} request
   * @returns {Promise<RunResult>}
   */
  run(request) {
    return this.call("run", request);
  }

  /**
   * The effect of every node at some positions. A new sweep ends the one before with an AbortError.
   * @param {import("./serve.js").SweepRequest} request
   * @param {{onProgress?: Progress}} [options]
   * @returns {Promise<{nodes: import("./edits.js").Node[], values: Float32Array, clean: number}>}
   */
  sweep(request, options = {}) {
    return this.call("sweep", request, options);
  }

  /**
   * Another model of the loaded file, by its label.
   * @param {number} label
   */
  select(label) {
    return this.call("select", { label });
  }

  /**
   * As `call`, for a picture that follows a reader's hand: while a call of this method is under way,
   * only the newest one waits; those it replaces are answered with null.
   * @param {string} method
   * @param {any} params
   * @returns {Promise<any | null>}
   */
  latest(method, params) {
    const queue = this.#queues.get(method) ?? { busy: false, waiting: null };
    this.#queues.set(method, queue);
    return new Promise((resolve, reject) => {
      queue.waiting?.resolve(null);
      queue.waiting = { params, resolve, reject };
      if (!queue.busy) void this.#drain(method, queue);
    });
  }

  /** @param {string} method @param {{busy: boolean, waiting: any}} queue */
  async #drain(method, queue) {
    queue.busy = true;
    while (queue.waiting) {
      const { params, resolve, reject } = queue.waiting;
      queue.waiting = null;
      await this.call(method, params).then(resolve, reject);
    }
    queue.busy = false;
  }

  /**
   * Call a method of the server.
   * @param {string} method
   * @param {any} params
   * @param {{onProgress?: Progress | undefined, transfer?: Transferable[]}} [options]
   * @returns {Promise<any>}
   */
  call(method, params, { onProgress, transfer = [] } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new Error(this.#closed));
      const id = this.#next++;
      this.#calls.set(id, { resolve, reject, onProgress });
      this.#line.postMessage({ id, method, params }, transfer);
    });
  }

  /** End the worker. Calls under way are rejected. @param {string} [why] */
  close(why = "The engine was closed.") {
    this.#closed = why;
    this.#line.terminate();
    for (const call of this.#calls.values()) call.reject(new Error(why));
    this.#calls.clear();
  }

  /** @param {{id: number, result?: any, error?: {name: string, message: string}, progress?: number[]}} message */
  #answer({ id, result, error, progress }) {
    const call = this.#calls.get(id);
    if (!call) return;
    if (progress) return call.onProgress?.(...progress);
    this.#calls.delete(id);
    if (error) call.reject(Object.assign(new Error(error.message), { name: error.name }));
    else call.resolve(result);
  }
}
