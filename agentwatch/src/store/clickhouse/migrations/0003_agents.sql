-- The inventory: a row for each run of an agent. A run is told of when it begins and again when it ends; the
-- later row replaces the earlier one, so read it with FINAL.
CREATE TABLE IF NOT EXISTS {db}.agents{local}{on_cluster} (
    node LowCardinality(String) COMMENT 'The host',
    run String COMMENT 'The run''s id',
    agent LowCardinality(String) COMMENT 'The agent''s name',
    namespace LowCardinality(String) COMMENT 'The pod''s namespace in Kubernetes, where it is a pod''s',
    pod LowCardinality(String) COMMENT 'The pod''s name',
    command Array(String) COMMENT 'The command',
    started DateTime64(9, 'UTC') COMMENT 'When it began',
    ended Nullable(DateTime64(9, 'UTC')) COMMENT 'When it ended, if it has',
    exit_status Nullable(Int32) COMMENT 'Its exit status',
    killed_by String COMMENT 'The id of the finding for which it was killed',
    events UInt64 COMMENT 'Events in the node''s history',
    dropped UInt64 COMMENT 'Events and findings that are not',
    lost UInt64 COMMENT 'Records lost between the kernel and the daemon',
    tally String CODEC(ZSTD(1)) COMMENT 'What was sent and lost: a JSON object',
    updated DateTime64(9, 'UTC') COMMENT 'Which row is the newest'
) ENGINE = {engine:ReplacingMergeTree(updated)}
ORDER BY (node, run)
TTL toDateTime(started) + INTERVAL {findings_days} DAY
SETTINGS {deduplicate};
