-- What agents did: one wide table. The names of the columns are those of `agentwatch events -o json`; what an
-- event does not have is empty or 0, but for `result`, where 0 says that the call succeeded.
--
-- A batch is of one day, so of one partition: it is in the table as a whole or not at all. `id` is the row's
-- number in the node's own history of that day, so (node, toDate(time), id) names a row.
CREATE TABLE IF NOT EXISTS {db}.events{local}{on_cluster} (
    time DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'When',
    node LowCardinality(String) COMMENT 'The host it happened on',
    namespace LowCardinality(String) COMMENT 'The pod''s namespace in Kubernetes, where it is a pod''s',
    pod LowCardinality(String) COMMENT 'The pod''s name',
    agent LowCardinality(String) COMMENT 'The agent''s name',
    run LowCardinality(String) COMMENT 'The run of the agent',
    kind LowCardinality(String) COMMENT 'What happened: exec, open, connect, ...',
    id UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'The row''s number in the node''s history of that day',
    pid UInt32 CODEC(ZSTD(1)) COMMENT 'Process id',
    start_ns UInt64 CODEC(ZSTD(1)) COMMENT 'Start of the process, CLOCK_BOOTTIME nanoseconds: with the pid it names a process',
    ppid UInt32 CODEC(ZSTD(1)) COMMENT 'The parent''s process id',
    uid UInt32 CODEC(ZSTD(1)) COMMENT 'User id',
    comm LowCardinality(String) COMMENT 'The task''s name',
    exe LowCardinality(String) COMMENT 'Path of the process''s binary',
    path String CODEC(ZSTD(1)) COMMENT 'The file',
    path2 String CODEC(ZSTD(1)) COMMENT 'The second file of a rename or link',
    result Nullable(Int32) CODEC(ZSTD(1)) COMMENT 'What the call returned: a negative errno where it failed',
    dev UInt32 CODEC(ZSTD(1)) COMMENT 'Device of the file, in the kernel''s encoding',
    ino UInt64 CODEC(ZSTD(1)) COMMENT 'Inode number of the file',
    protocol LowCardinality(String) COMMENT 'tcp, udp',
    direction LowCardinality(String) COMMENT 'out: the agent opened it',
    local String CODEC(ZSTD(1)) COMMENT 'Own address and port',
    remote String CODEC(ZSTD(1)) COMMENT 'The peer''s address and port',
    remote_ip IPv6 CODEC(ZSTD(1)) COMMENT 'The peer''s address alone; IPv4 as ::ffff:10.1.2.3; :: where there is none',
    remote_port UInt16 CODEC(ZSTD(1)) COMMENT 'The peer''s port',
    bytes_in UInt64 CODEC(ZSTD(1)) COMMENT 'Payload bytes that the agent got',
    bytes_out UInt64 CODEC(ZSTD(1)) COMMENT 'Payload bytes that it sent',
    cookie UInt64 CODEC(ZSTD(1)) COMMENT 'The kernel''s cookie of the socket',
    domain LowCardinality(String) COMMENT 'The peer''s name, a hint: destination.domain of detail',
    count UInt32 CODEC(ZSTD(1)) COMMENT 'How many such calls the row stands for',
    detail String CODEC(ZSTD(1)) COMMENT 'What else there is, a JSON object, or empty',

    -- Read out of detail where they are asked for; nothing is stored.
    argv Array(String) ALIAS JSONExtract(detail, 'argv', 'Array(String)') COMMENT 'The arguments of an exec',
    command String ALIAS arrayStringConcat(JSONExtract(detail, 'argv', 'Array(String)'), ' ') COMMENT 'The same in a line',
    write Bool ALIAS JSONExtractBool(detail, 'write') COMMENT 'An open for writing',

    INDEX remote_ip remote_ip TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX time time TYPE minmax GRANULARITY 1
) ENGINE = {engine:MergeTree}
PARTITION BY toDate(time)
ORDER BY (agent, kind, time)
TTL toDateTime(time) + INTERVAL {events_days} DAY
SETTINGS ttl_only_drop_parts = 1, {deduplicate};
