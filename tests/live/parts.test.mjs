/** The parts: half floats, SHA-256, GELU, base64, model files that are not whole. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { bytesOfBase64 } from "../../mi_lab/live/js/base64.js";
import { geluInPlace } from "../../mi_lab/live/js/gelu.js";
import { fetchBytes, loadModel } from "../../mi_lab/live/js/load.js";
import { hex, plainSha256, sha256 } from "../../mi_lab/live/js/sha256.js";
import { checkConfig, halvesToFloats, layout, readModel } from "../../mi_lab/live/js/weights.js";
import { geluTable, goldens } from "./files.mjs";

test("SHA-256 without the browser's help", async () => {
  for (const n of [0, 1, 3, 55, 56, 63, 64, 65, 119, 1000, 100_003]) {
    const bytes = Uint8Array.from({ length: n }, (_, i) => (i * 31 + n) & 255);
    const right = createHash("sha256").update(bytes).digest("hex");
    assert.equal(hex(plainSha256(bytes)), right);
    assert.equal(await sha256(bytes), right);
  }
});

test("every half precision number", () => {
  const floats = halvesToFloats(Uint16Array.from({ length: 65536 }, (_, i) => i));
  const at = (/** @type {number} */ bits) => floats[bits];
  assert.equal(at(0x3c00), 1);
  assert.equal(at(0xc000), -2);
  assert.equal(at(0x7bff), 65504);
  assert.equal(at(1), 2 ** -24);
  assert.equal(at(0x0400), 2 ** -14);
  assert.ok(Object.is(at(0x8000), -0));
  assert.equal(at(0x7c00), Infinity);
  assert.ok(Number.isNaN(at(0x7e00)));
  for (let i = 1; i < 0x7c00; i++) assert.ok(floats[i] > floats[i - 1]);
});

test("GELU to 1e-6 of torch's in double precision", () => {
  const x = Float32Array.from([...geluTable.x, NaN, 1e30, -1e30]);
  const y = x.slice();
  geluInPlace(y, 0, y.length);
  geluTable.gelu.forEach((/** @type {number} */ want, /** @type {number} */ i) => {
    assert.ok(Math.abs(y[i] - want) <= 2e-7 * Math.max(1, Math.abs(want)), `gelu(${x[i]}) = ${y[i]}, not ${want}`);
  });
  assert.ok(Number.isNaN(y[y.length - 3]));
  assert.deepEqual([...y.slice(-2)], [x[x.length - 2], 0]);
});

const golden = goldens.get("odd");
const whole = bytesOfBase64(golden.model);
const changed = (/** @type {(bytes: Uint8Array) => Uint8Array | void} */ change) => {
  const copy = whole.slice();
  return change(copy) ?? copy;
};
/** A file with another header, and the hash that belongs to it. */
function withHeader(/** @type {(header: any) => any} */ change) {
  const length = new DataView(whole.buffer).getUint32(40, true);
  const header = JSON.parse(Buffer.from(whole.subarray(44, 44 + length)).toString());
  const text = Buffer.from(JSON.stringify(change(header)));
  const rest = Buffer.concat([Buffer.from(Uint32Array.of(text.length).buffer), text, whole.subarray(44 + length)]);
  return Buffer.concat([whole.subarray(0, 8), createHash("sha256").update(rest).digest(), rest]);
}

test("a broken model file is refused in one sentence", async () => {
  /** @type {[Uint8Array | ArrayBuffer, RegExp][]} */
  const broken = [
    [new Uint8Array(0), /not a model file of the lab/],
    [new TextEncoder().encode("<html>404 not found</html>".repeat(9)), /not a model file/],
    [whole.subarray(0, 30), /not a model file/],
    [whole.subarray(0, whole.length - 1), /damaged or cut short/],
    [changed((b) => void (b[b.length - 1] ^= 1)), /damaged/],
    [changed((b) => void (b[60] ^= 1)), /damaged/],
    [changed((b) => void (b[9] ^= 1)), /damaged/],
    [changed((b) => Buffer.concat([b, b])), /damaged/],
    [withHeader((h) => ({ ...h, config: { ...h.config, n_layers: 3 } })), /has \d+ bytes, but its header speaks of \d+/],
    [withHeader((h) => ({ ...h, config: { ...h.config, d_model: -1 } })), /can't run/],
    [withHeader((h) => ({ ...h, config: { ...h.config, act: "swish" } })), /can't run/],
    [withHeader((h) => ({ ...h, config: null })), /can't run/],
    [withHeader((h) => ({ ...h, dtype: "int8" })), /lacks its type/],
    [withHeader((h) => ({ ...h, labels: [] })), /labels/],
    [withHeader(() => 3), /can't run/],
  ];
  for (const [bytes, message] of broken) {
    await assert.rejects(readModel(bytes), { name: "ModelFileError", message });
  }
  await assert.rejects(readModel(whole, { sha256: "0".repeat(64) }), /not the one that this page was made for/);
  await assert.rejects(loadModel({ base64: "<b>" }), { name: "ModelFileError", message: /not base64/ });
});

test("a whole file gives config, weights and means", async () => {
  const model = await readModel(whole, { sha256: golden.sha256 });
  assert.deepEqual(model.labels, [0]);
  assert.equal(model.config.d_vocab_out, 3);
  const tensors = model.tensors();
  for (const [name, shape] of layout(model.config)) {
    assert.equal(tensors.get(name)?.length, shape.reduce((a, b) => a * b, 1), name);
  }
  assert.deepEqual(model.extras.get("mean.0.blocks.1.attn.z")?.shape, [6, 3, 5]);
  assert.throws(() => model.tensors(9), /holds the models 0, not 9/);
  assert.throws(() => checkConfig({}), /can't run/);
  const offset = new Uint8Array(whole.length + 1); // bytes at an odd place
  offset.set(whole, 1);
  assert.equal((await readModel(offset.subarray(1))).sha256, golden.sha256);
});

test("a file is fetched with progress, and what goes wrong is said", async (t) => {
  const before = globalThis.fetch;
  t.after(() => (globalThis.fetch = before));
  const answers = (/** @type {() => Response} */ make) => (globalThis.fetch = async () => make());
  answers(() => new Response(whole, { headers: { "content-length": String(whole.length) } }));
  /** @type {number[][]} */
  const seen = [];
  const onProgress = (/** @type {number} */ done, /** @type {number | null} */ total) => seen.push([done, total ?? -1]);
  assert.deepEqual(Buffer.from(await fetchBytes({ url: "m.bin" }, { onProgress })), Buffer.from(whole));
  assert.deepEqual(seen.at(-1), [whole.length, whole.length]);
  answers(() => new Response("", { status: 404 }));
  await assert.rejects(fetchBytes({ url: "m.bin" }), /the server answered 404/);
  answers(() => {
    throw new TypeError("failed");
  });
  await assert.rejects(fetchBytes({ url: "m.bin" }), { name: "ModelFileError", message: /could not be fetched/ });
});
