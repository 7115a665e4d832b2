// Each PromQL expression on a Prometheus that has read a real daemon: it must give samples, with the labels that the
// panel speaks of. `node promql.mjs URL`
import { asksClickHouse, boards, panels, variables } from './boards.mjs';
import { Report } from './report.mjs';
import { filled } from './sql.mjs';

export async function ask(url, path, words) {
  const answer = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(words)}`);
  const { status, error, data } = await answer.json();
  if (status !== 'success') throw new Error(error);
  return data;
}

/** The values of a dashboard's variables: all, or the one node that there is. */
export async function chosen(url, board) {
  const values = { clickhouse: 'x', prometheus: 'y' };
  const nodes = await ask(url, 'label/node/values', { 'match[]': 'node:agentwatch_up:count' });
  for (const variable of variables(board)) {
    values[variable.name] = variable.includeAll ? '$__all' : variable.name === 'node' ? (nodes[0] ?? '') : '';
  }
  return values;
}

/** The labels that a panel reads. */
function wanted(panel, target) {
  const legend = [...(target.legendFormat ?? '').matchAll(/\{\{(\w+)\}\}/g)].map(([, name]) => name);
  const columns = panel.transformations?.flatMap(({ options }) => options.include?.names ?? []) ?? [];
  return [...legend, ...columns];
}

async function main([url]) {
  const report = new Report();
  for (const { board } of boards) {
    const name = board.title.split(' / ')[1];
    const values = await chosen(url, board);
    for (const variable of variables(board).filter((variable) => !asksClickHouse(variable))) {
      const [, metric, label] = /^label_values\((.*), (\w+)\)$/.exec(variable.query.query) ?? [];
      const found = metric ? await ask(url, `label/${label}/values`, { 'match[]': metric }) : [];
      report.note(`${name}: variable ${variable.name}`, found.length ? [] : 'no values');
    }
    for (const panel of panels(board)) {
      for (const target of (panel.targets ?? []).filter((target) => !asksClickHouse(target))) {
        const at = `${name}: ${panel.title}`;
        try {
          const { result } = await ask(url, 'query', { query: filled(target.expr, values) });
          const wrong = [];
          if (!result.length) wrong.push(`no samples: ${target.expr}`);
          for (const label of wanted(panel, target)) {
            if (!result.some(({ metric }) => label in metric)) wrong.push(`no sample has ${label}`);
          }
          report.note(at, wrong);
        } catch (error) {
          report.note(at, `${error.message}: ${target.expr}`);
        }
      }
    }
  }
  report.end();
}

if (process.argv[1] === new URL(import.meta.url).pathname) await main(process.argv.slice(2));
