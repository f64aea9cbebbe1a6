/** Models that run in a worker: one at a time, their files kept; of many jobs only the newest waits. */

import { connect } from "../client.js";
import { fetchBytes } from "../load.js";

/** @typedef {import("../client.js").Client} Client */
/** @typedef {import("../load.js").Source} Source */
/** @typedef {(client: Client, loaded: boolean) => Promise<any>} Job  loaded: the model was just put in */
/** @typedef {{key: string, bytes: Uint8Array, job: Job, resolve: (x: any) => void, reject: (x: unknown) => void}} Waiting */

const FILES_KEPT = 8;

/** A worker and its models. */
export class FarShelf {
  /** @type {Map<string, Promise<Uint8Array>>} */
  #files = new Map();
  /** @type {Promise<Client> | null} */
  #client = null;
  /** @type {Waiting | null} */
  #waiting = null;
  #busy = false;
  #inside = "";
  #turn = 0;
  #closed = false;

  /** @param {(key: string) => Source | Promise<Source>} sourceOf */
  constructor(sourceOf) {
    this.sourceOf = sourceOf;
  }

  /** Is this model's file here, or coming? @param {string} key */
  has(key) {
    return this.#files.has(key);
  }

  /**
   * Do a job with a model, after the job under way. Null: a newer one has taken its place. Throws an
   * Error with one sentence if the model can't be had; the one before then stays.
   * @param {string} key
   * @param {Job} job
   * @param {(done: number, total: number | null) => void} [onProgress]  of the model's file
   * @returns {Promise<any>}
   */
  async latest(key, job, onProgress) {
    const turn = ++this.#turn;
    this.#client ??= connect();
    const bytes = await this.file(key, onProgress);
    if (turn !== this.#turn || this.#closed) return null;
    return new Promise((resolve, reject) => {
      this.#waiting?.resolve(null);
      this.#waiting = { key, bytes, job, resolve, reject };
      if (!this.#busy) void this.#drain();
    });
  }

  /** End the worker. */
  close() {
    this.#closed = true;
    this.#client?.then((client) => client.close(), () => {});
  }

  /**
   * The bytes behind a key: a model's, or whatever else its source has. Throws an Error with one sentence.
   * @param {string} key
   * @param {(done: number, total: number | null) => void} [onProgress]
   */
  file(key, onProgress) {
    const coming = this.#files.get(key) ?? this.#fetch(key, onProgress);
    this.#files.delete(key);
    this.#files.set(key, coming); // the last used is the last to go
    for (const old of this.#files.keys()) if (this.#files.size > FILES_KEPT) this.#files.delete(old);
    return coming;
  }

  /** @param {string} key @param {((done: number, total: number | null) => void) | undefined} onProgress */
  #fetch(key, onProgress) {
    const coming = (async () => fetchBytes(await this.sourceOf(key), onProgress ? { onProgress } : {}))();
    coming.catch(() => this.#files.delete(key)); // it may be asked for again
    return coming;
  }

  async #drain() {
    this.#busy = true;
    while (this.#waiting) {
      const { key, bytes, job, resolve, reject } = this.#waiting;
      this.#waiting = null;
      try {
        const client = await /** @type {Promise<Client>} */ (this.#client);
        const fresh = this.#inside !== key;
        if (fresh) await client.load(bytes);
        this.#inside = key;
        resolve(await job(client, fresh));
      } catch (error) {
        if (error instanceof Error && error.name === "ModelFileError") this.#files.delete(key);
        reject(error);
      }
    }
    this.#busy = false;
  }
}
