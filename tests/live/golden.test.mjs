/** The engine says what torch says: every shape, every kind of edit, both kernels. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { goldens } from "./files.mjs";
import { check } from "./tools.mjs";

for (const [name, golden] of goldens) {
  for (const kernel of ["wasm", "js"]) {
    test(`${name} agrees with torch on the ${kernel} kernel`, async (t) => {
      const { cases, logits, activations, wrong } = await check(golden, kernel);
      t.diagnostic(`${cases} cases, logits to ${logits.toExponential(1)}, activations to ${activations.toExponential(1)}`);
      assert.deepEqual(wrong, []);
      assert.ok(cases >= 20);
    });
  }
}
