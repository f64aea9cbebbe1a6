/** Models behind messages: one at a time, of many jobs only the newest, files kept, failures forgotten. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { bytesOfBase64 } from "../../mi_lab/live/js/base64.js";
import { FarShelf } from "../../mi_lab/live/js/explorers/far_shelf.js";
import { goldens } from "./files.mjs";
import { distance, unpack } from "./tools.mjs";

/** A shelf with two models, and how often each was asked for. */
function shelfOf() {
  /** @type {Record<string, number>} */
  const asked = {};
  /** @type {Record<string, (bytes: Uint8Array) => Uint8Array>} */
  const spoil = {};
  const shelf = new FarShelf(async (key) => {
    asked[key] = (asked[key] ?? 0) + 1;
    const golden = goldens.get(key);
    if (!golden) throw new Error(`there is no ${key}`);
    const bytes = bytesOfBase64(golden.model);
    return spoil[key] ? spoil[key](bytes) : bytes;
  });
  return { shelf, asked, spoil };
}

const run = (/** @type {string} */ key) => async (/** @type {any} */ client) => {
  const [item] = goldens.get(key).cases;
  const { logits } = await client.run({ tokens: item.tokens, edits: item.edits });
  assert.ok(distance(logits, unpack(item.logits)) <= 1e-4, key);
  return key;
};

test("jobs find their model, whose file is asked for once", async () => {
  const { shelf, asked } = shelfOf();
  assert.equal(shelf.has("arithmetic"), false);
  for (const key of ["arithmetic", "odd", "odd", "arithmetic"]) assert.equal(await shelf.latest(key, run(key)), key);
  assert.deepEqual(asked, { arithmetic: 1, odd: 1 });
  const fresh = [];
  for (const key of ["arithmetic", "odd", "odd"]) fresh.push(await shelf.latest(key, async (_, loaded) => loaded));
  assert.deepEqual(fresh, [false, true, false]);
  assert.equal(shelf.has("odd"), true);
  shelf.close();
  assert.equal(await shelf.latest("odd", run("odd")), null);
});

test("of many jobs the first under way and the newest are done", async () => {
  const { shelf } = shelfOf();
  await shelf.latest("odd", run("odd"));
  /** @type {string[]} */
  const done = [];
  const slow = shelf.latest("odd", async () => {
    await new Promise((resolve) => setTimeout(resolve, 30));
    done.push("slow");
    return "slow";
  });
  await new Promise((resolve) => setTimeout(resolve, 5));
  const rest = ["odd", "arithmetic", "odd", "arithmetic"].map((key, i) => shelf.latest(key, async () => (done.push(`${key} ${i}`), i)));
  assert.deepEqual(await Promise.all([slow, ...rest]), ["slow", null, null, null, 3]);
  assert.deepEqual(done, ["slow", "arithmetic 3"]);
});

test("a model that can't be had is said, forgotten and may be asked for again; the one before stays", async () => {
  const { shelf, asked, spoil } = shelfOf();
  await shelf.latest("odd", run("odd"));
  await assert.rejects(shelf.latest("none", run("none")), /there is no none/);
  spoil.arithmetic = (bytes) => bytes.subarray(0, bytes.length - 9);
  await assert.rejects(shelf.latest("arithmetic", run("arithmetic")), { name: "ModelFileError" });
  assert.equal(await shelf.latest("odd", async (client, loaded) => (await run("odd")(client), loaded)), false);
  delete spoil.arithmetic;
  assert.equal(await shelf.latest("arithmetic", run("arithmetic")), "arithmetic");
  assert.equal(asked.arithmetic, 2);
  await assert.rejects(shelf.latest("odd", async () => Promise.reject(new RangeError("a job's own error"))), /own error/);
  assert.equal(await shelf.latest("odd", run("odd")), "odd");
});
