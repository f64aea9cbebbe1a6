/** A session that reuses gives bit for bit what a fresh one gives, and computes no more than it must. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { goldens } from "./files.mjs";
import { activationNames } from "../../mi_lab/live/js/edits.js";
import { distance, prepare, random } from "./tools.mjs";

for (const kernel of ["wasm", "js"]) {
  for (const name of ["arithmetic", "odd", "odd_attention"]) {
    test(`a walk through tokens and edits: ${name}, ${kernel}`, async () => {
      const golden = goldens.get(name);
      const { engine, reused, donors } = await prepare(golden, kernel);
      const fresh = engine.session();
      const next = random(7);
      const pick = (/** @type {number} */ n) => Math.floor(next() * n);
      const { n_ctx, d_vocab } = engine.config;
      const names = activationNames(engine.config);
      const tokens = Int32Array.from({ length: n_ctx }, () => pick(d_vocab));
      const edits = golden.cases.map((/** @type {any} */ item) => item.edits).filter((/** @type {any} */ e) => e.length);
      /** @type {any[]} */
      let now = [];
      let saved = 0;
      for (let step = 0; step < 60; step++) {
        if (next() < 0.5) tokens[pick(n_ctx)] = pick(d_vocab);
        if (next() < 0.6) now = next() < 0.3 ? [] : [...edits[pick(edits.length)], ...(next() < 0.3 ? edits[pick(edits.length)] : [])];
        const resolved = donors.resolve(now);
        reused.forward(tokens, resolved);
        fresh.forget();
        fresh.forward(tokens, resolved);
        for (const activation of names) {
          const [a, b] = [reused.get(activation).data, fresh.get(activation).data];
          assert.equal(distance(a, b), 0, `step ${step}: ${activation} after ${JSON.stringify(now)}`);
        }
        assert.equal(fresh.computed, engine.config.n_layers * n_ctx);
        saved += fresh.computed - reused.computed;
      }
      assert.ok(saved > 0);
    });
  }
}

test("runs up to a row leave the rest to a later run", async () => {
  const golden = goldens.get("pathfinding");
  const { engine, reused: session, donors } = await prepare(golden, "wasm");
  const fresh = engine.session();
  const names = activationNames(engine.config);
  const next = random(13);
  const pick = (/** @type {number} */ n) => Math.floor(next() * n);
  const { n_ctx: n, d_vocab, n_layers, d_model } = engine.config;
  const tokens = Int32Array.from({ length: n }, () => pick(d_vocab));
  const edits = golden.cases.map((/** @type {any} */ item) => donors.resolve(item.edits));
  session.forward(tokens);
  for (let step = 0; step < 40; step++) {
    tokens[pick(n)] = pick(d_vocab);
    const some = next() < 0.5 ? [] : edits[pick(edits.length)];
    const upTo = next() < 0.3 ? Infinity : 1 + pick(n);
    session.forward(tokens, some, upTo);
    assert.ok(session.computed <= n_layers * Math.min(upTo, n));
    fresh.forget();
    fresh.forward(tokens, some);
    const rows = Math.min(upTo, n) * d_model; // what is below is whole, whatever came before
    for (let l = 0; l < n_layers; l++) {
      const name = `blocks.${l}.resid_post`;
      assert.equal(distance(session.get(name).data.subarray(0, rows), fresh.get(name).data.subarray(0, rows)), 0, `step ${step}, ${name}`);
    }
  }
  session.forward(tokens);
  fresh.forget();
  fresh.forward(tokens);
  for (const name of names) assert.equal(distance(session.get(name).data, fresh.get(name).data), 0, name);
  tokens[30] = (tokens[30] + 1) % d_vocab;
  assert.equal(session.forward(tokens, [], 31).computed, n_layers);
  assert.equal(session.forward(tokens, [], 31).computed, 0);
  assert.equal(session.forward(tokens).computed, n_layers * (n - 31));
});

test("what is computed is what is behind and above a change", async () => {
  const { engine, reused: session } = await prepare(goldens.get("pathfinding"), "wasm");
  const { n_ctx: n, n_layers } = engine.config;
  const tokens = new Int32Array(n);
  const computed = (/** @type {any[]} */ ...edits) => session.forward(tokens, edits).computed;
  assert.equal(computed(), n * n_layers);
  assert.equal(computed(), 0);
  tokens[40] = 1;
  assert.equal(computed(), (n - 40) * n_layers);
  assert.equal(computed({ node: "L5H0", value: 0 }), n);
  assert.equal(computed(), n);
  assert.equal(computed({ node: "P50L3MLP", value: 0 }), 2 * (n - 50));
  assert.equal(computed({ node: "P60L5MLP", value: 0 }, { node: "P50L3MLP", value: 0 }), 0);
  assert.equal(computed(), 2 * (n - 50));
  const knockOut = { layer: 5, queries: [n - 1], keys: [3] };
  assert.equal(computed({ knockOut }), 1);
  assert.equal(computed({ knockOut: { ...knockOut, renormalise: false } }), 1);
});

test("a refused run leaves the last one whole", async () => {
  const { engine, reused: session } = await prepare(goldens.get("odd"), "wasm");
  const tokens = new Int32Array(engine.config.n_ctx);
  const before = session.forward(tokens).logits.slice();
  const wrong = [
    [[99], [], /Token 99 is outside this model's vocabulary 0\.\.10/],
    [[1.5], [], /Token 1.5/],
    [[NaN], [], /Token NaN/],
    [[], [], /at least 1/],
    [new Int32Array(7), [], /at most 6 tokens, not 7/],
    [[tokens, tokens], [], /made for 1 sequences/],
    [tokens, [{ node: "L9H0", value: 0 }], /no layer 9: they go from 0 to 1/],
    [tokens, [{ node: "L0H3", value: 0 }], /no head 3/],
    [tokens, [{ node: "P6L0H0", value: 0 }], /no position 6/],
    [tokens, [{ node: "<b>", value: 0 }], /"<b>" is not a node/],
    [tokens, [{ node: "L0H0", value: [1, 2] }], /has 30, 5, 5 numbers, not 2/],
    [tokens, [{ activation: "blocks.0.nothing", value: 0 }], /no activation "blocks.0.nothing"/],
    [tokens, [{ activation: "blocks.2.attn.z", value: 0 }], /no activation/],
    [tokens, [{ activation: "logits", value: 0 }], /no activation/],
    [tokens, [{ knockOut: { layer: 0, queries: [0], keys: [0] } }], /Query 0 would have no key left/],
    [tokens, [{ knockOut: { layer: 0, queries: [9], keys: [0] } }], /no query 9/],
    [tokens, [{ node: "L0H0", value: 0, row: 1 }], /no sequence 1/],
  ];
  for (const [what, edits, message] of wrong) {
    // @ts-ignore: wrong on purpose
    assert.throws(() => session.forward(what, edits), { name: "RangeError", message });
  }
  assert.deepEqual(session.logits, before);
  assert.equal(session.forward(tokens).computed, 0);
});

test("a batch is its sequences side by side, with edits of one of them", async () => {
  const golden = goldens.get("odd");
  const { engine, reused: session, donors } = await prepare(golden, "wasm", 3);
  const single = engine.session();
  const next = random(3);
  const rows = [0, 1, 2].map(() => Int32Array.from({ length: 5 }, () => Math.floor(next() * 11)));
  const edits = (/** @type {number | undefined} */ row) => [
    { node: "L0H1", value: 0, ...(row === undefined ? {} : { row }) },
    { knockOut: { layer: 1, queries: [4], keys: [1] }, ...(row === undefined ? {} : { row }) },
  ];
  for (const last of [0, 1, 2]) {
    rows[last][2] = last;
    session.forward(rows, edits(1));
    rows.forEach((tokens, row) => {
      single.forward(tokens, row === 1 ? edits(undefined) : []);
      for (const name of activationNames(engine.config)) {
        const part = session.get(name).data;
        const size = part.length / 3;
        assert.ok(distance(part.subarray(row * size, (row + 1) * size), single.get(name).data) < 1e-6, name);
      }
    });
  }
  assert.ok(donors);
  const all = session.forward(rows).snapshot();
  assert.deepEqual(session.forward(rows, [{ node: "L0H0", value: all }]).logits, session.forward(rows).logits);
});

test("a copied session goes on from the other's run; other weights start afresh", async () => {
  const { engine, model, reused: first } = await prepare(goldens.get("arithmetic"), "wasm");
  const second = engine.session();
  const tokens = new Int32Array(engine.config.n_ctx);
  first.forward(tokens);
  second.copyFrom(first);
  assert.equal(second.forward(tokens).computed, 0);
  assert.deepEqual(second.logits, first.logits);
  assert.ok(second.forward(tokens, [{ node: "L0H0", value: 0 }]).computed > 0);
  assert.notDeepEqual(second.logits, first.logits);
  const before = first.logits.slice();
  const tensors = model.tensors();
  tensors.get("unembed.b_U")?.fill(3);
  engine.setWeights(tensors);
  assert.equal(first.forward(tokens).computed, 2 * tokens.length);
  assert.notDeepEqual(first.logits, before);
  engine.setWeights(model.tensors());
  assert.deepEqual(first.forward(tokens).logits, before);
  engine.session();
  assert.throws(() => engine.session(), /no memory/);
});
