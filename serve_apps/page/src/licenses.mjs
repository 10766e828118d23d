// Writes dist/licenses.txt: the licences of what is bundled. Run by `npm run build`, with the environment's Python.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const find = "from importlib.util import find_spec; print(find_spec('onnxruntime').submodule_search_locations[0])";
const runtime = execFileSync("python", ["-c", find], { encoding: "utf8" }).trim(); // its npm package has no licence file
const modules = new URL("../../../node_modules/", import.meta.url).pathname;

const files = {
  "ONNX Runtime Web (onnxruntime-web)": [`${runtime}/LICENSE`, `${runtime}/ThirdPartyNotices.txt`],
  "Swagger UI (swagger-ui-dist)": ["LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"].map(
    (name) => `${modules}swagger-ui-dist/${name}`,
  ),
};

const parts = Object.entries(files).flatMap(([name, paths]) => [
  `${"=".repeat(80)}\n${name}\n${"=".repeat(80)}\n`,
  ...paths.map((path) => readFileSync(path, "utf8")),
]);
writeFileSync(new URL("../dist/licenses.txt", import.meta.url), parts.join("\n"));
