// One finding: what happened, who did it, what came before and after, what was done.
import { dashboard, series, table, variable } from './lib.mjs';

/** Many things happen in one second. */
const MOMENT = { unit: 'time:HH:mm:ss.SSS', width: 110 };

const FINDING = variable(
  'finding',
  `
SELECT id, concat(formatDateTime(time, '%F %T'), ' ', agent, ': ', detector) FROM findings
WHERE $__timeFilter(time) ORDER BY time DESC LIMIT 500`,
  { many: false },
);
// Whatever the time at the top of the page: a finding has its own.
const of = `id IN (\${finding:singlequote})`;
const one = `(SELECT max(f.time) AS at, any(f.agent) AS who, any(f.node) AS host, any(f.run) AS its_run FROM findings AS f WHERE ${of})`;
const around = (minutes) => `
FROM events AS e, ${one} AS o
WHERE e.agent = o.who AND e.node = o.host AND e.time >= o.at - INTERVAL ${minutes} MINUTE AND e.time <= o.at + INTERVAL ${minutes} MINUTE`;

export default dashboard({
  uid: 'incident',
  title: 'agentwatch / Incident',
  about: 'The story of one finding: its evidence, the processes that led to it, what the agent did around it, and what was done.',
  variables: [FINDING],
  from: 'now-24h',
  refresh: '',
  lines: [
    [
      5,
      [
        table(
          'What was found',
          `
SELECT time, severity, detector, arrayStringConcat(techniques, ', ') AS techniques, agent, node, namespace, message, requested, taken,
    JSONExtractString(finding, 'response', 'reason') AS why
FROM findings WHERE ${of}`,
          {
            tall: true,
            columns: { techniques: { width: 140 }, message: { width: 420, wrap: true }, requested: { width: 85 } },
            none: 'Choose a finding at the top of the page; the time range says which there are.',
          },
        ),
        24,
      ],
    ],
    [
      8,
      [
        table(
          'Evidence',
          `
SELECT f.time - toIntervalNanosecond(JSONExtractUInt(f.finding, 'time_ns') - JSONExtractUInt(e, 'time_ns')) AS time,
    JSONExtractString(e, 'kind') AS kind, JSONExtractUInt(e, 'pid') AS pid, JSONExtractString(e, 'what') AS what
FROM findings AS f
ARRAY JOIN JSONExtractArrayRaw(f.finding, 'evidence') AS e
WHERE ${of}
ORDER BY time`,
          { columns: { time: MOMENT, kind: { width: 85 }, what: { wrap: true } }, none: 'No evidence.' },
        ),
        12,
      ],
      [
        table(
          'Who did it, and who started that',
          `
SELECT JSONExtractUInt(p, 'pid') AS pid, JSONExtractUInt(p, 'uid') AS uid, JSONExtractString(p, 'exe') AS program,
    arrayStringConcat(JSONExtract(p, 'argv', 'Array(String)'), ' ') AS command,
    if(JSONExtractBool(p, 'member'), 'agent', 'before the agent') AS of
FROM findings
ARRAY JOIN arrayPushFront(JSONExtractArrayRaw(finding, 'ancestry'), JSONExtractRaw(finding, 'process')) AS p
WHERE ${of}`,
          { columns: { uid: { unit: 'none', width: 60 }, program: { width: 150 }, command: { wrap: true }, of: { width: 110 } }, about: 'The process first, then its parent, and so on.', none: 'No process is known.' },
        ),
        12,
      ],
    ],
    [
      7,
      [
        series(
          'What the agent did around it',
          `
SELECT toStartOfInterval(e.time, INTERVAL 1 SECOND) AS time, e.kind AS kind, count() AS events${around(5)}
GROUP BY time, kind ORDER BY time, kind`,
          { bars: true, stack: true, name: 'kind', about: 'Five minutes before and after, a second. Choose that time to see more of it.' },
        ),
        14,
      ],
      [
        table(
          'What was done',
          `
SELECT time, what, by, reason, outcome FROM (
    SELECT time, concat(toString(taken), if(requested = taken, '', concat(' (asked for: ', toString(requested), ')'))) AS what, 'policy' AS by,
        JSONExtractString(finding, 'response', 'reason') AS reason,
        if(JSONHas(finding, 'response', 'empty_us'), concat('over after ', toString(JSONExtractUInt(finding, 'response', 'empty_us')), ' µs'), '') AS outcome
    FROM findings WHERE ${of}
    UNION ALL
    SELECT a.time, toString(a.action), JSONExtractString(a.asked_by, 'user'), a.reason, a.outcome
    FROM actions AS a, ${one} AS o
    WHERE a.agent = o.who AND a.node = o.host AND a.time >= o.at - INTERVAL 5 MINUTE AND a.time <= o.at + INTERVAL 1 DAY
)
ORDER BY time`,
          { columns: { what: { width: 90 }, by: { width: 65 }, reason: { wrap: true } }, none: 'Nothing was done.' },
        ),
        10,
      ],
    ],
    [
      10,
      [
        table(
          'Story',
          `
SELECT e.time AS time, e.kind AS kind, e.pid AS pid, e.comm AS comm,
    multiIf(e.kind = 'exec', e.command, e.remote != '', concat(e.remote, if(e.domain = '', '', concat(' (', e.domain, ')'))), e.path2 != '', concat(e.path, ' → ', e.path2), e.path != '', e.path, leftUTF8(e.detail, 200)) AS what,
    e.result AS result, if(e.bytes_in + e.bytes_out = 0, NULL, e.bytes_in + e.bytes_out) AS bytes
${around(1)}
    AND e.kind NOT IN ('fork', 'flow_data', 'flow_alive', 'usage', 'seed')
ORDER BY e.time LIMIT 2000`,
          { columns: { time: MOMENT, kind: { width: 100 }, comm: { width: 100 }, result: { unit: 'none', width: 70 }, bytes: { unit: 'bytes', width: 85 } }, about: 'Everything within a minute of the finding, but for forks, pieces of flows, and what is told while flows and processes go on.', none: 'The events of that time are not here any more.' },
        ),
        16,
      ],
      [
        table(
          'Other findings of the same run',
          `
SELECT f.time AS time, f.severity AS severity, f.detector AS detector, f.id AS finding
FROM findings AS f, ${one} AS o
WHERE f.run = o.its_run AND f.node = o.host AND NOT f.${of}
ORDER BY f.time LIMIT 100`,
          { none: 'None.' },
        ),
        8,
      ],
    ],
  ],
});
