// A picture of each dashboard, by Grafana's own components in a headless Chromium.
//
// node draw.mjs PACKAGES TO PROMETHEUS DOCS CLICKHOUSE AGENTWATCH ROWS RECORDINGS
import { createRequire } from 'node:module';
import { execFile } from 'node:child_process';
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { asksClickHouse, boards, panels } from '../boards.mjs';
import { ClickHouse } from '../clickhouse.mjs';
import { fill } from '../data.mjs';
import * as promql from '../promql.mjs';
import { choices } from '../queries.mjs';
import { Report } from '../report.mjs';
import { RANGE, expanded, filled } from '../sql.mjs';

const [packages, to, prometheus, docs, clickhouseUrl, agentwatch, rows, recordings] = process.argv.slice(2);
/** These are in the README, so they are written there, too, and smaller. */
const SHOWN = { 'agentwatch-fleet': 'dashboard-fleet.png', 'agentwatch-incident': 'dashboard-incident.png' };
/** Seconds that Prometheus has read for when pictures are drawn, about. */
const READ = 60;
const run = promisify(execFile);
const clickhouse = new ClickHouse(clickhouseUrl);
const require = createRequire(path.join(path.resolve(packages), 'package.json'));

/** What Grafana calls a type of ClickHouse's. */
function typed(type) {
  if (/Array|Map|Tuple/.test(type)) return 'other';
  if (/Date/.test(type)) return 'time';
  if (/Bool/.test(type)) return 'boolean';
  return /Int|Float|Decimal/.test(type) ? 'number' : 'string';
}

const milliseconds = (text) => (text === null ? null : Date.parse(`${text.replace(' ', 'T').slice(0, 23)}Z`));

function frame(columns, list) {
  const fields = columns.map(({ name, type }, at) => {
    const kind = typed(type);
    const values = list.map((row) => row[at]);
    if (kind === 'time') return { name, type: kind, values: values.map(milliseconds) };
    if (kind === 'other') return { name, type: 'string', values: values.map((value) => value.join(', ')) };
    return { name, type: kind, values };
  });
  return { fields };
}

/** As the plugin does where a query gives rows and a graph wants lines: a frame for each value of the text columns. */
function lines({ fields }) {
  const [time, ...rest] = fields;
  const text = rest.filter(({ type }) => type === 'string');
  const numbers = rest.filter(({ type }) => type === 'number');
  const all = new Map();
  for (let at = 0; at < time.values.length; at += 1) {
    const labels = Object.fromEntries(text.map(({ name, values }) => [name, values[at]]));
    for (const { name, values } of numbers) {
      const key = JSON.stringify([name, labels]);
      if (!all.has(key)) all.set(key, { name, labels, times: [], values: [] });
      all.get(key).times.push(time.values[at]);
      all.get(key).values.push(values[at]);
    }
  }
  return [...all.values()].map(({ name, labels, times, values }) => ({
    fields: [{ name: 'time', type: 'time', values: times }, { name, type: 'number', labels: text.length ? labels : undefined, values }],
  }));
}

async function ofClickHouse(panel, values) {
  const { columns, rows: list } = await clickhouse.rows(expanded(panel.targets[0].rawSql, values));
  const whole = frame(columns, list);
  return panel.type === 'timeseries' ? lines(whole) : [whole];
}

async function ofPrometheus(panel, values, range) {
  const frames = [];
  const include = panel.transformations?.[1].options.include.names;
  for (const target of panel.targets) {
    const query = filled(target.expr, values);
    if (panel.type === 'timeseries') {
      const { result } = await promql.ask(prometheus, 'query_range', { query, start: range.from, end: range.to, step: 2 });
      for (const { metric, values: points } of result) {
        const legend = target.legendFormat.replace(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? '');
        frames.push({
          fields: [
            { name: 'time', type: 'time', values: points.map(([time]) => time * 1000) },
            { name: 'Value', type: 'number', labels: { legend }, values: points.map(([, value]) => Number(value)) },
          ],
        });
      }
    } else {
      const { result } = await promql.ask(prometheus, 'query', { query });
      frames.push(
        include
          ? { fields: include.map((name) => ({ name, type: 'string', values: result.map(({ metric }) => metric[name] ?? '') })) }
          : { fields: [{ name: 'Value', type: 'number', values: result.map(({ value }) => Number(value[1])) }] },
      );
    }
  }
  return frames;
}

/** What is chosen for a picture: the agent and the finding that have most to tell. */
function best(board, tried) {
  const wanted = { agent: 'rl-trainer', node: 'gpu-1' };
  return (
    tried.find((values) => Object.entries(wanted).every(([name, value]) => !(name in values) || values[name] === '$__all' || values[name] === value)) ?? tried[0]
  );
}

async function draw(board, bundle) {
  const tried = await choices(clickhouse, board);
  const values = best(board, tried);
  if ('finding' in values) {
    values.finding = (await clickhouse.rows(`SELECT id FROM findings WHERE agent = 'rl-trainer' AND message LIKE '%ssh%' ORDER BY time DESC LIMIT 1`)).rows[0][0];
  }
  const now = Math.floor(Date.now() / 1000);
  const own = panels(board).every((panel) => !asksClickHouse(panel)) ? { from: now - READ, to: now } : RANGE;
  const results = {};
  for (const panel of panels(board)) {
    try {
      results[panel.id] = { frames: await (asksClickHouse(panel) ? ofClickHouse(panel, values) : ofPrometheus(panel, values, own)) };
    } catch (error) {
      results[panel.id] = { error: error.message };
    }
  }
  const annotations = [];
  for (const { target, iconColor } of board.annotations.list) {
    const { rows: list } = await clickhouse.rows(expanded(target.rawSql, values));
    annotations.push(...list.map(([time]) => ({ time: milliseconds(time), color: iconColor })));
  }
  let range = own;
  if (board.uid === 'agentwatch-incident') {
    // There the reader chooses the time around the finding.
    const { rows: list } = await clickhouse.rows(`SELECT toUnixTimestamp(toDateTime(time)) FROM findings WHERE id = '${values.finding}'`);
    range = { from: list[0][0] - 60, to: list[0][0] + 60 };
  }
  const height = Math.max(...panels(board).map(({ gridPos: { y, h } }) => (y + h) * 38)) + 8;
  const drawn = JSON.stringify({ board, results, range, annotations, values, height }).replaceAll('<', '\\u003c');
  const page = path.join(to, `${board.uid}.html`);
  writeFileSync(
    page,
    `<!doctype html><meta charset="utf-8"><title>drawn</title><link rel="stylesheet" href="page.css"><style>body{margin:0;background:#111217}</style><div id="page"></div>
<script>window.DRAWN = ${drawn}; window.__grafana_public_path__ = '';</script><script src="${bundle}"></script>`,
  );
  const picture = path.join(to, `${board.uid}.png`);
  const chromium = (...more) =>
    run(
      'chromium',
      ['--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', `--window-size=1600,${height + 54}`,
        '--virtual-time-budget=10000', '--run-all-compositor-stages-before-draw', ...more, `file://${page}`],
      { maxBuffer: 1 << 28, timeout: 120_000 },
    );
  const { stdout } = await chromium('--dump-dom');
  const failed = /<title>failed: ([^<]*)/.exec(stdout);
  await chromium(`--screenshot=${picture}`);
  if (SHOWN[board.uid]) await chromium('--force-device-scale-factor=0.7', `--screenshot=${path.join(docs, SHOWN[board.uid])}`);
  return failed ? [failed[1]] : statSync(picture).size < 20_000 ? ['there is next to nothing in it'] : [];
}

mkdirSync(to, { recursive: true });
const bundle = path.join(path.resolve(to), 'page.js');
await require('esbuild').build({
  entryPoints: [fileURLToPath(new URL('page.jsx', import.meta.url))],
  bundle: true,
  format: 'iife',
  outfile: bundle,
  nodePaths: [path.join(path.resolve(packages), 'node_modules')],
  define: { 'process.env.NODE_ENV': '"production"', 'process.env': '{}', global: 'window' },
  loader: { '.svg': 'dataurl', '.ttf': 'dataurl', '.woff2': 'dataurl', '.png': 'dataurl' },
  logLevel: 'error',
});
await clickhouse.migrate(agentwatch);
await fill(clickhouse, { rows, recordings });
const report = new Report();
for (const { board } of boards) {
  const picture = path.join(to, `${board.uid}.png`);
  report.note(picture, await draw(board, bundle));
  console.log(picture);
}
report.end();
