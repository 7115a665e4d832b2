-- What was found, and what was done. Few rows, kept longer than events.
CREATE TABLE IF NOT EXISTS {db}.findings{local}{on_cluster} (
    time DateTime64(9, 'UTC') COMMENT 'The deciding event' CODEC(Delta, ZSTD(1)),
    node LowCardinality(String) COMMENT 'The host it happened on',
    namespace LowCardinality(String) COMMENT 'The pod''s namespace in Kubernetes, where it is a pod''s',
    pod LowCardinality(String) COMMENT 'The pod''s name',
    agent LowCardinality(String) COMMENT 'The agent''s name',
    run LowCardinality(String) COMMENT 'The run of the agent',
    id String COMMENT 'The finding''s id',
    detector LowCardinality(String) COMMENT 'The detector''s id: reverse-tunnel, mass-deletion, ...',
    severity Enum8('info' = 1, 'low' = 2, 'medium' = 3, 'high' = 4, 'critical' = 5) COMMENT 'How bad; can be compared with <',
    message String COMMENT 'A sentence that a person can act on' CODEC(ZSTD(1)),
    techniques Array(LowCardinality(String)) COMMENT 'Ids of MITRE ATT&CK',
    pid UInt32 COMMENT 'The process that did it',
    start_ns UInt64 COMMENT 'Its start, CLOCK_BOOTTIME nanoseconds',
    exe String COMMENT 'Path of its binary' CODEC(ZSTD(1)),
    requested LowCardinality(String) COMMENT 'What the policy asks for: log, alert, quarantine, freeze, kill',
    taken LowCardinality(String) COMMENT 'What was done',
    finding String COMMENT 'All of it, with evidence and ancestry: a JSON object' CODEC(ZSTD(3))
) ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (time, agent)
TTL toDateTime(time) + INTERVAL {findings_days} DAY
SETTINGS {deduplicate};

CREATE TABLE IF NOT EXISTS {db}.actions{local}{on_cluster} (
    time DateTime64(9, 'UTC') COMMENT 'When it was asked for' CODEC(Delta, ZSTD(1)),
    node LowCardinality(String) COMMENT 'The host it was done on',
    namespace LowCardinality(String) COMMENT 'The pod''s namespace in Kubernetes, where it is a pod''s',
    pod LowCardinality(String) COMMENT 'The pod''s name',
    agent LowCardinality(String) COMMENT 'The agent''s name',
    run LowCardinality(String) COMMENT 'The run of the agent',
    action LowCardinality(String) COMMENT 'freeze, thaw, quarantine, release, kill',
    reason String COMMENT 'Why' CODEC(ZSTD(1)),
    asked_by String COMMENT 'Who asked: a JSON object with uid, user, pid, exe' CODEC(ZSTD(1)),
    done Bool COMMENT 'Whether it was done',
    outcome String COMMENT 'What came of it, or why it was refused' CODEC(ZSTD(1)),
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
    time DateTime64(9, 'UTC') COMMENT 'When it was the newest' CODEC(Delta, ZSTD(1)),
    node LowCardinality(String) COMMENT 'The host',
    records UInt64 COMMENT 'How many records the chain had',
    head String COMMENT 'The hash of the newest, hexadecimal'
) ENGINE = {engine:MergeTree}
PARTITION BY toYYYYMM(time)
ORDER BY (node, time)
SETTINGS {deduplicate};
