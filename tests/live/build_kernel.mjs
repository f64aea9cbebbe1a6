/**
 * mi_lab/live/js/wasm/kernel.ts -> mi_lab/live/js/kernel_wasm.js (the binary as base64 in a module).
 *
 *     npm ci --prefix tests/live && node tests/live/build_kernel.mjs
 *
 * With --check nothing is written: exit code 1 if the committed module is not what the source gives.
 */
import asc from "assemblyscript/asc";
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const live = new URL("../../mi_lab/live/js/", import.meta.url);
const source = await readFile(new URL("wasm/kernel.ts", live), "utf8");
/** @type {Uint8Array | undefined} */
let binary;
const { error, stderr } = await asc.main(
  ["kernel.ts", "-O3", "--noAssert", "--runtime", "stub", "--importMemory", "--enable", "simd", "-o", "kernel.wasm"],
  {
    readFile: (name) => (name === "kernel.ts" ? source : null),
    writeFile: (name, data) => {
      if (name === "kernel.wasm") binary = data;
    },
    listFiles: () => [],
  },
);
if (error || !binary) {
  console.error(stderr.toString());
  process.exit(1);
}
const digest = createHash("sha256").update(source).digest("hex").slice(0, 16);
const module = `// Built from wasm/kernel.ts (sha256 ${digest}) by tests/live/build_kernel.mjs; do not edit.
/** The WebAssembly SIMD kernel, ${binary.length} bytes, as base64. */
export const KERNEL_WASM =
  "${Buffer.from(binary).toString("base64")}";
`;
const target = new URL("kernel_wasm.js", live);
if (process.argv.includes("--check")) {
  const same = (await readFile(target, "utf8")) === module;
  console.log(same ? "kernel_wasm.js is up to date" : "kernel_wasm.js differs: run tests/live/build_kernel.mjs");
  process.exit(same ? 0 : 1);
}
await writeFile(target, module);
console.log(`${fileURLToPath(target)}: ${binary.length} bytes of WebAssembly`);
