// A ClickHouse on loopback, by HTTP.
import { execFileSync } from 'node:child_process';

const DATABASE = 'agentwatch';

export class ClickHouse {
  constructor(url) {
    this.url = url;
  }

  /** Sends SQL, and returns what comes; throws what the server says. */
  async send(sql, { body, settings = {}, database = DATABASE } = {}) {
    const url = new URL(this.url);
    if (database) url.searchParams.set('database', database);
    for (const [name, value] of Object.entries(settings)) url.searchParams.set(name, value);
    if (body !== undefined) url.searchParams.set('query', sql);
    const answer = await fetch(url, { method: 'POST', body: body ?? sql });
    const text = await answer.text();
    if (!answer.ok) throw new Error(text.trim().split('\n')[0].slice(0, 400));
    return text;
  }

  /** Names and types of the columns, and the rows. */
  async rows(sql) {
    // As the dashboards' user: it may only read.
    const text = await this.send(sql, { settings: { default_format: 'JSONCompact', readonly: 2, output_format_json_quote_64bit_integers: 0 } });
    const { meta, data } = JSON.parse(text);
    return { columns: meta, rows: data };
  }

  /** Makes the tables anew, empty: `agentwatch` is the program that knows them. */
  async migrate(agentwatch) {
    await this.send(`DROP DATABASE IF EXISTS ${DATABASE} SYNC`, { database: '' });
    execFileSync(agentwatch, ['db', 'init', '--url', this.url], { stdio: ['ignore', 'ignore', 'inherit'] });
  }

  /** Puts rows into a table; a name that it has not is an error. */
  async insert(table, rows) {
    const body = rows.map((row) => JSON.stringify(row)).join('\n');
    const settings = { date_time_input_format: 'best_effort', input_format_skip_unknown_fields: 0 };
    await this.send(`INSERT INTO ${table} FORMAT JSONEachRow`, { body, settings });
  }
}
