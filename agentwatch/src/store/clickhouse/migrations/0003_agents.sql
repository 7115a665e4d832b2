-- The inventory: a row for each run of an agent. A run is told of when it begins and again when it ends, and what
-- the two say becomes one row: read it with FINAL.
CREATE TABLE IF NOT EXISTS {db}.agents{local}{on_cluster} (
    node LowCardinality(String) COMMENT 'The host',
    run String COMMENT 'The run''s id',
    agent SimpleAggregateFunction(max, String) COMMENT 'The agent''s name',
    namespace SimpleAggregateFunction(max, String) COMMENT 'The pod''s namespace in Kubernetes, where it is a pod''s',
    pod SimpleAggregateFunction(max, String) COMMENT 'The pod''s name',
    command SimpleAggregateFunction(max, Array(String)) COMMENT 'The command',
    started SimpleAggregateFunction(max, Nullable(DateTime64(9, 'UTC'))) COMMENT 'When it began',
    ended SimpleAggregateFunction(max, Nullable(DateTime64(9, 'UTC'))) COMMENT 'When it ended, if it has',
    exit_status SimpleAggregateFunction(max, Nullable(Int32)) COMMENT 'Its exit status',
    killed_by SimpleAggregateFunction(max, String) COMMENT 'The id of the finding for which it was killed',
    events SimpleAggregateFunction(max, UInt64) COMMENT 'Events in the node''s history',
    dropped SimpleAggregateFunction(max, UInt64) COMMENT 'Events and findings that are not',
    lost SimpleAggregateFunction(max, UInt64) COMMENT 'Records lost between the kernel and agentwatch',
    tally SimpleAggregateFunction(max, String) COMMENT 'What was sent and lost: a JSON object',
    seen SimpleAggregateFunction(max, DateTime64(9, 'UTC')) COMMENT 'The later of begin and end'
) ENGINE = {engine:AggregatingMergeTree}
ORDER BY (node, run)
TTL toDateTime(seen) + INTERVAL {findings_days} DAY
SETTINGS {deduplicate};
