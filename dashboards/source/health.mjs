// The watching itself: is all of it seen, what does it cost, what waits?
import { PROMETHEUS, dashboard, labels, series, stat, table } from './lib.mjs';

const NODES = {
  type: 'query',
  name: 'node',
  label: 'Node',
  datasource: PROMETHEUS,
  query: { query: 'label_values(node:agentwatch_up:count, node)', refId: 'node' },
  multi: true,
  includeAll: true,
  current: { text: ['All'], value: ['$__all'] },
  hide: 0,
  refresh: 2,
  regex: '',
  sort: 1,
  options: [],
};
const of = (name) => `${name}{node=~"$node"}`;
const line = (title, name, legend, options) => series(title, [[of(name), legend]], { none: 'No daemon is scraped: see dashboards/README.md.', ...options });

export default dashboard({
  uid: 'health',
  title: 'agentwatch / Kernel health',
  about: 'The daemons themselves: on which tiers they see, what they lose, cost and leave waiting.',
  variables: [NODES],
  lines: [
    [
      4,
      [stat('Daemons', [[`sum(${of('node:agentwatch_up:count')})`, '']], { limits: [[0, 'dark-red'], [1, 'green']] }), 4],
      [stat('Away', [['count(up{job="agentwatch"} == 0) or on () vector(0)', '']], { limits: [[0, 'green'], [1, 'dark-red']], about: 'Daemons that Prometheus looks for and that do not answer.' }), 4],
      [stat('Events lost', [[`max(${of('node:agentwatch_records_lost:ratio_rate5m')})`, '']], { unit: 'percentunit', decimals: 2, limits: [[0, 'green'], [0.0001, 'orange'], [0.01, 'red']], none: 'no daemon', about: 'On the node where it is worst.' }), 4],
      [stat('Fullest map', [[`max(${of('node_map:agentwatch_map_entries:ratio')})`, '']], { unit: 'percentunit', limits: [[0, 'green'], [0.7, 'orange'], [0.9, 'red']], none: 'no daemon' }), 4],
      [stat('Capabilities missing', [[`count((agentwatch_capability_up == 0) * on (job, instance) group_left (node) ${of('agentwatch_build_info')}) or on () vector(0)`, '']], { limits: [[0, 'green'], [1, 'orange']], about: 'Below, and why.' }), 4],
      [stat('Decision, 99 %', [[`max(${of('node:agentwatch_finding_latency_seconds:p99_1h')} >= 0)`, '']], { unit: 's', limits: [[0, 'green'], [0.002, 'orange']], none: 'no findings', about: 'From the deciding event in the kernel to the finding and the order to act, in the last hour.' }), 4],
    ],
    [
      8,
      [line('Events', 'node:agentwatch_records_emitted:rate5m', '{{node}}', { unit: 'ops', about: 'Records that the kernel was to send, a second.' }), 8],
      [line('Lost', 'node_reason:agentwatch_records_lost:rate5m', '{{node}}: {{reason}}', { unit: 'ops', about: 'Records a second that did not arrive, and why.' }), 8],
      [
        series('Not kept', [[of('node:agentwatch_history_dropped:rate5m'), '{{node}}: history'], [of('exporter_node:agentwatch_export_lost_rows:rate5m'), '{{node}}: {{exporter}}']], {
          unit: 'ops',
          none: 'No daemon is scraped: see dashboards/README.md.',
          about: 'Events a second that arrived and could not be stored, or were gone before ClickHouse had them.',
        }),
        8,
      ],
    ],
    [
      8,
      [line('Processor time', 'node:agentwatch_cpu_seconds:rate5m', '{{node}}', { unit: 'percentunit', about: 'Of one core.' }), 8],
      [line('Memory', 'node:agentwatch_memory_bytes:sum', '{{node}}', { unit: 'bytes' }), 8],
      [
        series('Lag', [[of('node:agentwatch_history_lag_seconds:max'), '{{node}}: history'], [of('exporter_node:agentwatch_export_lag_seconds:max'), '{{node}}: {{exporter}}'], [of('node:agentwatch_snapshot_age_seconds:max'), '{{node}}: watching']], {
          unit: 's',
          none: 'No daemon is scraped: see dashboards/README.md.',
          about: 'How long events wait to be stored, and for ClickHouse, and how long ago the thread that watches last said how it is: some seconds are usual, since Prometheus asks no more often.',
        }),
        8,
      ],
    ],
    [
      8,
      [line('Rings', 'node_ring:agentwatch_ring_unread:ratio', '{{node}}: {{ring}}', { unit: 'percentunit', about: 'How full the ways out of the kernel are.', max: 1 }), 8],
      [series('Maps', [[`topk(10, ${of('node_map:agentwatch_map_entries:ratio')})`, '{{node}}: {{map}}']], { unit: 'percentunit', max: 1, limits: [[0, 'green'], [0.9, 'red']], none: 'No daemon is scraped: see dashboards/README.md.', about: 'The ten that are fullest.' }), 8],
      [line('Queues', 'node_queue:agentwatch_queue_items:ratio', '{{node}}: {{queue}}', { unit: 'percentunit', max: 1 }), 8],
    ],
    [
      9,
      [
        table('Tiers', [[`agentwatch_capability_info * on (job, instance) group_left (node) ${of('agentwatch_build_info')}`, '']], {
          columns: { capability: { width: 170 }, tier: { width: 110 } },
          transformations: labels('node', 'capability', 'tier', 'reason'),
          about: 'What each capability rests on, and why on nothing better or not at all.',
          none: 'No daemon is scraped: see dashboards/README.md.',
        }),
        14,
      ],
      [
        table('Versions', [[of('agentwatch_build_info'), '']], {
          columns: { version: { width: 90 } },
          transformations: labels('node', 'version', 'kernel', 'instance'),
          none: 'No daemon is scraped: see dashboards/README.md.',
        }),
        10,
      ],
    ],
  ],
});
