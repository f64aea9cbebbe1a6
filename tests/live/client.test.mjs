/** The page's side, with the engine in this thread: the same messages as to a worker. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../../mi_lab/live/js/client.js";
import { bytesOfBase64 } from "../../mi_lab/live/js/base64.js";
import { goldens } from "./files.mjs";
import { meanActivations } from "../../mi_lab/live/js/analysis.js";
import { distance, prepare, unpack } from "./tools.mjs";

const golden = goldens.get("arithmetic");
const load = async () => {
  const client = await connect({ where: "page" });
  return { client, loaded: await client.load({ base64: golden.model, sha256: golden.sha256 }) };
};

test("load, run with everything, select", async () => {
  const { client, loaded } = await load();
  assert.equal(client.where, "page");
  assert.equal(loaded.sha256, golden.sha256);
  assert.equal(loaded.config.n_layers, 2);
  assert.equal(loaded.means, true);
  for (const item of golden.cases.slice(0, 12)) {
    const { logits, activations, lens, attribution, vocab, n } = await client.run({
      tokens: item.tokens,
      edits: item.edits,
      want: ["blocks.1.attn.pattern"],
      lens: ["blocks.1.resid_post"],
      attribution: { row: 3, targets: [1, 2] },
    });
    assert.ok(distance(logits, unpack(item.logits)) <= 1e-4, item.name);
    assert.deepEqual(activations["blocks.1.attn.pattern"].shape, [1, 3, 19, 19]);
    assert.deepEqual(lens["blocks.1.resid_post"].length, n * vocab);
    assert.equal(attribution?.values.length, 2 * (attribution?.parts.length ?? 0));
  }
  const own = await client.run({ tokens: golden.cases[0].tokens, answer: [12, 18] });
  assert.equal(own.tokens.length, 19);
  assert.deepEqual(await client.select(0), { label: 0 });
  await assert.rejects(client.select(5), /holds the models 0, not 5/);
});

test("errors come back with their names and sentences; the last model stays", async () => {
  const empty = await connect({ where: "page" });
  await assert.rejects(empty.run({ tokens: [0] }), /No model is loaded yet/);
  const { client } = await load();
  const item = golden.cases[0];
  const before = await client.run({ tokens: item.tokens });
  await assert.rejects(client.load({ base64: "AAAA" }), { name: "ModelFileError" });
  const damaged = bytesOfBase64(golden.model);
  damaged[500] ^= 1;
  await assert.rejects(client.load(damaged), { name: "ModelFileError", message: /damaged/ });
  await assert.rejects(client.run({ tokens: [77] }), { name: "RangeError", message: /Token 77/ });
  await assert.rejects(client.run({ tokens: item.tokens, edits: [{ node: "x", value: 0 }] }), /is not a node/);
  // @ts-ignore: wrong on purpose
  await assert.rejects(client.run({ tokens: item.tokens, edits: [{ node: "L0H0", value: "?" }] }), /another run/);
  await assert.rejects(client.call("eval", "1"), /no method/);
  assert.deepEqual((await client.run({ tokens: item.tokens })).logits, before.logits);
});

test("means over questions take the place of the file's", async () => {
  const { client } = await load();
  const questions = golden.cases.slice(0, 3).map((/** @type {any} */ item) => item.tokens);
  const request = { tokens: golden.cases[0].tokens, edits: [{ node: "L0H1", value: "mean" }, { node: "L1MLP", value: "mean" }] };
  const before = (await client.run(request)).logits;
  assert.deepEqual(await client.call("means", { questions }), { questions: 3 });
  const { reused: session } = await prepare(golden, "auto");
  const mean = meanActivations(session, questions);
  session.forward(request.tokens, request.edits.map(({ node }) => ({ node, value: mean })));
  const after = (await client.run(request)).logits;
  assert.ok(distance(after, session.logits) < 1e-5);
  assert.ok(distance(after, before) > 0.01);
  await assert.rejects(client.call("means", { questions: [] }), /at least one/);
  assert.deepEqual((await client.run(request)).logits, after);
});

test("the newest of several calls is answered, those it replaced get null", async () => {
  const { client } = await load();
  const { tokens } = golden.cases[0];
  const all = [0, 1, 2, 3].map((x) => client.latest("run", { tokens: [x, ...tokens.slice(1)] }));
  const done = await Promise.all(all);
  assert.deepEqual(done.map((x) => x?.tokens[0] ?? null), [0, null, null, 3]);
  await assert.rejects(client.latest("run", { tokens: [99] }), /Token 99/);
  assert.equal((await client.latest("run", { tokens })).tokens[0], tokens[0]);
});

test("a sweep reports progress, and a new one ends it", async () => {
  const { client } = await load();
  const { tokens } = golden.cases[0];
  const positions = tokens.map((/** @type {number} */ _, /** @type {number} */ i) => i);
  /** @type {import("../../mi_lab/live/js/serve.js").SweepRequest} */
  const request = { tokens, positions, value: "mean", measure: { loss: [12, 18] } };
  let seen = 0;
  const { nodes, values, clean } = await client.sweep(request, { onProgress: (done, total) => (seen = done / total) });
  assert.equal(nodes.length, 19 * 2 * 4);
  assert.equal(values.length, nodes.length);
  assert.equal(seen, 1);
  const dead = nodes.findIndex((x) => x.position === 18 && x.layer === 1);
  assert.ok(Math.abs(values[dead] - clean) < 1e-6, "behind the answer nothing matters");
  const long = Array.from({ length: 60 }, () => positions).flat(); // not done before the next one comes
  const first = client.sweep({ ...request, positions: long });
  const second = client.sweep({ ...request, positions: [3] });
  await assert.rejects(first, { name: "AbortError" });
  assert.equal((await second).values.length, 8);
});

test("without a worker the page does the work; a closed client says so", async () => {
  const broken = () => {
    throw new Error("no workers here");
  };
  assert.equal((await connect({ spawn: broken })).where, "page");
  await assert.rejects(connect({ spawn: broken, where: "worker" }), /no workers here/);
  const { client } = await load();
  const late = client.run({ tokens: golden.cases[0].tokens });
  client.close();
  await assert.rejects(late, /closed/);
  await assert.rejects(client.run({ tokens: [0] }), /closed/);
});
