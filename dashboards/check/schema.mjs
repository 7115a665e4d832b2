// Each dashboard against the schema that is made of Grafana's own types: the page, and the options of each panel by its
// kind. `node schema.mjs FOLDER`: what npm installed.
import { createRequire } from 'node:module';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { boards, panels } from './boards.mjs';
import { Report } from './report.mjs';

const folder = path.resolve(process.argv[2]);
const require = createRequire(path.join(folder, 'package.json'));
const { createGenerator } = require('ts-json-schema-generator');
const Ajv = require('ajv').default ?? require('ajv');

// What Grafana's types leave open is closed here: which panels there are, and what options those have. A query is the
// data source's own, so an annotation's is any object.
const raw = '@grafana/schema/dist/types/raw';
const KINDS = { stat: false, table: true, timeseries: true };
const page = `
import type * as d from '${raw}/dashboard/x/types.gen';
export interface Annotation extends Omit<d.AnnotationQuery, 'target'> { target?: Record<string, unknown> }
export interface Checked extends Omit<d.Dashboard, 'annotations'> { annotations?: { list?: Annotation[] } }`;
const panel = (kind, custom) => `
import type * as k from '${raw}/composable/${kind}/panelcfg/x/types.gen';
export interface Checked { options: k.Options; custom: ${custom ? 'Partial<k.FieldConfig>' : 'Record<string, never>'} }`;

/** What is wrong with a value, by a type: a function. Each has a schema of its own, for many types are called the same. */
function checker(source) {
  // Below the installed packages, so that the types are found.
  const place = mkdtempSync(path.join(folder, 'types-'));
  try {
    const file = path.join(place, 'types.ts');
    writeFileSync(file, source);
    const schema = createGenerator({ path: file, skipTypeCheck: true, additionalProperties: false }).createSchema('Checked');
    const validate = new Ajv({ strict: false, allErrors: true }).compile(schema);
    return (value) =>
      validate(value) ? [] : validate.errors.map((error) => `${error.instancePath} ${error.message} ${JSON.stringify(error.params)}`);
  } finally {
    rmSync(place, { recursive: true });
  }
}

const wrongPage = checker(page);
const wrongPanel = Object.fromEntries(Object.entries(KINDS).map(([kind, custom]) => [kind, checker(panel(kind, custom))]));
const wrong = (kind, { options, custom = {} }) => wrongPanel[kind]?.({ options, custom }) ?? [`no panel of kind ${kind} is checked`];

const report = new Report();
for (const { file, board } of boards) {
  report.note(file, wrongPage(board));
  for (const panel of panels(board)) {
    const { options, type, title, fieldConfig } = panel;
    report.note(`${file}: ${title}`, wrong(type, { options, custom: fieldConfig?.defaults.custom }));
  }
}
// A check that takes anything would be none.
const options = { ...boards.flatMap(({ board }) => panels(board)).find(({ type }) => type === 'stat').options, colour: 'red' };
report.note('an option that there is not', wrong('stat', { options }).length ? [] : ['it is not seen']);
report.end();
