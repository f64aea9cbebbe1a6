/** How a page that loads modules starts its worker. Bundles bring a `spawn` of their own. */

/** A worker with the engine. */
export function spawn() {
  return new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
}
