/** What is read off a run: attribution sums up, the lens ends in the logits, sweeps are runs. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { allNodes, answer, argmax, attribution, meanActivations, measureOf, softmax, sweepNodes } from "../../mi_lab/live/js/analysis.js";
import { nodeName, parseNode } from "../../mi_lab/live/js/edits.js";
import { vocabOut } from "../../mi_lab/live/js/weights.js";
import { goldens } from "./files.mjs";
import { distance, prepare } from "./tools.mjs";

for (const [name, golden] of goldens) {
  test(`parts sum up to the logits: ${name}`, async () => {
    const { engine, reused: session } = await prepare(golden, "wasm");
    const vocab = vocabOut(engine.config);
    const targets = Array.from({ length: vocab }, (_, t) => t);
    const edits = [{ node: "L0H0", value: 0 }, { activation: "blocks.0.resid_post", positions: [2], value: 0.3 }];
    for (const some of [[], edits]) {
      session.forward(golden.cases[0].tokens, some);
      for (const row of [0, 2, session.n - 1]) {
        const { parts, values } = attribution(session, row, targets);
        const sums = targets.map((t) => parts.reduce((sum, _, i) => sum + values[i * vocab + t], 0));
        assert.ok(distance(sums, session.logits.subarray(row * vocab, (row + 1) * vocab)) < 1e-4);
        const byEdits = values.subarray(parts.indexOf("edits") * vocab, (parts.indexOf("edits") + 1) * vocab);
        const size = Math.max(...byEdits.map(Math.abs));
        assert.ok(some.length && row === 2 ? size > 0.01 : size < 1e-4, `edits: ${size}`);
        if (some.length) assert.ok(values.subarray(parts.indexOf("L0H0") * vocab).slice(0, vocab).every((x) => x === 0));
      }
    }
    assert.throws(() => attribution(session, 999, [0]), /no row 999/);
    assert.throws(() => attribution(session, 0, [vocab]), /no output token/);
  });

  test(`the lens of the last residual stream is the logits: ${name}`, async () => {
    const { engine, reused: session } = await prepare(golden, "wasm");
    session.forward(golden.cases[0].tokens);
    const logits = session.logits.slice();
    assert.equal(distance(session.lens(`blocks.${engine.config.n_layers - 1}.resid_post`), logits), 0);
    assert.ok(distance(session.lens("blocks.0.resid_pre"), logits) > 0.01);
    assert.deepEqual(session.logits, logits);
    assert.throws(() => session.lens("blocks.0.attn.z"), /residual stream/);
    assert.throws(() => session.lens("blocks.99.resid_pre"), /no activation/);
  });
}

test("a sweep gives what one run per node gives, in the order of the nodes", async () => {
  const golden = goldens.get("arithmetic");
  const { engine, reused, donors } = await prepare(golden, "wasm");
  const fresh = engine.session();
  const { tokens } = golden.cases[0];
  const nodes = allNodes(engine.config, [3, 17, null]);
  assert.equal(nodes.length, 3 * 2 * 4);
  assert.deepEqual(nodes.slice(0, 5).map(nodeName), ["P3L0H0", "P3L0H1", "P3L0H2", "P3L0MLP", "P3L1H0"]);
  assert.deepEqual(parseNode(nodeName(nodes[23])), nodes[23]);
  const [{ value }] = /** @type {any} */ (donors.resolve([{ node: "L0H0", value: "mean" }]));
  const measure = measureOf({ loss: [10, 18] });
  /** @type {number[]} */
  const progress = [];
  const onProgress = (/** @type {number} */ done) => progress.push(done);
  const got = await sweepNodes(reused, tokens, nodes, value, measure, { onProgress });
  const want = nodes.map((node) => measure(fresh.forward(tokens, [{ node: nodeName(node), value }])));
  assert.ok(distance(got, want) < 1e-6);
  assert.equal(progress.at(-1), nodes.length);
  const ended = AbortSignal.abort(new Error("enough"));
  const slow = (/** @type {any} */ session) => {
    for (const start = performance.now(); performance.now() - start < 15; );
    return measure(session);
  };
  await assert.rejects(sweepNodes(reused, tokens, nodes, 0, slow, { signal: ended }), /enough/);
  const logit = measureOf({ logit: { row: 4, token: 2, minus: 1 } })(fresh);
  assert.equal(logit, fresh.logits[4 * 15 + 2] - fresh.logits[4 * 15 + 1]);
  assert.throws(() => measureOf({ loss: [10, 19] })(fresh), /next token/);
  const bits = [10, 11, 12].map((p) => 2 ** (p - 10) * Number(argmax(fresh.logits, p * 15, 15) !== fresh.tokens[p + 1]));
  assert.equal(measureOf({ wrong: [10, 13] })(fresh), bits[0] + bits[1] + bits[2]);
  assert.throws(() => measureOf({ wrong: [10, 19] })(fresh), /next token/);
});

test("the model's own answer: the sorter sorts", async () => {
  const { model, reused: session } = await prepare(goldens.get("sorting_paper"), "wasm");
  assert.equal(model.config.n_ctx, 21);
  const list = [11, 2, 49, 0, 3, 9, 30, 31, 7, 20];
  const tokens = [...list, 51, ...new Array(10).fill(0)];
  const n = model.config.d_vocab;
  const separator = n - 1;
  tokens[10] = separator;
  const out = answer(session, tokens, 10, 20);
  assert.deepEqual([...out.slice(11)], [...list].sort((a, b) => a - b));
  assert.deepEqual(session.tokens, out);
});

test("an answer ends with its end token, which fills the rest", async () => {
  const { model, engine, reused: session } = await prepare(goldens.get("sorting_paper"), "wasm");
  const [, n] = [engine.config.n_ctx, model.config.d_vocab];
  const list = [11, 2, 49, 0, 3, 9, 30, 31, 7, 20];
  const tokens = [...list, n - 1, ...new Array(10).fill(5)];
  const end = 7; // the sorter writes 0, 2, 3, 7
  const out = answer(session, tokens, 10, 20, [], end);
  assert.deepEqual([...out.slice(11)], [0, 2, 3, ...new Array(7).fill(end)]);
  assert.deepEqual(session.tokens, out);
  const fresh = engine.session().forward(out);
  assert.ok(distance(session.logits, fresh.logits) < 1e-6);
  session.forward(tokens);
  const again = answer(session, out, 10, 20, [], end); // the right guess is one run
  assert.deepEqual(again, out);
  assert.deepEqual(answer(session, out, 10, 20, [], 50), answer(session, tokens, 10, 20)); // it never comes
});

test("means over questions", async () => {
  const { engine, reused: session } = await prepare(goldens.get("odd"), "wasm");
  const questions = [new Int32Array(6).fill(1), new Int32Array(6).fill(2)];
  const [a, b] = questions.map((tokens) => session.forward(tokens).snapshot());
  const mean = meanActivations(session, questions);
  assert.deepEqual([...mean.values.keys()], [...a.values.keys()]);
  for (const [name, data] of mean.values) {
    const half = data.map((_, i) => ((a.values.get(name)?.[i] ?? NaN) + (b.values.get(name)?.[i] ?? NaN)) / 2);
    assert.ok(distance(data, half) < 1e-6);
  }
  const whole = session.forward(questions[0], [{ node: "L0H0", value: mean }]).logits.slice();
  const z = /** @type {Float32Array} */ (mean.values.get("blocks.0.attn.z"));
  const head0 = Array.from({ length: 6 }, (_, p) => [...z.subarray(p * 15, p * 15 + 5)]).flat();
  assert.deepEqual(session.forward(questions[0], [{ node: "L0H0", value: head0 }]).logits, whole);
  assert.throws(() => meanActivations(session, []), /at least one/);
  assert.throws(() => meanActivations(session, [[1, 2], [1, 2, 3]]), /one length/);
  assert.ok(engine);
});

test("softmax and argmax", () => {
  assert.equal(argmax([1, 3, 3, 2]), 1);
  assert.equal(argmax([9, 1, 3, 2], 1, 3), 1);
  const p = softmax([1000, 1000, -1000]);
  assert.deepEqual([...p], [0.5, 0.5, 0]);
});
