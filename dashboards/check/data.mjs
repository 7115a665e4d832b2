// What the dashboards are tried on: recordings of real agents, as the history would have them, told as if they had
// happened on three nodes in the last hours, again and again.
//
// Two things are made up here, since no recording has them: samples of GPUs, and what people asked for.
import { execFileSync } from 'node:child_process';
import { RANGE } from './sql.mjs';

/** A recording, whose it is said to be, and how many minutes ago: at once, or every so many minutes. */
const STORY = [
  ['git-clone', { agent: 'coder', node: 'gpu-1', namespace: 'agents', every: 9 }],
  ['nginx-proxy', { agent: 'web-tester', node: 'cpu-1', namespace: 'agents', every: 13 }],
  ['names', { agent: 'researcher', node: 'cpu-1', namespace: 'agents', every: 21 }],
  ['tls', { agent: 'researcher', node: 'gpu-2', namespace: 'agents', every: 17 }],
  ['git-clone', { agent: 'rl-trainer', node: 'gpu-2', namespace: 'training', every: 25 }],
  ['denied', { agent: 'coder', node: 'gpu-1', namespace: 'agents', every: 95 }],
  ['socat-relay', { agent: 'researcher', node: 'gpu-2', namespace: 'agents', ago: [200] }],
  ['mass-deletion', { agent: 'mail-assistant', node: 'cpu-1', namespace: 'agents', ago: [110] }],
  ['python-relay', { agent: 'rl-trainer', node: 'gpu-2', namespace: 'training', ago: [75] }],
  ['ssh-reverse', { agent: 'rl-trainer', node: 'gpu-1', namespace: 'training', ago: [42] }],
  ['miner', { agent: 'rl-trainer', node: 'gpu-1', namespace: 'training', ago: [40, 30, 20, 10] }],
];

/** The recording's rows: `rows` is the program that reads them out of it. */
function read(rows, file) {
  const text = execFileSync(rows, [file], { encoding: 'utf8', maxBuffer: 1 << 28 });
  const lines = text.trim().split('\n').map((line) => JSON.parse(line));
  return {
    events: lines.flatMap(({ event }) => event ?? []),
    findings: lines.flatMap(({ finding }) => finding ?? []),
  };
}

/** RFC 3339 with nanoseconds, as a number of them. */
function nanoseconds(time) {
  const [, until, fraction = ''] = /^(.*?)(?:\.(\d+))?Z$/.exec(time);
  return BigInt(Date.parse(`${until}Z`)) * 1_000_000n + BigInt(fraction.padEnd(9, '0'));
}

const seconds = (ns) => `${ns / 1_000_000_000n}.${String(ns % 1_000_000_000n).padStart(9, '0')}`;

/** The address in `10.1.2.3:80` and `[::1]:80`, as an IPv6 address. */
function address(remote) {
  const [, six, four] = /^(?:\[(.*)\]|([\d.]+)):\d+$/.exec(remote ?? '') ?? [];
  return six ?? (four ? `::ffff:${four}` : '::');
}

function eventRow(event, place, id) {
  const { detail, time, agent: _agent, run: _run, ...columns } = event;
  return {
    ...columns,
    ...place,
    id,
    remote_ip: address(event.remote),
    domain: detail?.['destination.domain'] ?? '',
    count: detail?.count ?? 1,
    detail: detail ? JSON.stringify(detail) : '',
  };
}

function findingRow(finding, place, id) {
  const { detector, severity, message, techniques, process } = finding;
  // A replay acts on nothing; when this was recorded, what the policy asks for was done.
  const response = { requested: finding.response.requested, taken: finding.response.requested };
  const all = { ...finding, id, agent: place.agent, response };
  return {
    ...place,
    id,
    detector,
    severity,
    message,
    techniques: techniques.map((technique) => technique.id),
    pid: process?.pid ?? 0,
    start_ns: process?.start_ns ?? 0,
    exe: process?.exe ?? '',
    requested: response.requested,
    taken: response.taken,
    finding: JSON.stringify(all),
  };
}

/** Fills the tables. */
export async function fill(clickhouse, { rows, recordings }) {
  const all = { events: [], findings: [], agents: [], actions: [], gpu_samples: [] };
  for (const [number, [name, { every, ago, ...place }]] of STORY.entries()) {
    const recorded = read(rows, `${recordings}/${name}.awrec`);
    const begin = nanoseconds(recorded.events[0].time);
    const minutes = ago ?? Array.from({ length: Math.floor(350 / every) }, (_, at) => 1 + number + at * every);
    for (const [turn, past] of minutes.entries()) {
      const run = `${name}-${number}-${turn}`;
      const shift = BigInt(RANGE.to - 60 - past * 60) * 1_000_000_000n - begin;
      const at = (time) => seconds(nanoseconds(time) + shift);
      const where = { ...place, pod: place.namespace ? `${place.agent}-${number}` : '', run };
      for (const event of recorded.events) {
        all.events.push({ ...eventRow(event, where, all.events.length + 1), time: at(event.time) });
      }
      for (const finding of recorded.findings) {
        const id = turn === 0 && number < 8 ? finding.id : `${finding.id.slice(0, -4)}${String(number * 100 + turn).padStart(4, '0')}`;
        all.findings.push({ ...findingRow(finding, where, id), time: at(finding.time) });
      }
      const last = recorded.events.at(-1).time;
      const killed = recorded.findings.find(({ response }) => response.requested === 'kill');
      const first = recorded.events.find(({ kind }) => kind === 'exec');
      all.agents.push({
        ...where,
        command: first?.detail.argv ?? [],
        started: at(recorded.events[0].time),
        ended: past < 5 ? null : at(last),
        exit_status: past < 5 ? null : killed ? 137 : 0,
        killed_by: killed ? all.findings.at(-1).id : '',
        events: recorded.events.length,
        seen: at(last),
      });
    }
  }
  all.actions = asked(all.findings);
  all.gpu_samples = samples();
  for (const [table, list] of Object.entries(all)) await clickhouse.insert(table, list);
}

/** MADE UP: what people did about two of the findings. */
function asked(findings) {
  const by = (user) => JSON.stringify({ uid: 1000, user, pid: 4711, exe: '/usr/bin/agentwatch' });
  const about = (detector, after, action, user, reason, done = true) => {
    const { time, node, namespace, pod, agent, run } = findings.findLast((finding) => finding.detector === detector);
    const later = (BigInt(time.replace('.', '')) + BigInt(after) * 1_000_000_000n);
    const outcome = done ? 'done' : 'it has ended';
    return { time: seconds(later), node, namespace, pod, agent, run, action, reason, asked_by: by(user), done, outcome, ordered_us: done ? 180 : null, done_us: done ? 2400 : null };
  };
  return [
    about('reverse-tunnel', 65, 'freeze', 'alice', 'tunnel: looking at it'),
    about('reverse-tunnel', 1200, 'kill', 'alice', 'key revoked', false),
    about('policy-violation', 300, 'thaw', 'bob', 'the destination is a mirror of ours'),
  ];
}

/** MADE UP: an agent that trains on one GPU, and on another one from some time on a process that looks like a miner. */
function samples() {
  const list = [];
  const wave = (t, period, low, high) => low + ((high - low) * (1 + Math.sin((2 * Math.PI * t) / period))) / 2;
  for (let t = RANGE.from; t < RANGE.to - 60; t += 30) {
    const mining = t > RANGE.to - 45 * 60;
    const gpus = [
      { node: 'gpu-1', gpu_index: 0, gpu: 'GPU-11111111', agent: 'rl-trainer', namespace: 'training', comm: mining ? 'kworkerds' : 'python3', pid: mining ? 4311 : 900, ...(mining ? steady(t, wave) : training(t, wave)) },
      { node: 'gpu-2', gpu_index: 0, gpu: 'GPU-22222222', agent: 'rl-trainer', namespace: 'training', comm: 'python3', pid: 901, ...training(t + 700, wave) },
    ];
    for (const { agent, namespace, comm, pid, mining_score, ...gpu } of gpus) {
      const common = { time: `${t}.000`, model: 'NVIDIA H200', memory_total_bytes: 150_754_820_096, power_limit_watts: 700, ...gpu };
      list.push({ ...common, agent: '', namespace: '', comm: '', pid: 0, mining_score: null });
      list.push({ ...common, agent, namespace, comm, pid, mining_score, power_watts: null, power_limit_watts: null });
    }
  }
  return list;
}

const training = (t, wave) => ({
  sm_percent: t % 3000 < 240 ? 4 : wave(t, 1900, 71, 97), tensor_percent: t % 3000 < 240 ? 0 : wave(t, 1900, 30, 52), integer_percent: 6, float_percent: wave(t, 2300, 8, 15),
  dram_percent: wave(t, 1900, 35, 60), memory_used_bytes: Math.round(wave(t, 9000, 88e9, 96e9)), power_watts: t % 3000 < 240 ? 140 : wave(t, 1900, 420, 660), temperature_celsius: wave(t, 900, 52, 66),
  pcie_rx_bytes_per_second: Math.round(wave(t, 1700, 4e8, 2.1e9)), pcie_tx_bytes_per_second: 90_000_000, nvlink_rx_bytes_per_second: 0, nvlink_tx_bytes_per_second: 0, mining_score: 1,
});

const steady = (t, wave) => ({
  sm_percent: wave(t, 400, 98.5, 99.5), tensor_percent: 0, integer_percent: wave(t, 400, 71, 73), float_percent: 1, dram_percent: wave(t, 400, 80, 83), memory_used_bytes: 6_400_000_000,
  power_watts: wave(t, 400, 668, 676), temperature_celsius: 71, pcie_rx_bytes_per_second: 1_200_000, pcie_tx_bytes_per_second: 300_000, nvlink_rx_bytes_per_second: 0, nvlink_tx_bytes_per_second: 0, mining_score: 9,
});
