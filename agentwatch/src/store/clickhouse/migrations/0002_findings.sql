-- What was found, and what was done. Few rows, kept longer than events.
CREATE TABLE IF NOT EXISTS {db}.findings{local}{on_cluster} (
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'The deciding event',
    node LowCardinality(String) COMMENT 'The host it happened on',
    namespace LowCardinality(String) COMMENT 'The pod''s namespace in Kubernetes, where it is a pod''s',
    pod LowCardinality(String) COMMENT 'The pod''s name',
    agent LowCardinality(String) COMMENT 'The agent''s name',
    run LowCardinality(String) COMMENT 'The run of the agent',
    id String COMMENT 'The finding''s id',
    detector LowCardinality(String) COMMENT 'The detector''s id: reverse-tunnel, mass-deletion, ...',
    severity Enum8('info' = 1, 'low' = 2, 'medium' = 3, 'high' = 4, 'critical' = 5) COMMENT 'How bad; can be compared with <',
    message String CODEC(ZSTD(1)) COMMENT 'A sentence that a person can act on',
    techniques Array(LowCardinality(String)) COMMENT 'Ids of MITRE ATT&CK',
    pid UInt32 COMMENT 'The process that did it',
    start_ns UInt64 COMMENT 'Its start, CLOCK_BOOTTIME nanoseconds',
    exe String CODEC(ZSTD(1)) COMMENT 'Path of its binary',
    requested LowCardinality(String) COMMENT 'What the policy asks for: log, alert, quarantine, freeze, kill',
    taken LowCardinality(String) COMMENT 'What was done',
    finding String CODEC(ZSTD(3)) COMMENT 'All of it, with evidence and ancestry: a JSON object'
) ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (time, agent)
TTL toDateTime(time) + INTERVAL {findings_days} DAY
SETTINGS {deduplicate};

CREATE TABLE IF NOT EXISTS {db}.actions{local}{on_cluster} (
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'When it was asked for',
    node LowCardinality(String) COMMENT 'The host it was done on',
    namespace LowCardinality(String) COMMENT 'The pod''s namespace in Kubernetes, where it is a pod''s',
    pod LowCardinality(String) COMMENT 'The pod''s name',
    agent LowCardinality(String) COMMENT 'The agent''s name',
    run LowCardinality(String) COMMENT 'The run of the agent',
    action LowCardinality(String) COMMENT 'freeze, thaw, quarantine, release, kill',
    reason String CODEC(ZSTD(1)) COMMENT 'Why',
    asked_by String CODEC(ZSTD(1)) COMMENT 'Who asked: a JSON object with uid, user, pid, exe',
    done Bool COMMENT 'Whether it was done',
    outcome String CODEC(ZSTD(1)) COMMENT 'What came of it, or why it was refused',
    ordered_us Nullable(UInt64) COMMENT 'From the request to the order to the kernel, microseconds',
    done_us Nullable(UInt64) COMMENT 'From the request until it was seen to be in force, microseconds'
) ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (time, agent)
TTL toDateTime(time) + INTERVAL {findings_days} DAY
SETTINGS {deduplicate};

-- The newest link of each node's audit chain, now and then: who cuts the chain's end off on the node does not
-- take these away.
CREATE TABLE IF NOT EXISTS {db}.audit_heads{local}{on_cluster} (
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'When it was the newest',
    node LowCardinality(String) COMMENT 'The host',
    records UInt64 COMMENT 'How many records the chain had',
    head String COMMENT 'The hash of the newest, hexadecimal'
) ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (node, time)
SETTINGS {deduplicate};
