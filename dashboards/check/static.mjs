// What holds between the dashboards, without any server: names, links, variables, units, places.
import { readFileSync } from 'node:fs';
import { boards, panels, variables } from './boards.mjs';
import { Report } from './report.mjs';

const report = new Report();
const byUid = new Map(boards.map(({ board }) => [board.uid, board]));
report.note('uids are unique', byUid.size === boards.length ? [] : boards.map(({ board }) => board.uid).join(', '));
const titles = new Set(boards.map(({ board }) => board.title));
report.note('titles are unique', titles.size === boards.length ? [] : [...titles].join(', '));

const names = (board) => new Set(board.templating.list.map(({ name }) => name));

/** Variables that a text has and the dashboard has not. */
function undefinedIn(board, text) {
  const own = names(board);
  return [...text.matchAll(/\$\{?(\w+)/g)].map(([, name]) => name).filter((name) => !name.startsWith('__') && !own.has(name)).map((name) => `${name} is no variable`);
}

/** Links that lead nowhere, or hand over what the other side does not know. */
function astray(text) {
  const wrong = [];
  for (const [url, uid, rest] of text.matchAll(/\/d\/([\w-]+)([^\s)]*)/g)) {
    const target = byUid.get(uid);
    if (!target) {
      wrong.push(`${url} leads to no dashboard`);
      continue;
    }
    for (const [, name] of rest.matchAll(/[?&]var-(\w+)=/g)) {
      if (!names(target).has(name)) wrong.push(`${url}: ${uid} has no variable ${name}`);
    }
  }
  return wrong;
}

/** All text in a value. */
function texts(value) {
  if (typeof value === 'string') return [value];
  return value && typeof value === 'object' ? Object.values(value).flatMap(texts) : [];
}

function wrongIn(board, panel) {
  const wrong = [...new Set(texts(panel).flatMap((text) => [...undefinedIn(board, text), ...astray(text)]))];
  const defaults = panel.fieldConfig?.defaults;
  if (!panel.title) wrong.push('it has no title');
  if (!defaults?.unit) wrong.push('it has no unit');
  if (!defaults?.noValue) wrong.push('it says nothing where there is nothing');
  if (!panel.targets?.length) wrong.push('it asks nothing');
  if (panel.targets?.some(({ datasource }) => datasource.type !== panel.datasource.type)) wrong.push('it asks another data source than it says');
  const { x, y, w, h } = panel.gridPos;
  for (const other of panels(board)) {
    const { x: ox, y: oy, w: ow, h: oh } = other.gridPos;
    if (other !== panel && x < ox + ow && ox < x + w && y < oy + oh && oy < y + h) wrong.push(`it lies upon ${other.title}`);
  }
  if (x + w > 24) wrong.push('it is out of the page');
  return wrong;
}

for (const { file, board } of boards) {
  const wrong = [];
  if (file !== `${board.uid}.json`) wrong.push(`its uid is ${board.uid}`);
  if (!board.tags.includes('agentwatch')) wrong.push('it lacks the tag by which the others find it');
  const ids = board.panels.map(({ id }) => id);
  if (new Set(ids).size !== ids.length) wrong.push('ids of panels are not unique');
  for (const used of ['clickhouse', 'prometheus']) {
    if (!names(board).has(used)) wrong.push(`no variable for the data source ${used}: links hand it on`);
  }
  for (const variable of variables(board)) wrong.push(...texts(variable.query).flatMap((text) => undefinedIn(board, text)));
  wrong.push(...texts(board.annotations).flatMap((text) => undefinedIn(board, text)));
  report.note(file, wrong);
  for (const panel of panels(board)) report.note(`${file}: ${panel.title}`, wrongIn(board, panel));
  // What a link hands over is of use only where the other side asks by it.
  const asked = JSON.stringify([board.panels, board.annotations, board.templating.list.map(({ query }) => query)]);
  report.note(
    `${file}: variables`,
    variables(board).filter(({ name }) => !new RegExp(`\\$\\{?${name}\\b`).test(asked)).map(({ name }) => `nothing asks by ${name}`),
  );
}

// A kind of event that there is not has no rows, and nobody would notice.
const source = readFileSync(new URL('../../agentwatch/src/event/mod.rs', import.meta.url), 'utf8');
const kinds = new Set(/const NAMES: &\[&str\] = &\[([^\]]*)\]/.exec(source)[1].match(/\w+/g));
for (const { file, board } of boards) {
  const asked = texts([board.panels, board.annotations]).flatMap((text) => [...text.matchAll(/\bkind (?:=|!=|IN|NOT IN) ?\(?((?:'\w+'(?:, )?)+)/g)]);
  const words = asked.flatMap(([, list]) => list.match(/\w+/g));
  report.note(`${file}: kinds of events`, words.filter((word) => !kinds.has(word)).map((word) => `there is no kind ${word}`));
}

// What is provided for Grafana names the data sources by the kinds that the dashboards ask for.
const provided = readFileSync(new URL('../grafana/provisioning/datasources/agentwatch.yaml', import.meta.url), 'utf8');
const types = new Set(boards.flatMap(({ board }) => board.templating.list.filter(({ type }) => type === 'datasource').map(({ query }) => query)));
for (const type of types) report.note(`provisioning: ${type}`, provided.includes(`type: ${type}\n`) ? [] : 'no such data source');
report.end();
