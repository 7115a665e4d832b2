// Each query of each panel, variable and annotation on a real ClickHouse: on empty tables it must not fail, on recorded
// data it must give rows, with the columns that the panel speaks of.
//
// node queries.mjs URL AGENTWATCH ROWS RECORDINGS
import { asksClickHouse, boards, panels, variables } from './boards.mjs';
import { ClickHouse } from './clickhouse.mjs';
import { fill } from './data.mjs';
import { Report } from './report.mjs';
import { expanded } from './sql.mjs';

/** What may well have no rows: the panel tells of what should not be. */
const MAY_BE_EMPTY = new Set(['GPU: Mining findings', 'Fleet: High findings']);

/**
 * Values of a dashboard's variables, to be tried one after the other: where one value is chosen each that there is, else
 * all, and once the first of each. Where there is none, nothing is chosen, as in an empty Grafana.
 */
export async function choices(clickhouse, board) {
  let all = [{ clickhouse: 'x', prometheus: 'y' }];
  const first = {};
  for (const variable of variables(board)) {
    const next = [];
    for (const values of all) {
      let found = ['$__all'];
      if (asksClickHouse(variable)) {
        const { columns, rows } = await clickhouse.rows(expanded(variable.query, values));
        if (columns.length > 2) throw new Error(`variable ${variable.name} has more than a value and its text`);
        found = rows.map(([value]) => value);
        first[variable.name] ??= found[0] ?? '';
      }
      const tried = variable.includeAll ? ['$__all'] : found.length ? found : [''];
      for (const value of tried) next.push({ ...values, [variable.name]: value });
    }
    all = next;
  }
  return [...all, { ...all[0], ...first }];
}

const isTime = ({ type }) => /Date/.test(type);

/** What a panel speaks of and its rows do not have. */
function missing(panel, columns) {
  const names = new Set(columns.map(({ name }) => name));
  const wrong = [];
  const all = JSON.stringify(panel.fieldConfig);
  if (panel.type === 'table') {
    for (const { matcher } of panel.fieldConfig.overrides) {
      if (matcher.id === 'byName' && !names.has(matcher.options)) wrong.push(`it sets a column ${matcher.options}, which no row has`);
    }
  }
  for (const [, field] of all.matchAll(/__data\.fields\[\\\\?"?([^\\"\]]+)/g)) {
    if (!names.has(field)) wrong.push(`a link reads ${field}, which no row has`);
  }
  for (const [, label] of all.matchAll(/__field\.labels\.(\w+)/g)) {
    if (!names.has(label)) wrong.push(`its legend reads ${label}, which no row has`);
  }
  if (panel.type === 'timeseries') {
    if (!isTime(columns[0]) || columns[0].name !== 'time') wrong.push('its first column is not time');
    if (!columns.some(({ type }) => /Int|Float/.test(type))) wrong.push('it has no number');
  }
  return wrong;
}

/** Rows with something in them: a number that is not 0, where there is only one. */
function isSomething(panel, rows) {
  if (panel?.type === 'stat') return rows.some((row) => row.some((value) => value !== null && Number(value) !== 0));
  return rows.some((row) => row.some((value) => value !== null));
}

async function check(clickhouse, report, { empty }) {
  for (const { board } of boards) {
    const name = board.title.split(' / ')[1];
    const tried = await choices(clickhouse, board);
    const asked = [
      ...board.annotations.list.map((one) => ({ title: `annotation ${one.name}`, target: one.target })),
      ...panels(board).flatMap((panel) => (panel.targets ?? []).filter(asksClickHouse).map((target) => ({ title: panel.title, panel, target }))),
    ];
    for (const { title, panel, target } of asked) {
      const at = `${name}: ${title}${empty ? ' (empty tables)' : ''}`;
      try {
        let something = false;
        const wrong = new Set();
        for (const values of tried) {
          const { columns, rows } = await clickhouse.rows(expanded(target.rawSql, values));
          something ||= isSomething(panel, rows);
          for (const line of panel ? missing(panel, columns) : []) wrong.add(line);
        }
        if (!empty && !something && !MAY_BE_EMPTY.has(at)) wrong.add('no rows');
        report.note(at, [...wrong]);
      } catch (error) {
        report.note(at, error.message);
      }
    }
  }
}

export async function main([url, agentwatch, rows, recordings]) {
  const clickhouse = new ClickHouse(url);
  const report = new Report();
  await clickhouse.migrate(agentwatch);
  await check(clickhouse, report, { empty: true });
  await fill(clickhouse, { rows, recordings });
  await check(clickhouse, report, { empty: false });
  report.end();
}

if (process.argv[1] === new URL(import.meta.url).pathname) await main(process.argv.slice(2));
