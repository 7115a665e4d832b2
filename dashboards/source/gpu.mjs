// GPUs: who uses them, and does any of it look like mining?
import { AGENT, NAMESPACE, NODE, dashboard, marks, only, series, stat, table } from './lib.mjs';

const here = only('node', 'namespace', 'agent');
// A GPU as a whole is no agent's: only the node counts.
const gpus = `$__timeFilter_ms(time) AND pid = 0 AND ${only('node')}`;
const NONE = 'No GPU samples: no node in this selection has a GPU that agentwatch can read.';
const whole = (title, columns, options) =>
  series(
    title,
    `
SELECT $__timeInterval_ms(time) AS time, concat('GPU ', toString(gpu_index), ' on ', node) AS gpu, ${columns}
FROM gpu_samples
WHERE ${gpus}
GROUP BY time, gpu ORDER BY time, gpu`,
    { name: 'gpu', none: NONE, ...options },
  );

export default dashboard({
  uid: 'gpu',
  title: 'agentwatch / GPU',
  about: 'GPUs by agent, and what tells mining from training: use that is steady and high, integer work, little traffic, a process that is no job’s.',
  variables: [NODE, NAMESPACE, AGENT],
  annotations: marks('node', 'namespace', 'agent'),
  lines: [
    [
      4,
      [stat('GPUs', `SELECT uniq(node, gpu) AS gpus FROM gpu_samples WHERE ${gpus}`), 6],
      [stat('Agents on GPUs', `SELECT uniq(namespace, agent) AS agents FROM gpu_samples WHERE $__timeFilter_ms(time) AND agent != '' AND ${here}`), 6],
      [
        stat('Mining score', `SELECT max(mining_score) AS score FROM gpu_samples WHERE $__timeFilter_ms(time) AND ${here} HAVING count() > 0`, {
          limits: [[0, 'green'], [5, 'orange'], [8, 'dark-red']],
          about: 'The highest of any process or GPU: from 5 on it is told, from 8 on it is acted upon.',
          none: 'no samples',
        }),
        6,
      ],
      [stat('Mining findings', `SELECT count() AS findings FROM findings WHERE $__timeFilter(time) AND detector IN ('gpu-mining', 'crypto-mining') AND ${here}`, { limits: [[0, 'green'], [1, 'dark-red']] }), 6],
    ],
    [
      8,
      [whole('Use', 'avg(sm_percent) AS sm', { unit: 'percent', max: 100, about: 'Part of the time in which a kernel ran: no measure of how much of the GPU it took.' }), 8],
      [whole('Power', 'avg(power_watts) / any(power_limit_watts) AS power', { unit: 'percentunit', about: 'Of what it may draw. Steady and above 85 % is what mining looks like.', limits: [[0, 'green'], [0.85, 'orange']] }), 8],
      [whole('Memory', 'avg(memory_used_bytes) AS used', { unit: 'bytes' }), 8],
    ],
    [
      8,
      [
        whole('Integer work', 'sum(ifNull(integer_percent, 0)) / nullIf(sum(ifNull(tensor_percent, 0) + ifNull(integer_percent, 0) + ifNull(float_percent, 0)), 0) AS integer', {
          unit: 'percentunit',
          max: 1,
          about: 'Of all that its pipes did. Training is tensor and floating-point work; hashing is integer work.',
        }),
        12,
      ],
      [whole('Traffic', 'avg(ifNull(pcie_rx_bytes_per_second, 0) + ifNull(pcie_tx_bytes_per_second, 0) + ifNull(nvlink_rx_bytes_per_second, 0) + ifNull(nvlink_tx_bytes_per_second, 0)) AS traffic', { unit: 'binBps', about: 'Over PCIe and NVLink, both ways. Mining needs next to none.' }), 12],
    ],
    [
      9,
      [
        table(
          'Who uses GPUs',
          `
SELECT if(agent = '', 'no agent', agent) AS agent, node, gpu_index AS gpu, comm, pid, round(avg(sm_percent)) AS sm, max(memory_used_bytes) AS memory,
    max(mining_score) AS score, max(g.time) AS time
FROM gpu_samples AS g
WHERE $__timeFilter_ms(g.time) AND pid != 0 AND ${here}
GROUP BY agent, node, gpu, comm, pid
ORDER BY score DESC, sm DESC LIMIT 200`,
          {
            columns: {
              gpu: { unit: 'none', width: 50 }, sm: { title: 'use', unit: 'percent', width: 70 }, memory: { unit: 'bytes', width: 90 },
              score: { width: 70, limits: [[0, 'text'], [5, 'orange'], [8, 'red']] }, time: { title: 'last seen' }, comm: { width: 110 },
            },
            none: NONE,
            about: 'A process of no agent on a GPU that agents train on is worth a look.',
          },
        ),
        14,
      ],
      [
        table(
          'Mining findings',
          `
SELECT time, severity, detector, agent, node, message, id AS finding
FROM findings
WHERE $__timeFilter(time) AND detector IN ('gpu-mining', 'crypto-mining') AND ${here}
ORDER BY time DESC LIMIT 100`,
          { none: 'No findings of mining in this time.' },
        ),
        10,
      ],
    ],
    [
      8,
      [
        table(
          'Messages of mining pools',
          `
SELECT time, agent, node, comm, pid, remote, domain, JSONExtractString(detail, 'stratum.method') AS method
FROM events
WHERE $__timeFilter(time) AND kind = 'stratum' AND ${here}
ORDER BY time DESC LIMIT 100`,
          { columns: { comm: { width: 110 } }, none: 'Nobody spoke stratum in this time.', about: 'Stratum on the wire, at any port.' },
        ),
        24,
      ],
    ],
  ],
});
