// All nodes, all agents: is anything wrong, and where do I look?
import { AGENT, BY_SEVERITY, NAMESPACE, NODE, dashboard, marks, only, series, stat, table, to } from './lib.mjs';

const here = only('node', 'namespace', 'agent');
const found = (severity) => `
SELECT count() AS findings FROM findings
WHERE $__timeFilter(time) AND severity = '${severity}' AND ${here}`;

export default dashboard({
  uid: 'fleet',
  title: 'agentwatch / Fleet',
  about: 'All agents of all nodes: what was found, what was done about it, and who is busy.',
  variables: [NODE, NAMESPACE, AGENT],
  annotations: marks('node', 'namespace', 'agent'),
  lines: [
    [
      4,
      [stat('Critical findings', found('critical'), { limits: [[0, 'green'], [1, 'dark-red']] }), 4],
      [stat('High findings', found('high'), { limits: [[0, 'green'], [1, 'red']] }), 4],
      [
        stat(
          'Agents stopped',
          `
SELECT uniq(node, run) AS stopped FROM (
    SELECT node, run FROM findings WHERE $__timeFilter(time) AND taken IN ('quarantine', 'freeze', 'kill') AND ${here}
    UNION ALL
    SELECT node, run FROM actions WHERE $__timeFilter(time) AND done AND action IN ('quarantine', 'freeze', 'kill') AND ${here}
)`,
          { limits: [[0, 'green'], [1, 'orange']], about: 'Runs that were quarantined, frozen or killed, by a policy or a person.' },
        ),
        4,
      ],
      [stat('Agents', `SELECT uniq(namespace, agent) AS agents FROM events_per_minute WHERE $__timeFilter(time) AND ${here}`, { about: 'Agents of which events came.' }), 4],
      [stat('Nodes', `SELECT uniq(node) AS nodes FROM events_per_minute WHERE $__timeFilter(time) AND ${here}`, { about: 'Nodes of which events came; [Kernel health](/d/agentwatch-health) says which daemons are up.' }), 4],
      [stat('Sent by agents', `SELECT sum(bytes_out) AS bytes FROM traffic_per_minute WHERE $__timeFilter(time) AND ${here}`, { unit: 'bytes', about: 'Payload of flows that ended.', link: to('network', 'Where it went') }), 4],
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
SELECT time, severity, detector, agent, node, message, taken, id AS finding
FROM findings
WHERE $__timeFilter(time) AND ${here}
ORDER BY time DESC LIMIT 100`,
          { none: 'No findings in this time.' },
        ),
        16,
      ],
    ],
    [
      9,
      [
        table(
          'Agents',
          `
SELECT agent, namespace, groupUniqArray(3)(node) AS nodes, sum(found) AS findings,
    transform(max(level), [1, 2, 3, 4, 5], ['info', 'low', 'medium', 'high', 'critical'], '') AS severity,
    sum(events) AS events, sum(execs) AS execs, sum(sent) AS sent, max(last) AS time
FROM (
    SELECT agent, namespace, node, max(time) AS last, sum(m.events) AS events, sumIf(m.events, kind = 'exec') AS execs,
        0 AS sent, 0 AS found, 0 AS level
    FROM events_per_minute AS m WHERE $__timeFilter(time) AND ${here} GROUP BY agent, namespace, node
    UNION ALL
    SELECT agent, namespace, node, max(time), 0, 0, sum(bytes_out), 0, 0
    FROM traffic_per_minute WHERE $__timeFilter(time) AND ${here} GROUP BY agent, namespace, node
    UNION ALL
    SELECT agent, namespace, node, max(time), 0, 0, 0, count(), toInt8(max(f.severity))
    FROM findings AS f WHERE $__timeFilter(time) AND ${here} GROUP BY agent, namespace, node
)
GROUP BY agent, namespace
ORDER BY findings DESC, events DESC LIMIT 200`,
          {
            columns: { time: { title: 'last heard of' }, events: { width: 80 }, execs: { width: 80 }, sent: { unit: 'bytes', width: 90 }, severity: { title: 'worst' }, findings: { width: 80, limits: [[0, 'text'], [1, 'red']] } },
            none: 'No agent was heard of in this time.',
          },
        ),
        16,
      ],
      [
        table(
          'Nodes',
          `
SELECT node, uniq(agent) AS agents, sum(m.events) AS events, max(m.time) AS last
FROM events_per_minute AS m
WHERE $__timeFilter(time) AND ${here}
GROUP BY node ORDER BY node`,
          { columns: { agents: { width: 80 }, events: { width: 90 }, last: { unit: 'dateTimeFromNow' } }, none: 'No node was heard of in this time.' },
        ),
        8,
      ],
    ],
    [
      8,
      [
        series(
          'Events by kind',
          `
SELECT $__timeInterval(time) AS time, kind, sum(events) / $__interval_s AS events
FROM events_per_minute
WHERE $__timeFilter(time) AND ${here} AND kind IN (
    SELECT kind FROM events_per_hour WHERE time >= toStartOfHour($__fromTime) AND time <= $__toTime AND ${here}
    GROUP BY kind ORDER BY sum(events) DESC LIMIT 10)
GROUP BY time, kind ORDER BY time, kind`,
          { unit: 'ops', stack: true, bars: true, name: 'kind', about: 'The ten kinds of which there are most, a second.' },
        ),
        12,
      ],
      [
        series(
          'Events by agent',
          `
SELECT $__timeInterval(time) AS time, agent, sum(events) / $__interval_s AS events
FROM events_per_minute
WHERE $__timeFilter(time) AND ${here} AND agent IN (
    SELECT agent FROM events_per_hour WHERE time >= toStartOfHour($__fromTime) AND time <= $__toTime AND ${here}
    GROUP BY agent ORDER BY sum(events) DESC LIMIT 10)
GROUP BY time, agent ORDER BY time, agent`,
          { unit: 'ops', stack: true, bars: true, name: 'agent', about: 'The ten that are busiest, a second.' },
        ),
        12,
      ],
    ],
  ],
});
