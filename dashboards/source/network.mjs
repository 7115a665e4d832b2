// Where agents talk to, by name and bytes, and what looks like a tunnel.
import { AGENT, NAMESPACE, NODE, dashboard, marks, only, series, stat, table } from './lib.mjs';

const here = only('node', 'namespace', 'agent');
const TUNNELS = `'reverse-tunnel', 'dns-tunnel', 'icmp-tunnel', 'reverse-shell', 'data-exfiltration'`;
const IP = `replaceRegexpOne(toString(remote_ip), '^::ffff:', '')`;

export default dashboard({
  uid: 'network',
  title: 'agentwatch / Network',
  about: 'Destinations of agents by name, address and bytes; what is new, what was refused, and tunnels.',
  variables: [NODE, NAMESPACE, AGENT],
  annotations: marks('node', 'namespace', 'agent'),
  lines: [
    [
      4,
      [stat('Sent', `SELECT sum(bytes_out) AS bytes FROM traffic_per_minute WHERE $__timeFilter(time) AND ${here}`, { unit: 'bytes', about: 'Payload of flows that ended.' }), 5],
      [stat('Got', `SELECT sum(bytes_in) AS bytes FROM traffic_per_minute WHERE $__timeFilter(time) AND ${here}`, { unit: 'bytes' }), 5],
      [stat('Destinations', `SELECT uniq(remote_ip, remote_port) AS destinations FROM traffic_per_minute WHERE $__timeFilter(time) AND direction = 'out' AND ${here}`), 5],
      [stat('Refused', `SELECT sum(events) AS n FROM events_per_minute WHERE $__timeFilter(time) AND kind = 'denied' AND ${here}`, { limits: [[0, 'green'], [1, 'orange']], about: 'What a policy denies and an agent tried.' }), 4],
      [stat('Tunnels', `SELECT count() AS findings FROM findings WHERE $__timeFilter(time) AND detector IN (${TUNNELS}) AND ${here}`, { limits: [[0, 'green'], [1, 'dark-red']], about: 'Findings of tunnels, shells for others, and exfiltration.' }), 5],
    ],
    [
      8,
      [
        series(
          'Sent by agent',
          `
SELECT $__timeInterval(time) AS time, agent, sum(bytes_out) / $__interval_s AS sent
FROM traffic_per_minute
WHERE $__timeFilter(time) AND ${here}
GROUP BY time, agent ORDER BY time, agent`,
          { unit: 'binBps', stack: true, bars: true, name: 'agent', none: 'No flow ended in this time.', about: 'Counted when a flow ends.' },
        ),
        12,
      ],
      [
        series(
          'Connections',
          `
SELECT $__timeInterval(time) AS time, kind, sum(events) AS events
FROM events_per_minute
WHERE $__timeFilter(time) AND kind IN ('connect', 'accept', 'listen', 'denied') AND ${here}
GROUP BY time, kind ORDER BY time, kind`,
          { bars: true, stack: true, name: 'kind', colors: { denied: 'red' }, none: 'No agent connected in this time.' },
        ),
        12,
      ],
    ],
    [
      10,
      [
        table(
          'Destinations',
          `
SELECT domain, ${IP} AS ip, remote_port AS port, protocol, groupUniqArray(5)(agent) AS agents, sum(t.flows) AS flows,
    sum(t.bytes_out) AS sent, sum(t.bytes_in) AS got, max(t.time) AS last
FROM traffic_per_minute AS t
WHERE $__timeFilter(t.time) AND direction = 'out' AND ${here}
GROUP BY domain, remote_ip, port, protocol
ORDER BY sent DESC LIMIT 200`,
          {
            columns: { ip: { width: 120 }, port: { unit: 'none', width: 65 }, protocol: { width: 75 }, flows: { width: 65 }, sent: { unit: 'bytes', width: 85 }, got: { unit: 'bytes', width: 85 }, last: { unit: 'dateTimeFromNow', width: 110 } },
            none: 'No flow ended in this time.',
          },
        ),
        14,
      ],
      [
        table(
          'New destinations',
          `
SELECT any(domain) AS domain, ${IP} AS ip, remote_port AS port, groupUniqArray(5)(agent) AS agents, min(t.time) AS first, sum(t.bytes_out) AS sent
FROM traffic_per_hour AS t
WHERE t.time >= toStartOfHour($__fromTime) - INTERVAL 30 DAY AND t.time <= $__toTime AND direction = 'out' AND ${here}
GROUP BY remote_ip, port
HAVING first >= toStartOfHour($__fromTime)
ORDER BY first DESC LIMIT 200`,
          {
            columns: { domain: { width: 120 }, ip: { width: 110 }, port: { unit: 'none', width: 65 }, agents: { width: 110 }, first: { unit: 'dateTimeAsIso', width: 170 }, sent: { unit: 'bytes' } },
            about: 'Where no agent of the selection went in the 30 days before.',
            none: 'Nothing new in this time.',
          },
        ),
        10,
      ],
    ],
    [
      8,
      [
        table(
          'Tunnels and exfiltration',
          `
SELECT time, severity, detector, agent, node, message, taken, id AS finding
FROM findings
WHERE $__timeFilter(time) AND detector IN (${TUNNELS}) AND ${here}
ORDER BY time DESC LIMIT 100`,
          { none: 'No findings of tunnels in this time.' },
        ),
        24,
      ],
    ],
    [
      8,
      [
        table(
          'Names that were asked for',
          `
SELECT JSONExtractString(detail, 'dns.question.name') AS name, JSONExtractString(detail, 'dns.question.type') AS type, count() AS questions,
    groupUniqArray(5)(agent) AS agents, max(e.time) AS last
FROM events AS e
WHERE $__timeFilter(e.time) AND kind = 'dns' AND JSONExtractString(detail, 'dns.type') = 'query' AND ${here}
GROUP BY name, type ORDER BY questions DESC LIMIT 200`,
          { columns: { questions: { width: 85 }, type: { width: 60 }, agents: { width: 120 }, last: { unit: 'dateTimeFromNow', width: 105 } }, none: 'No agent asked a name server in this time.' },
        ),
        8,
      ],
      [
        table(
          'Names that were said',
          `
SELECT coalesce(nullIf(JSONExtractString(detail, 'tls.client.server_name'), ''), nullIf(JSONExtractString(detail, 'server.address'), ''), nullIf(domain, ''), remote) AS name,
    kind AS protocol, count() AS times, groupUniqArray(5)(agent) AS agents
FROM events
WHERE $__timeFilter(time) AND kind IN ('tls', 'http', 'ssh') AND ${here}
GROUP BY name, protocol ORDER BY times DESC LIMIT 200`,
          { columns: { times: { width: 70 }, protocol: { width: 80 } }, about: 'In a TLS ClientHello, an HTTP request, or to whom SSH was spoken: a hint, not a proof.', none: 'No agent said a name in this time.' },
        ),
        8,
      ],
      [
        table(
          'What was refused',
          `
SELECT time, agent, JSONExtractString(detail, 'target') AS what, JSONExtractString(detail, 'rule') AS rule
FROM events
WHERE $__timeFilter(time) AND kind = 'denied' AND ${here}
ORDER BY time DESC LIMIT 100`,
          { columns: { agent: { width: 90 }, rule: { width: 120 } }, none: 'Nothing was refused in this time.' },
        ),
        8,
      ],
    ],
  ],
});
