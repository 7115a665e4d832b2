// One agent: what it ran, said, changed and used, on one axis of time.
import { NODE, ONE_AGENT, dashboard, marks, only, series, stat, table, to } from './lib.mjs';

const here = only('agent', 'node');
const count = (kinds) => `SELECT sum(events) AS n FROM events_per_minute WHERE $__timeFilter(time) AND kind IN (${kinds}) AND ${here}`;
const line = (title, kinds, options) =>
  series(
    title,
    `
SELECT $__timeInterval(time) AS time, kind, sum(events) AS events
FROM events_per_minute
WHERE $__timeFilter(time) AND kind IN (${kinds}) AND ${here}
GROUP BY time, kind ORDER BY time, kind`,
    { bars: true, stack: true, name: 'kind', ...options },
  );

export default dashboard({
  uid: 'agent',
  title: 'agentwatch / Agent',
  about: 'All that one agent did: what it ran, whom it talked to, what it changed, what was found.',
  variables: [ONE_AGENT, NODE],
  annotations: marks('agent', 'node'),
  lines: [
    [
      4,
      [stat('Findings', `SELECT count() AS findings FROM findings WHERE $__timeFilter(time) AND severity >= 'medium' AND ${here}`, { limits: [[0, 'green'], [1, 'red']], about: 'Of severity medium and above.' }), 4],
      [stat('Programs run', count(`'exec'`)), 4],
      [stat('Connections', count(`'connect', 'accept'`), { link: to('network', 'Whom it talked to', { }) }), 4],
      [stat('Sent', `SELECT sum(bytes_out) AS bytes FROM traffic_per_minute WHERE $__timeFilter(time) AND ${here}`, { unit: 'bytes', about: 'Payload of flows that ended.' }), 4],
      [stat('Files changed', `SELECT sum(changes) AS changes FROM changes_per_minute WHERE $__timeFilter(time) AND ${here}`), 4],
      [stat('Refused', count(`'denied'`), { limits: [[0, 'green'], [1, 'orange']], about: 'What the policy denies and the agent tried.' }), 4],
    ],
    [
      7,
      [line('Processes', `'exec', 'exit', 'fork', 'signal'`, { none: 'It ran nothing in this time.' }), 12],
      [line('Network', `'connect', 'accept', 'listen', 'flow_close', 'dns', 'tls', 'http', 'ssh', 'stratum', 'denied'`, { none: 'It did not use the network in this time.' }), 12],
    ],
    [
      7,
      [
        series(
          'Files changed',
          `
SELECT $__timeInterval(time) AS time, kind, sum(changes) AS changes
FROM changes_per_minute
WHERE $__timeFilter(time) AND ${here}
GROUP BY time, kind ORDER BY time, kind`,
          { bars: true, stack: true, name: 'kind', none: 'It changed no file in this time.' },
        ),
        12,
      ],
      [
        series(
          'GPU',
          `
SELECT $__timeInterval_ms(time) AS time, concat('GPU ', toString(gpu_index), ' on ', node) AS gpu, avg(sm_percent) AS sm
FROM gpu_samples
WHERE $__timeFilter_ms(time) AND pid != 0 AND sm_percent IS NOT NULL AND ${here}
GROUP BY time, gpu ORDER BY time, gpu`,
          { unit: 'percent', max: 100, name: 'gpu', none: 'No GPU samples: this agent used no GPU in this time, or its node has none.', about: 'Part of the time in which a kernel of this agent ran.' },
        ),
        12,
      ],
    ],
    [
      8,
      [
        table(
          'Findings',
          `
SELECT time, severity, detector, node, message, taken, id AS finding
FROM findings
WHERE $__timeFilter(time) AND ${here}
ORDER BY time DESC LIMIT 100`,
          { none: 'No findings in this time.' },
        ),
        14,
      ],
      [
        table(
          'Actions of people',
          `
SELECT time, JSONExtractString(asked_by, 'user') AS user, action, done, reason, outcome
FROM actions
WHERE $__timeFilter(time) AND ${here}
ORDER BY time DESC LIMIT 100`,
          { columns: { action: { width: 90 }, done: { width: 60 }, user: { width: 90 } }, none: 'Nobody asked for anything in this time.' },
        ),
        10,
      ],
    ],
    [
      10,
      [
        table(
          'What it ran',
          `
SELECT time, pid, ppid, uid, command, path AS program, node
FROM events
WHERE $__timeFilter(time) AND kind = 'exec' AND ${here}
ORDER BY time DESC LIMIT 500`,
          { columns: { ppid: { unit: 'none', width: 80 }, uid: { unit: 'none', width: 60 }, program: { width: 260 } }, none: 'It ran nothing in this time.' },
        ),
        24,
      ],
    ],
    [
      9,
      [
        table(
          'Whom it talked to',
          `
SELECT domain, replaceRegexpOne(toString(remote_ip), '^::ffff:', '') AS ip, remote_port AS port, protocol, direction,
    sum(t.flows) AS flows, sum(t.bytes_out) AS sent, sum(t.bytes_in) AS got
FROM traffic_per_minute AS t
WHERE $__timeFilter(time) AND ${here}
GROUP BY domain, ip, port, protocol, direction
ORDER BY sent DESC LIMIT 200`,
          { columns: { ip: { width: 130 }, sent: { unit: 'bytes', width: 90 }, got: { unit: 'bytes', width: 90 }, flows: { width: 70 }, port: { unit: 'none', width: 70 }, protocol: { width: 75 }, direction: { width: 80 } }, none: 'No flow of it ended in this time.' },
        ),
        12,
      ],
      [
        table(
          'What it changed',
          `
SELECT time, kind, path, path2 AS to, result, pid, comm
FROM events
WHERE $__timeFilter(time) AND ${here} AND (
    kind IN ('unlink', 'rmdir', 'rename', 'chmod', 'chown', 'truncate', 'mkdir', 'link', 'symlink', 'mknod', 'xattr')
    OR kind = 'open' AND write)
ORDER BY time DESC LIMIT 500`,
          { columns: { kind: { width: 75 }, to: { width: 110 }, result: { unit: 'none', width: 65 }, comm: { width: 90 } }, none: 'It changed no file in this time.' },
        ),
        12,
      ],
    ],
  ],
});
