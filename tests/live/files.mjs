/** Golden cases from the folder MI_LAB_GOLDEN (see goldens.py), or written there first. */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

function folder() {
  if (process.env.MI_LAB_GOLDEN) return process.env.MI_LAB_GOLDEN;
  const made = mkdtempSync(join(tmpdir(), "mi-lab-golden-"));
  const root = fileURLToPath(new URL("../..", import.meta.url));
  execFileSync(process.env.PYTHON ?? "python3", ["-m", "tests.live.goldens", made], { cwd: root });
  return made;
}

const where = folder();
const read = (/** @type {string} */ name) => JSON.parse(readFileSync(join(where, name), "utf8"));

/** Name -> golden cases of one model. */
export const goldens = new Map(
  readdirSync(where)
    .filter((name) => name.endsWith(".json"))
    .map((name) => [name.slice(0, -5), read(name)]),
);

/** GELU from torch. */
export const geluTable = read("gelu.table");
