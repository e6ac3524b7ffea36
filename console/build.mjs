// The page that the app serves: a few files of functions/console/assets, the same from the same source.
import { build } from 'esbuild';
import { fileURLToPath } from 'node:url';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

await build({
  absWorkingDir: here('.'),
  entryPoints: { console: 'src/main.tsx', charts: 'src/charts.ts' },
  external: ['./charts.js'],
  bundle: true,
  format: 'esm',
  target: 'es2022',
  minify: true,
  charset: 'utf8',
  legalComments: 'eof',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  outdir: process.argv[2] ?? here('../functions/console/assets'),
  logLevel: 'warning',
});
