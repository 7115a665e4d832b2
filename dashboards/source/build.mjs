// Writes dashboards/grafana/*.json; with --check it writes nothing, and fails where a file is not what it should be.
import { readFileSync, writeFileSync, readdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('../grafana/', import.meta.url));
const check = process.argv.includes('--check');
const names = ['agent', 'fleet', 'gpu', 'health', 'incident', 'network', 'node'];
let wrong = 0;
for (const name of names) {
  const { default: board } = await import(`./${name}.mjs`);
  const text = JSON.stringify(board, null, 2) + '\n';
  const file = `${folder}agentwatch-${name}.json`;
  let there = '';
  try {
    there = readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  if (there === text) continue;
  if (check) {
    console.error(`${file} is not what dashboards/source/${name}.mjs says: cargo xtask dashboards --write`);
    wrong += 1;
  } else {
    writeFileSync(file, text);
  }
}
for (const file of readdirSync(folder).filter((file) => file.endsWith('.json'))) {
  if (names.some((name) => file === `agentwatch-${name}.json`)) continue;
  if (check) {
    console.error(`${folder}${file} has no source: cargo xtask dashboards --write removes it`);
    wrong += 1;
  } else {
    rmSync(folder + file);
  }
}
process.exit(wrong ? 1 : 0);
