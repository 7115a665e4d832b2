// The dashboards that ship, and what is in them.
import { readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('../grafana/', import.meta.url));

/** All, by file. */
export const boards = readdirSync(folder)
  .filter((file) => file.endsWith('.json'))
  .sort()
  .map((file) => ({ file, board: JSON.parse(readFileSync(folder + file, 'utf8')) }));

/** Panels that show something, those in rows too. */
export const panels = (board) => board.panels.flatMap((panel) => (panel.type === 'row' ? (panel.panels ?? []) : [panel]));

/** The variables, without those that name data sources. */
export const variables = (board) => board.templating.list.filter((variable) => variable.type !== 'datasource');

/** Whether a query, a variable or a panel asks ClickHouse. */
export const asksClickHouse = ({ datasource }) => datasource?.type === 'grafana-clickhouse-datasource';
