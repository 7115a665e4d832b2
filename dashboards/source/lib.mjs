// What the dashboards are made of. Grafana's own SDK knows no query of the ClickHouse plugin, and a panel is an
// object either way: so these are a few functions that give one, and the check holds them against Grafana's schema.

/** Data sources: whichever the reader chooses at the top of the page. */
export const CLICKHOUSE = { type: 'grafana-clickhouse-datasource', uid: '${clickhouse}' };
export const PROMETHEUS = { type: 'prometheus', uid: '${prometheus}' };

/** Colours by severity, the same everywhere. */
const SEVERITY = { critical: 'dark-red', high: 'red', medium: 'orange', low: 'yellow', info: 'blue' };

/** The condition that the variables at the top make; each is left out where "All" is chosen. */
export const only = (...names) =>
  names.map((name) => `$__conditionalAll(${name} IN (\${${name}:singlequote}), $${name})`).join(' AND ');

/** Where a click leads. `fields` are columns of the row that become variables there. */
export const to = (uid, title, fields = {}) => ({
  title,
  url:
    `/d/agentwatch-${uid}?\${__url_time_range}` +
    Object.entries(fields)
      .map(([variable, field]) => `&var-${variable}=\${__data.fields["${field}"]}`)
      .join('') +
    '&${clickhouse:queryparam}&${prometheus:queryparam}',
});

/** Links of columns that many tables have. */
export const LINKS = {
  agent: to('agent', 'What this agent did', { agent: 'agent' }),
  node: to('node', 'All of this node', { node: 'node' }),
  finding: to('incident', 'The story of this finding', { finding: 'finding' }),
};

/** Steps of a colour: `[[0, 'green'], [1, 'red']]`. */
const steps = (list) => ({
  mode: 'absolute',
  steps: list.map(([value, color], at) => ({ value: at === 0 ? null : value, color })),
});

const sql = (rawSql, series) => [
  {
    refId: 'A',
    datasource: CLICKHOUSE,
    // Without one the plugin takes it for a query of before 4.0, and rewrites it.
    pluginVersion: '4.0.0',
    editorType: 'sql',
    queryType: series ? 'timeseries' : 'table',
    format: series ? 0 : 1,
    rawSql: rawSql.trim(),
  },
];

const promql = (queries, series) =>
  queries.map(([expr, legendFormat], at) => ({
    refId: String.fromCharCode(65 + at),
    datasource: PROMETHEUS,
    editorMode: 'code',
    expr,
    legendFormat: legendFormat ?? '__auto',
    range: series,
    instant: !series,
    ...(series ? {} : { format: 'table' }),
  }));

/** The query of a panel: SQL is text, PromQL a list of expressions with their legends. */
const queried = (query, series) =>
  typeof query === 'string'
    ? { datasource: CLICKHOUSE, targets: sql(query, series) }
    : { datasource: PROMETHEUS, targets: promql(query, series) };

/** One number. */
export function stat(title, query, { unit = 'short', limits = [[0, 'text']], link, none = '0', about, decimals, any } = {}) {
  return {
    type: 'stat',
    title,
    ...(about ? { description: about } : {}),
    ...queried(query, false),
    fieldConfig: {
      defaults: {
        unit,
        noValue: none,
        color: { mode: 'thresholds' },
        thresholds: steps(limits),
        ...(decimals === undefined ? {} : { decimals }),
        ...(link ? { links: [link] } : {}),
      },
      overrides: [],
    },
    options: {
      colorMode: limits[0][1] === 'text' ? 'value' : 'background',
      graphMode: 'none',
      justifyMode: 'auto',
      orientation: 'auto',
      percentChangeColorMode: 'standard',
      showPercentChange: false,
      textMode: 'value',
      wideLayout: true,
      // Numbers only, where it is not said that it may be a time.
      reduceOptions: { calcs: ['lastNotNull'], values: false, fields: any ? '/.*/' : '' },
    },
  };
}

/** Values over time. */
export function series(title, query, options = {}) {
  const { unit = 'short', stack, bars, none = 'Nothing happened in this time.', about, limits, name, max, colors } = options;
  return {
    type: 'timeseries',
    title,
    ...(about ? { description: about } : {}),
    ...queried(query, true),
    interval: '1m',
    fieldConfig: {
      defaults: {
        unit,
        noValue: none,
          min: 0,
        ...(max === undefined ? {} : { max }),
        ...(name ? { displayName: `\${__field.labels.${name}}` } : {}),
        color: { mode: 'palette-classic' },
        ...(limits ? { thresholds: steps(limits) } : {}),
        custom: {
          drawStyle: bars ? 'bars' : 'line',
          lineWidth: bars ? 0 : 1,
          fillOpacity: bars ? 80 : stack ? 30 : 8,
          showPoints: 'auto',
          pointSize: 4,
          spanNulls: false,
          stacking: { mode: stack ? 'normal' : 'none', group: 'A' },
          ...(limits ? { thresholdsStyle: { mode: 'dashed' } } : {}),
        },
      },
      overrides: Object.entries(colors ?? {}).map(([label, color]) => ({
        matcher: { id: 'byName', options: label },
        properties: [{ id: 'color', value: { mode: 'fixed', fixedColor: color } }],
      })),
    },
    options: {
      legend: { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] },
      tooltip: { mode: 'multi', sort: 'desc', hideZeros: true },
    },
  };
}

/** Colours of series that are named by severity. */
export const BY_SEVERITY = SEVERITY;

/** Properties of a column, by what it has. */
function column(name, { unit, width, link, limits, hide, decimals, title, color, wrap }) {
  const properties = [];
  const put = (id, value) => properties.push({ id, value });
  if (title) put('displayName', title);
  if (unit) put('unit', unit);
  if (decimals !== undefined) put('decimals', decimals);
  if (width) put('custom.width', width);
  if (link) put('links', Array.isArray(link) ? link : [link]);
  if (hide) put('custom.hideFrom.viz', true);
  if (wrap) put('custom.wrapText', true);
  if (limits) {
    put('color', { mode: 'thresholds' });
    put('thresholds', steps(limits));
    put('custom.cellOptions', { type: 'color-text' });
  }
  if (color === 'severity') {
    put('mappings', [
      {
        type: 'value',
        options: Object.fromEntries(Object.entries(SEVERITY).map(([text, color], index) => [text, { color, index, text }])),
      },
    ]);
    put('custom.cellOptions', { type: 'color-background', mode: 'basic' });
  }
  return { matcher: { id: 'byName', options: name }, properties };
}

/** Columns that mean the same wherever they are. */
const COMMON = {
  time: { unit: 'dateTimeAsIso', width: 170 },
  agent: { link: LINKS.agent, width: 125 },
  node: { link: LINKS.node, width: 90 },
  severity: { color: 'severity', width: 80 },
  detector: { width: 130 },
  finding: { link: LINKS.finding, width: 160 },
  taken: { width: 80 },
  pid: { unit: 'none', width: 70 },
  namespace: { width: 100 },
};

/** The names of what a query selects: the words between SELECT and FROM, cut at commas, by what they end with. */
export function selected(rawSql) {
  const names = [];
  let depth = 0;
  let word = '';
  let at = rawSql.search(/\bSELECT\b/) + 'SELECT'.length;
  for (; at < rawSql.length; at += 1) {
    const letter = rawSql[at];
    if (letter === '(' || letter === '[') depth += 1;
    if (letter === ')' || letter === ']') depth -= 1;
    const end = depth === 0 && /^\sFROM\s/.test(rawSql.slice(at, at + 6));
    if ((letter === ',' && depth === 0) || end) {
      names.push(word.trim().match(/(\w+)$/)[1]);
      word = '';
      if (end) return names;
    } else {
      word += letter;
    }
  }
  throw new Error(`no FROM in ${rawSql}`);
}

/** Rows. `columns` says of a column what is not common. */
export function table(title, query, { columns = {}, none = 'Nothing.', about, sort, transformations, tall } = {}) {
  const names = typeof query === 'string' ? selected(query) : transformations[1].options.include.names;
  const stray = Object.keys(columns).filter((name) => !names.includes(name));
  if (stray.length) throw new Error(`${title} has no column ${stray}`);
  // The id of a finding says nothing to a person: its detector leads to its story.
  if (names.includes('finding') && names.includes('detector')) {
    columns = { finding: { hide: true }, ...columns, detector: { link: LINKS.finding, ...columns.detector } };
  }
  const all = Object.fromEntries(
    names.filter((name) => name in COMMON || name in columns).map((name) => [name, { ...COMMON[name], ...columns[name] }]),
  );
  return {
    type: 'table',
    title,
    ...(about ? { description: about } : {}),
    ...queried(query, false),
    fieldConfig: {
      // A column without a unit of its own shows its numbers as they are.
      defaults: { unit: 'short', noValue: none, custom: { align: 'auto', cellOptions: { type: 'auto' }, inspect: true, filterable: true } },
      overrides: [
        // Else what the whole panel says where it is empty stands in each cell that is.
        { matcher: { id: 'byRegexp', options: '/.*/' }, properties: [{ id: 'noValue', value: '–' }] },
        ...Object.entries(all).map(([name, what]) => column(name, what)),
      ],
    },
    options: {
      showHeader: true,
      cellHeight: tall ? 'md' : 'sm',
      frameIndex: 0,
      ...(sort ? { sortBy: [{ displayName: sort, desc: true }] } : {}),
    },
    ...(transformations ? { transformations } : {}),
  };
}

/** Of a table of PromQL the columns that are labels and the value, in this order. */
export const labels = (...names) => [
  { id: 'organize', options: { excludeByName: { Time: true }, indexByName: Object.fromEntries(names.map((name, at) => [name, at])), renameByName: {} } },
  { id: 'filterFieldsByName', options: { include: { names } } },
];

const source = (name, type, label) => ({
  type: 'datasource',
  name,
  label,
  query: type,
  multi: false,
  includeAll: false,
  hide: 0,
  refresh: 1,
  regex: '',
  options: [],
});

export const SOURCES = [
  source('clickhouse', CLICKHOUSE.type, 'ClickHouse'),
  source('prometheus', PROMETHEUS.type, 'Prometheus'),
];

/** A variable that SQL gives the values of. */
export const variable = (name, query, { many = true, label } = {}) => ({
  type: 'query',
  name,
  label: label ?? name[0].toUpperCase() + name.slice(1),
  datasource: CLICKHOUSE,
  query: query.trim(),
  multi: many,
  includeAll: many,
  ...(many ? { current: { text: ['All'], value: ['$__all'] } } : {}),
  hide: 0,
  // When the time range changes, too.
  refresh: 2,
  regex: '',
  sort: 0,
  options: [],
});

/** What can be chosen is what something was heard of in this time. */
const heard = (column, when = '') => `
SELECT DISTINCT ${column} FROM events_per_hour
WHERE time >= toStartOfHour($__fromTime) AND time <= $__toTime AND ${column} != ''${when}
ORDER BY ${column}`;

export const NODE = variable('node', heard('node'));
export const NAMESPACE = variable('namespace', heard('namespace'));
export const AGENT = variable('agent', heard('agent'));
export const ONE_NODE = variable('node', heard('node'), { many: false });
export const ONE_AGENT = variable('agent', heard('agent'), { many: false });

const annotation = (name, iconColor, rawSql) => ({
  name,
  enable: true,
  hide: false,
  iconColor,
  datasource: CLICKHOUSE,
  target: { ...sql(rawSql, false)[0], refId: 'Anno' },
});

/** Marks in all panels that show time, of what the variables leave. */
export const marks = (...filters) => [
  annotation(
    'Findings',
    'red',
    `
SELECT time, concat(severity, ': ', detector) AS title, concat(agent, ' on ', node, ': ', message) AS text, [detector, toString(severity)] AS tags
FROM findings
WHERE $__timeFilter(time) AND severity >= 'medium'${filters.length ? ' AND ' + only(...filters) : ''}
ORDER BY time LIMIT 200`,
  ),
  annotation(
    'Actions',
    'purple',
    `
SELECT time, concat(action, if(done, '', ' failed')) AS title, concat(agent, ' on ', node, ': ', reason) AS text, [action] AS tags
FROM actions
WHERE $__timeFilter(time)${filters.length ? ' AND ' + only(...filters) : ''}
ORDER BY time LIMIT 200`,
  ),
];

/** Puts panels into lines of 24 columns: `[height, [panel, width], …]`. */
function placed(lines) {
  const panels = [];
  let y = 0;
  for (const [h, ...line] of lines) {
    let x = 0;
    if (typeof line[0] === 'string') {
      panels.push({ type: 'row', title: line[0], collapsed: false, panels: [], gridPos: { x: 0, y, w: 24, h: 1 } });
      y += 1;
      continue;
    }
    for (const [panel, w] of line) {
      panels.push({ ...panel, gridPos: { x, y, w, h } });
      x += w;
    }
    if (x !== 24) throw new Error(`a line is ${x} columns wide, not 24: ${line.map(([panel]) => panel.title)}`);
    y += h;
  }
  return panels.map((panel, at) => ({ id: at + 1, ...panel }));
}

/** A dashboard. */
export function dashboard({ uid, title, about, variables = [], annotations = [], from = 'now-6h', refresh = '1m', lines }) {
  return {
    uid: `agentwatch-${uid}`,
    title,
    description: about,
    tags: ['agentwatch'],
    editable: true,
    graphTooltip: 1,
    schemaVersion: 41,
    version: 1,
    time: { from, to: 'now' },
    timezone: 'browser',
    refresh,
    links: [
      {
        type: 'dashboards',
        title: 'agentwatch',
        tags: ['agentwatch'],
        asDropdown: true,
        includeVars: true,
        keepTime: true,
        targetBlank: false,
        icon: 'external link',
        tooltip: '',
        url: '',
      },
    ],
    templating: { list: [...SOURCES, ...variables] },
    annotations: { list: annotations },
    panels: placed(lines),
  };
}
