-- Sums for dashboards, per minute and per hour, made as events come in. Rows of the same key may not be added up
-- yet: always ask for sum(...), with GROUP BY.

-- How much happened: by agent and kind.
CREATE TABLE IF NOT EXISTS {db}.events_per_minute{local}{on_cluster} (
    time DateTime('UTC') COMMENT 'Begin of the minute',
    node LowCardinality(String), namespace LowCardinality(String), pod LowCardinality(String),
    agent LowCardinality(String), kind LowCardinality(String),
    events UInt64 COMMENT 'Rows of events',
    calls UInt64 COMMENT 'Calls that they stand for',
    failed UInt64 COMMENT 'Rows whose result is an error'
) ENGINE = {engine:SummingMergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (agent, kind, node, namespace, pod, time)
TTL time + INTERVAL {events_days} DAY
SETTINGS {deduplicate};

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.events_to_minute{local}{on_cluster} TO {db}.events_per_minute{local} AS
SELECT toStartOfMinute(toDateTime(time, 'UTC')) AS time, node, namespace, pod, agent, kind,
    count() AS events, sum(e.count) AS calls, countIf(result < 0) AS failed
FROM {db}.events{local} AS e
GROUP BY time, node, namespace, pod, agent, kind;

CREATE TABLE IF NOT EXISTS {db}.events_per_hour{local}{on_cluster} AS {db}.events_per_minute{local}
ENGINE = {engine:SummingMergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (agent, kind, node, namespace, pod, time)
TTL time + INTERVAL {findings_days} DAY
SETTINGS {deduplicate};

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.events_to_hour{local}{on_cluster} TO {db}.events_per_hour{local} AS
SELECT toStartOfHour(m.time) AS time, node, namespace, pod, agent, kind,
    sum(m.events) AS events, sum(m.calls) AS calls, sum(m.failed) AS failed
FROM {db}.events_per_minute{local} AS m
GROUP BY time, node, namespace, pod, agent, kind;

-- Where bytes went: by destination, counted when a flow closes.
CREATE TABLE IF NOT EXISTS {db}.traffic_per_minute{local}{on_cluster} (
    time DateTime('UTC') COMMENT 'Begin of the minute',
    node LowCardinality(String), namespace LowCardinality(String), pod LowCardinality(String),
    agent LowCardinality(String),
    protocol LowCardinality(String), direction LowCardinality(String),
    remote_ip IPv6 COMMENT 'The peer''s address; IPv4 as ::ffff:10.1.2.3',
    remote_port UInt16 COMMENT 'The peer''s port; 0 where the agent was connected to',
    domain LowCardinality(String) COMMENT 'The peer''s name, a hint',
    flows UInt64 COMMENT 'Flows that closed',
    bytes_in UInt64 COMMENT 'Payload bytes that the agent got',
    bytes_out UInt64 COMMENT 'Payload bytes that it sent'
) ENGINE = {engine:SummingMergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (agent, remote_ip, remote_port, domain, protocol, direction, node, namespace, pod, time)
TTL time + INTERVAL {events_days} DAY
SETTINGS {deduplicate};

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.traffic_to_minute{local}{on_cluster} TO {db}.traffic_per_minute{local} AS
SELECT toStartOfMinute(toDateTime(e.time, 'UTC')) AS time, node, namespace, pod, agent, protocol, direction, remote_ip,
    if(direction = 'out', e.remote_port, 0) AS remote_port, domain,
    count() AS flows, sum(e.bytes_in) AS bytes_in, sum(e.bytes_out) AS bytes_out
FROM {db}.events{local} AS e
WHERE kind = 'flow_close'
GROUP BY time, node, namespace, pod, agent, protocol, direction, remote_ip, remote_port, domain;

CREATE TABLE IF NOT EXISTS {db}.traffic_per_hour{local}{on_cluster} AS {db}.traffic_per_minute{local}
ENGINE = {engine:SummingMergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (agent, remote_ip, remote_port, domain, protocol, direction, node, namespace, pod, time)
TTL time + INTERVAL {findings_days} DAY
SETTINGS {deduplicate};

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.traffic_to_hour{local}{on_cluster} TO {db}.traffic_per_hour{local} AS
SELECT toStartOfHour(m.time) AS time, node, namespace, pod, agent, protocol, direction, remote_ip, remote_port, domain,
    sum(m.flows) AS flows, sum(m.bytes_in) AS bytes_in, sum(m.bytes_out) AS bytes_out
FROM {db}.traffic_per_minute{local} AS m
GROUP BY time, node, namespace, pod, agent, protocol, direction, remote_ip, remote_port, domain;

-- What was changed in which folder: what succeeded, by the first three folders of its path.
CREATE TABLE IF NOT EXISTS {db}.changes_per_minute{local}{on_cluster} (
    time DateTime('UTC') COMMENT 'Begin of the minute',
    node LowCardinality(String), namespace LowCardinality(String), pod LowCardinality(String),
    agent LowCardinality(String),
    kind LowCardinality(String) COMMENT 'unlink, rename, chmod, ...; open: for writing',
    folder LowCardinality(String) COMMENT 'The first three folders of the path',
    changes UInt64 COMMENT 'Calls'
) ENGINE = {engine:SummingMergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (agent, kind, folder, node, namespace, pod, time)
TTL time + INTERVAL {events_days} DAY
SETTINGS {deduplicate};

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.changes_to_minute{local}{on_cluster} TO {db}.changes_per_minute{local} AS
SELECT toStartOfMinute(toDateTime(e.time, 'UTC')) AS time, node, namespace, pod, agent, kind,
    extract(path, '^((?:/[^/]*){1,3})/') AS folder, sum(e.count) AS changes
FROM {db}.events{local} AS e
WHERE result >= 0 AND (
    kind IN ('unlink', 'rmdir', 'rename', 'chmod', 'truncate', 'mkdir', 'link', 'symlink', 'chown', 'xattr', 'mknod')
    OR kind = 'open' AND position(detail, '"write":true') > 0)
GROUP BY time, node, namespace, pod, agent, kind, folder;

CREATE TABLE IF NOT EXISTS {db}.changes_per_hour{local}{on_cluster} AS {db}.changes_per_minute{local}
ENGINE = {engine:SummingMergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (agent, kind, folder, node, namespace, pod, time)
TTL time + INTERVAL {findings_days} DAY
SETTINGS {deduplicate};

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.changes_to_hour{local}{on_cluster} TO {db}.changes_per_hour{local} AS
SELECT toStartOfHour(m.time) AS time, node, namespace, pod, agent, kind, folder, sum(m.changes) AS changes
FROM {db}.changes_per_minute{local} AS m
GROUP BY time, node, namespace, pod, agent, kind, folder;

-- What was found.
CREATE TABLE IF NOT EXISTS {db}.findings_per_minute{local}{on_cluster} (
    time DateTime('UTC') COMMENT 'Begin of the minute',
    node LowCardinality(String), namespace LowCardinality(String), pod LowCardinality(String),
    agent LowCardinality(String), detector LowCardinality(String),
    severity Enum8('info' = 1, 'low' = 2, 'medium' = 3, 'high' = 4, 'critical' = 5),
    taken LowCardinality(String) COMMENT 'What was done',
    findings UInt64
) ENGINE = {engine:SummingMergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (agent, detector, severity, taken, node, namespace, pod, time)
TTL time + INTERVAL {events_days} DAY
SETTINGS {deduplicate};

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.findings_to_minute{local}{on_cluster} TO {db}.findings_per_minute{local} AS
SELECT toStartOfMinute(toDateTime(f.time, 'UTC')) AS time, node, namespace, pod, agent, detector, severity, taken,
    count() AS findings
FROM {db}.findings{local} AS f
GROUP BY time, node, namespace, pod, agent, detector, severity, taken;

CREATE TABLE IF NOT EXISTS {db}.findings_per_hour{local}{on_cluster} AS {db}.findings_per_minute{local}
ENGINE = {engine:SummingMergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (agent, detector, severity, taken, node, namespace, pod, time)
TTL time + INTERVAL {findings_days} DAY
SETTINGS {deduplicate};

CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.findings_to_hour{local}{on_cluster} TO {db}.findings_per_hour{local} AS
SELECT toStartOfHour(m.time) AS time, node, namespace, pod, agent, detector, severity, taken, sum(m.findings) AS findings
FROM {db}.findings_per_minute{local} AS m
GROUP BY time, node, namespace, pod, agent, detector, severity, taken;
