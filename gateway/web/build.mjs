// Builds the style sheets and the scripts into gateway/assets/dist, for televisions of 2018 (Chrome 53).
import { build } from "esbuild";
import { mkdir } from "node:fs/promises";

const out = new URL("../assets/dist/", import.meta.url).pathname;
await mkdir(out, { recursive: true });
await build({
  absWorkingDir: new URL(".", import.meta.url).pathname,
  entryPoints: ["src/mantel.css", "src/tv.css", "src/live.ts", "src/tv.ts", "src/upload.ts"],
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: "chrome53",
  legalComments: "eof",
  charset: "utf8",
  logLevel: "info",
});
