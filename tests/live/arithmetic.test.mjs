/** The arithmetic programs of the page against those in Python (arithmetic_goldens.py). */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

import { algorithmAnswer, algorithmSteps, rightText } from "../../mi_lab/live/js/explorers/algorithm_steps.js";
import { checkAlgorithm, classWords, failingQuestion, resized } from "../../mi_lab/live/js/explorers/algorithm_run.js";
import {
  classNames, sumClass, drawUntil, moveNames, moveWords, movedAnswer, sumText, readSum, sumTokens, SYMBOLS, sumTokenNames,
} from "../../mi_lab/live/js/explorers/arithmetic_task.js";
import { checkArithmetic, withModel } from "../../mi_lab/live/js/explorers/arithmetic_run.js";
import { NodeCounts, nodeIndex, oneRequest, scanQuestions, shortBits, tokensOfBits } from "../../mi_lab/live/js/explorers/arithmetic_scan.js";
import { random } from "./tools.mjs";

function golden() {
  let file = join(process.env.MI_LAB_GOLDEN ?? mkdtempSync(join(tmpdir(), "mi-lab-golden-")), "arithmetic.questions");
  if (!process.env.MI_LAB_GOLDEN) {
    const root = fileURLToPath(new URL("../..", import.meta.url));
    execFileSync(process.env.PYTHON ?? "python3", ["-m", "tests.live.arithmetic_goldens", file], { cwd: root });
  }
  return JSON.parse(readFileSync(file, "utf8"));
}

const { every, sampled, stepped, moves, classes } = golden();
const read = (text, digits = null) => readSum(text, { digits, operations: "+-" }, "question");

function compare({ digits, questions, right, classes: names, answers }) {
  questions.forEach((text, i) => {
    const q = read(text, digits);
    assert.equal(sumText(q), text);
    assert.equal(rightText(q), right[i], text);
    assert.equal(sumClass(q), names[i], text);
    for (const [name, all] of Object.entries(answers)) assert.equal(algorithmAnswer(q, name), all[i], `${name}: ${text}`);
  });
  return questions.length;
}

test("all questions of two digits, every algorithm", () => {
  assert.deepEqual(every.map(compare), [10_000, 10_000]);
});

test("questions of every class of 1 to 15 digits, every algorithm", () => {
  assert.equal(sampled.length, 30);
  sampled.forEach(compare);
  assert.ok(Object.values(sampled.at(-2).answers).some((all) => all.some((x, i) => x !== sampled.at(-2).right[i])));
});

test("every step: what is known, what is written and why", () => {
  const names = new Set();
  for (const [name, text, wanted] of stepped) {
    const got = algorithmSteps(read(text), name).map(({ sources, ...step }) => step);
    assert.deepEqual(got, wanted, `${name}: ${text}`);
    names.add(name);
  }
  assert.equal(names.size, 9);
});

test("a carry comes from the column that decided it", () => {
  const at = (name) => algorithmSteps(read("1999+8001"), name)[8];
  assert.deepEqual(at("st_sv").sources, { 3: 0, 2: 0, 1: 0, 0: 0 });
  assert.deepEqual(at("look_back_2").sources, { 3: null, 2: null, 1: 0, 0: 0 });
});

test("what an interchange must do", () => {
  const seen = new Set();
  for (const [digits, operations, all] of moves) {
    for (const [name, clean, store, wanted] of all) {
      const [one, two] = [read(clean, digits), read(store, digits)];
      assert.ok(moveNames(one, two, operations).includes(name), `${name}: ${clean}, ${store}`);
      seen.add(name.replace(/\d/, ""));
      assert.equal(movedAnswer(one, two, name).map((t) => SYMBOLS[t]).join(""), wanted, `${name}: ${clean}, ${store}`);
    }
  }
  assert.equal(seen.size, 17);
  assert.deepEqual(moveNames(read("12+34"), read("12-34"), "+"), []);
});

test("classes and tokens", () => {
  for (const [n, operations, names] of classes) assert.deepEqual(classNames(n, operations), names);
  assert.deepEqual(sumTokenNames(2), ["D1", "D0", "OPR", "D'1", "D'0", "=", "SGN", "A2", "A1", "A0"]);
  assert.equal(sumTokens(read("55555+44446")).map((t) => SYMBOLS[t]).join(""), "55555+44446=+100001");
  for (const name of classNames(5, "+-")) assert.match(classWords(name), /column|carry|borrow/);
});

test("questions of a class are drawn from all of it", () => {
  const q = drawUntil(5, false, (one) => sumClass(one) === "S4", { random: random(3) });
  assert.equal(sumClass(q), "S4");
  assert.equal(drawUntil(3, true, (one) => sumClass(one) === "S4", { random: random(3), tries: 2000 }), null);
});

const SPEC = {
  most: 15,
  algorithms: Object.entries(every[0].answers).map(([name]) => ({
    name, text: name, description: "", role: "",
    rates: { "+": Array(15).fill(name === "look_back_2" ? 0.1 : 0), ...(name in every[1].answers ? { "-": Array(15).fill(0) } : {}) },
  })),
  classes: {},
};
const STATE = { question: "1999+8001", digits: 4, algorithm: "look_back_2", position: 7 };

test("a question that fails fails", () => {
  for (const digits of [3, 6, 15]) {
    const state = checkAlgorithm({ ...STATE, ...resized(STATE, digits) }, SPEC);
    const q = read(failingQuestion(SPEC, state, random(digits)), digits);
    assert.notEqual(algorithmAnswer(q, "look_back_2"), rightText(q));
  }
  assert.equal(failingQuestion(SPEC, { ...STATE, algorithm: "st_sv" }), null);
});

test("states are made whole or refused in one sentence", () => {
  assert.deepEqual(checkAlgorithm({ ...STATE, question: " 12 \u2212 7=5", digits: 1, algorithm: "st_sv", position: 40 }, SPEC),
    { question: "12-07", digits: 2, algorithm: "st_sv", position: 8 });
  const refused = [
    [{ question: "12" }, /operator is missing/], [{ question: "1+2+3" }, /one operator; this one has 2/], [{ question: "+3" }, /first number is missing/],
    [{ question: "3-" }, /second number is missing/], [{ question: "1+x" }, /\u201cx\u201d is no part/], [{ question: "<b>1</b>+2" }, /\u201c<\u201d is no part/],
    [{ question: "\u0661+2" }, /is no part/], [{ question: `${"9".repeat(16)}+1` }, /16 digits; the most here is 15/],
    [{ algorithm: "abacus" }, /no such algorithm/], [{ algorithm: "ripple", question: "3-2" }, /only adds/],
    [{ digits: 16 }, /from 1 to 15/], [{ digits: 2.5 }, /whole number/], [{ position: -1 }, /from 0 to 47/],
  ];
  for (const [changes, message] of refused) assert.throws(() => checkAlgorithm({ ...STATE, ...changes }, SPEC), message);
  assert.throws(() => readSum("123+4", { digits: 2, operations: "+" }, "q"), /123 has 3 digits; this model\u2019s numbers have 2/);
  assert.throws(() => readSum("1-4", { digits: 2, operations: "+" }, "q"), /This model only adds/);
});

// ---- the explorer of the trained models ----

const MODELS = {
  models: [
    { name: "add", text: "", digits: 5, operations: "+", layers: 2, heads: 3, seeds: [0, 2] },
    { name: "sub", text: "", digits: 3, operations: "-", layers: 1, heads: 2, seeds: [1] },
    { name: "mix", text: "", digits: 3, operations: "+-", layers: 2, heads: 3, seeds: [0] },
  ],
  weights: {},
};
const FIRST = { question: "45678+54322", other: "12345+54321", model: "add", seed: 2, node: "P11L0H0", edits: [], mode: "mean", fact: "fail", move: "" };

test("a state of the model's explorer is made whole or refused", () => {
  const check = (/** @type {any} */ changes) => checkArithmetic({ ...FIRST, ...changes }, MODELS);
  assert.deepEqual(check({}), FIRST);
  assert.equal(check({ question: " 7 + 12 =19" }).question, "00007+00012");
  assert.deepEqual(check({ edits: ["P3L0H1:mean", "P11L1MLP:other", "P3L0H1:zero"] }).edits, ["P3L0H1:zero", "P11L1MLP:other"]);
  assert.equal(check({ move: "ST3" }).move, "ST3");
  assert.equal(check({ move: "MT3" }).move, "");
  assert.equal(check({ fact: "S5" }).fact, "S5");
  assert.equal(check({ fact: "M2" }).fact, "fail");
  const refused = [
    [{ model: "gpt" }, /no such model/], [{ seed: 1 }, /this model has 0, 2/], [{ question: "1-2" }, /only adds/], [{ question: "123456+1" }, /6 digits; this model\u2019s numbers have 5/],
    [{ other: "5+" }, /second number is missing/], [{ node: "L0H0" }, /nodes go from P0L0H0 to P17L1MLP/], [{ node: "P18L0H0" }, /nodes go from/], [{ node: "<b>" }, /is no node/],
    [{ node: "P3L2H0" }, /nodes go/], [{ node: "P3L0H3" }, /heads 0 to 2/], [{ edits: ["P3L0H1"] }, /replaced by mean, zero, other/], [{ edits: ["P99L0H1:zero"] }, /nodes go/],
    [{ mode: "half" }, /replaced by/], [{ fact: "colour" }, /coloured/], [{ move: "<i>" }, /no such sub-task/],
  ];
  for (const [changes, message] of refused) assert.throws(() => check(changes), message);
});

test("another model takes along what it can", () => {
  const state = { ...FIRST, edits: ["P3L0H1:zero", "P17L0H0:mean", "P4L0H2:mean"] };
  const next = checkArithmetic({ ...state, ...withModel(state, "sub", MODELS) }, MODELS);
  assert.deepEqual(next, { ...FIRST, model: "sub", seed: 1, question: "678-322", other: "345-321", node: "P11L0H0", edits: ["P3L0H1:zero"] });
  const back = checkArithmetic({ ...next, ...withModel(next, "add", MODELS) }, MODELS);
  assert.equal(back.question, "00678+00322");
  assert.equal(withModel(FIRST, "mix", MODELS).question, "678+322");
  assert.equal(withModel({ ...FIRST, node: "P17L1H2" }, "sub", MODELS).node, "P7L0H0");
});

test("counts of a scan", () => {
  const [, , model] = MODELS.models;
  const asked = { S0: 0, S1: 0 };
  const nodes = 12 * 2 * 4;
  const counts = new NodeCounts(model, { hits: new Float32Array(nodes * (1 + 5 + 2)), questions: 0, dropped: 0, asked });
  const bits = new Float32Array(nodes);
  const node = nodeIndex("P7L1MLP", model);
  assert.equal(node, (7 * 2 + 1) * 4 + 3);
  bits[node] = 1 + 4 + 8;
  counts.add("S1", "001+009", bits);
  bits[node] = 0;
  counts.add("S0", "001+001", bits);
  assert.equal(counts.share(node), 0.5);
  assert.equal(counts.within(node, "S1"), 1);
  assert.deepEqual(counts.failing(node), ["S1"]);
  assert.deepEqual(tokensOfBits(counts.impact(node), 3), ["SGN", "A2", "A1"]);
  assert.equal(shortBits(counts.impact(node), 3), "\u00b1 2\u20131");
  assert.deepEqual([shortBits(2, 3), shortBits(2 + 8, 3), shortBits(0, 3), shortBits(2 + 4 + 8 + 16, 3)], ["3", "3 1", "", "3\u20130"]);
  assert.deepEqual(counts.examples.get(node), [{ name: "S1", text: "001+009" }]);
});

test("questions of a scan: as many of each class", async () => {
  const found = await scanQuestions(MODELS.models[2], 3, new AbortController().signal);
  assert.equal(found.length, 3 * classNames(3, "+-").length);
  for (const { name, q } of found) assert.equal(sumClass(q), name);
  await assert.rejects(scanQuestions({ ...MODELS.models[0], digits: 15 }, 500, AbortSignal.abort()), /abort/i);
});

test("two workers that want a model at once ask for it once", async () => {
  const asked = [];
  const source = oneRequest(async (key) => {
    asked.push(key);
    if (key === "none") throw new Error("there is no such model");
    return new Uint8Array([1, 2, 3]);
  });
  const [a, b] = await Promise.all([source("one"), source("one")]);
  assert.equal(a, b);
  assert.deepEqual(asked, ["one"]);
  await assert.rejects(Promise.all([source("none"), source("none")]), /no such model/);
  await assert.rejects(source("none"), /no such model/);
  assert.deepEqual(asked, ["one", "none", "none"]); // after a failure it may be asked for again
});

test("every sub-task that can be moved is said in words", () => {
  for (const pair of [["12+34", "56+78"], ["56-12", "78-34"], ["12-56", "34-78"]]) {
    for (const name of moveNames(...pair.map((x) => read(x)), "+-")) assert.match(moveWords(name), /column \d: [a-z -]+$|A\d as the other/);
  }
});
