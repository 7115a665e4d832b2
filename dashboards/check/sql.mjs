// SQL as grafana-clickhouse-datasource sends it: variables put in, macros expanded, in its order.

/** Time of the page: six hours until now, and points half a minute apart. */
const NOW = Math.floor(Date.now() / 1000) + 60;
export const RANGE = { from: NOW - 6 * 3600, to: NOW, interval: 60 };

const time = (unix) => `toDateTime(${unix})`;
const timeMs = (unix) => `fromUnixTimestamp64Milli(${unix * 1000})`;

const MACROS = {
  timeFilter: (c) => `${c} >= ${time(RANGE.from)} AND ${c} <= ${time(RANGE.to)}`,
  timeFilter_ms: (c) => `${c} >= ${timeMs(RANGE.from)} AND ${c} <= ${timeMs(RANGE.to)}`,
  timeInterval: (c) => `toStartOfInterval(toDateTime(${c}), INTERVAL ${RANGE.interval} second)`,
  timeInterval_ms: (c) => `toStartOfInterval(toDateTime64(${c}, 3), INTERVAL ${RANGE.interval * 1000} millisecond)`,
  fromTime: () => time(RANGE.from),
  toTime: () => time(RANGE.to),
  fromTime_ms: () => timeMs(RANGE.from),
  toTime_ms: () => timeMs(RANGE.to),
  interval_s: () => String(RANGE.interval),
};

/** The arguments in the parentheses at a place, and where those end. */
function splitArguments(text, open) {
  const list = [''];
  let depth = 0;
  let quote = '';
  for (let at = open; at < text.length; at += 1) {
    const letter = text[at];
    if (quote) {
      if (letter === quote && text[at - 1] !== '\\') quote = '';
    } else if (letter === "'" || letter === '"' || letter === '`') {
      quote = letter;
    } else if (letter === '(') {
      depth += 1;
      if (depth === 1) continue;
    } else if (letter === ')') {
      depth -= 1;
      if (depth === 0) return [list.map((word) => word.trim()).filter(Boolean), at + 1];
    } else if (letter === ',' && depth === 1) {
      list.push('');
      continue;
    }
    list[list.length - 1] += letter;
  }
  throw new Error(`a macro without an end: ${text.slice(open - 20, open + 40)}`);
}

function macros(text, values) {
  let done = '';
  let rest = text;
  for (;;) {
    const found = /\$__(\w+)/.exec(rest);
    if (!found) return done + rest;
    done += rest.slice(0, found.index);
    const name = found[1];
    let end = found.index + found[0].length;
    let list = [];
    if (rest[end] === '(') [list, end] = splitArguments(rest, end);
    if (name === 'conditionalAll') {
      const variable = /^\$\{?(\w+)/.exec(list.at(-1))?.[1];
      if (!(variable in values)) throw new Error(`$__conditionalAll of ${list.at(-1)}, which is no variable`);
      done += ['$__all', ''].includes(values[variable]) ? '1=1' : macros(list.slice(0, -1).join(', '), values);
    } else {
      if (!MACROS[name]) throw new Error(`the plugin has no macro $__${name}, or this check does not know it`);
      done += MACROS[name](...list.map((word) => macros(word, values)));
    }
    rest = rest.slice(end);
  }
}

const quoted = (value) => [value].flat().map((word) => `'${String(word).replaceAll("'", "\\'")}'`).join(',');

function variables(text, values) {
  return text.replace(/\$\{(\w+)(?::(\w+))?\}|\$(?!__)(\w+)/g, (whole, name, format, bare) => {
    const key = name ?? bare;
    if (key.startsWith('__')) return whole;
    if (!(key in values)) throw new Error(`${whole} is no variable of the dashboard`);
    return format === 'singlequote' ? quoted(values[key]) : [values[key]].flat().join(',');
  });
}

/** A query as the server gets it. `values`: of each variable its value, a list, or `$__all`. */
export const expanded = (rawSql, values) => variables(macros(rawSql, values), values);

/** Text in which only variables are put in: PromQL, a title. */
export const filled = (text, values) =>
  variables(
    text,
    Object.fromEntries(Object.entries(values).map(([name, value]) => [name, value === '$__all' ? '.*' : [value].flat().join('|')])),
  );
