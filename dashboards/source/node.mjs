// One node: who is on it, what they do to it, and whether the watching is well.
import { AGENT, NAMESPACE, ONE_NODE, BY_SEVERITY, dashboard, marks, only, series, stat, table, to } from './lib.mjs';

const here = only('node', 'namespace', 'agent');
const rule = (name, more = '') => `${name}{node="$node"}${more}`;

export default dashboard({
  uid: 'node',
  title: 'agentwatch / Node',
  about: 'One node: its agents, what was found there, and whether all of it is seen.',
  variables: [ONE_NODE, NAMESPACE, AGENT],
  annotations: marks('node', 'namespace', 'agent'),
  lines: [
    [
      4,
      [
        stat('Daemon', [[`${rule('node:agentwatch_up:count')} or on () vector(0)`, '']], {
          limits: [[0, 'dark-red'], [1, 'green']],
          about: 'Daemons of this node that Prometheus reads.',
          link: to('health', 'How it is with the daemon', { }),
        }),
        4,
      ],
      [stat('Events lost', [[rule('node:agentwatch_records_lost:ratio_rate5m'), '']], { unit: 'percentunit', decimals: 2, limits: [[0, 'green'], [0.0001, 'orange'], [0.01, 'red']], none: 'no daemon' }), 4],
      [stat('Daemon’s processor time', [[rule('node:agentwatch_cpu_seconds:rate5m'), '']], { unit: 'percentunit', decimals: 1, limits: [[0, 'text'], [0.5, 'orange']], none: 'no daemon', about: 'Of one core.' }), 4],
      [stat('Agents', `SELECT uniq(agent) AS agents FROM events_per_minute WHERE $__timeFilter(time) AND ${here}`), 4],
      [stat('Findings', `SELECT count() AS findings FROM findings WHERE $__timeFilter(time) AND severity >= 'medium' AND ${here}`, { limits: [[0, 'green'], [1, 'red']], about: 'Of severity medium and above.' }), 4],
      [stat('Last event', `SELECT max(time) AS last FROM events WHERE $__timeFilter(time) AND ${here} HAVING count() > 0`, { unit: 'dateTimeFromNow', any: true, none: 'none in this time' }), 4],
    ],
    [
      8,
      [
        series(
          'Events by agent',
          `
SELECT $__timeInterval(time) AS time, agent, sum(events) / $__interval_s AS events
FROM events_per_minute
WHERE $__timeFilter(time) AND ${here}
GROUP BY time, agent ORDER BY time, agent`,
          { unit: 'ops', stack: true, bars: true, name: 'agent' },
        ),
        12,
      ],
      [
        series(
          'Files changed by agent',
          `
SELECT $__timeInterval(time) AS time, agent, sum(changes) AS changes
FROM changes_per_minute
WHERE $__timeFilter(time) AND ${here}
GROUP BY time, agent ORDER BY time, agent`,
          { stack: true, bars: true, name: 'agent', none: 'No file was changed in this time.', about: 'Calls that write, make, move, remove or change the rights of a file.' },
        ),
        12,
      ],
    ],
    [
      8,
      [
        table(
          'Runs',
          `
SELECT agent, namespace, pod, arrayStringConcat(command, ' ') AS command, started AS time, ended, exit_status, killed_by AS finding, events, lost
FROM agents FINAL
WHERE started <= $__toTime AND (ended IS NULL OR ended >= $__fromTime) AND ${here}
ORDER BY started DESC LIMIT 200`,
          {
            columns: {
              time: { title: 'started' }, ended: { unit: 'dateTimeAsIso', width: 170 }, exit_status: { title: 'exit', unit: 'none', width: 60 }, pod: { width: 120 },
              finding: { title: 'killed for' }, events: { width: 80 }, lost: { width: 70, limits: [[0, 'text'], [1, 'red']] },
            },
            none: 'No agent ran in this time.',
          },
        ),
        24,
      ],
    ],
    [
      8,
      [
        series(
          'Findings',
          `
SELECT $__timeInterval(time) AS time, toString(severity) AS severity, sum(findings) AS findings
FROM findings_per_minute
WHERE $__timeFilter(time) AND ${here}
GROUP BY time, severity ORDER BY time, severity`,
          { stack: true, bars: true, name: 'severity', colors: BY_SEVERITY, none: 'No findings in this time.' },
        ),
        8,
      ],
      [
        table(
          'Newest findings',
          `
SELECT time, severity, detector, agent, message, taken, id AS finding
FROM findings
WHERE $__timeFilter(time) AND ${here}
ORDER BY time DESC LIMIT 100`,
          { none: 'No findings in this time.' },
        ),
        16,
      ],
    ],
    [
      8,
      [
        table(
          'Programs that ran most',
          `
SELECT path AS program, count() AS execs, uniq(agent) AS agents, max(e.time) AS time
FROM events AS e
WHERE $__timeFilter(e.time) AND kind = 'exec' AND ${here}
GROUP BY program ORDER BY execs DESC LIMIT 50`,
          { columns: { time: { title: 'last' }, execs: { width: 80 }, agents: { width: 80 } }, none: 'Nothing was run in this time.' },
        ),
        12,
      ],
      [
        table(
          'Folders that changed most',
          `
SELECT folder, agent, sum(c.changes) AS changes, groupUniqArray(c.kind) AS kinds
FROM changes_per_minute AS c
WHERE $__timeFilter(time) AND ${here}
GROUP BY folder, agent ORDER BY changes DESC LIMIT 50`,
          { columns: { changes: { width: 90 } }, none: 'No file was changed in this time.' },
        ),
        12,
      ],
    ],
  ],
});
