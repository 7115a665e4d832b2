-- What agents did: one wide table. The names of the columns are those of `agentwatch events -o json`; what an
-- event does not have is empty or 0, but for `result`, where 0 says that the call succeeded.
--
-- A batch is of one day, so of one partition: it is in the table as a whole or not at all. `id` is the row's
-- number in the node's own history of that day, so (node, toDate(time), id) names a row.
CREATE TABLE IF NOT EXISTS {db}.events{local}{on_cluster} (
    time DateTime64(9, 'UTC') COMMENT 'When' CODEC(Delta, T64, ZSTD(1)),
    node LowCardinality(String) COMMENT 'The host it happened on',
    namespace LowCardinality(String) COMMENT 'The pod''s namespace in Kubernetes, where it is a pod''s',
    pod LowCardinality(String) COMMENT 'The pod''s name',
    agent LowCardinality(String) COMMENT 'The agent''s name',
    run LowCardinality(String) COMMENT 'The run of the agent',
    kind LowCardinality(String) COMMENT 'What happened: exec, open, connect, ...',
    id UInt64 COMMENT 'The row''s number in the node''s history of that day' CODEC(DoubleDelta, ZSTD(1)),
    pid UInt32 COMMENT 'Process id' CODEC(Delta, ZSTD(1)),
    start_ns UInt64 COMMENT 'Start of the process, CLOCK_BOOTTIME nanoseconds: with the pid it names a process' CODEC(ZSTD(1)),
    ppid UInt32 COMMENT 'The parent''s process id' CODEC(ZSTD(1)),
    uid UInt32 COMMENT 'User id' CODEC(ZSTD(1)),
    comm LowCardinality(String) COMMENT 'The task''s name',
    exe LowCardinality(String) COMMENT 'Path of the process''s binary',
    path String COMMENT 'The file' CODEC(ZSTD(3, 24)),
    path2 String COMMENT 'The second file of a rename or link' CODEC(ZSTD(1)),
    result Nullable(Int32) COMMENT 'What the call returned: a negative errno where it failed' CODEC(ZSTD(1)),
    dev UInt32 COMMENT 'Device of the file, in the kernel''s encoding' CODEC(ZSTD(1)),
    ino UInt64 COMMENT 'Inode number of the file' CODEC(ZSTD(1)),
    protocol LowCardinality(String) COMMENT 'tcp, udp',
    direction LowCardinality(String) COMMENT 'out: the agent opened it',
    local String COMMENT 'Own address and port' CODEC(ZSTD(1)),
    remote String COMMENT 'The peer''s address and port' CODEC(ZSTD(1)),
    remote_ip IPv6 COMMENT 'The peer''s address alone; IPv4 as ::ffff:10.1.2.3; :: where there is none' CODEC(ZSTD(1)),
    remote_port UInt16 COMMENT 'The peer''s port' CODEC(ZSTD(1)),
    bytes_in UInt64 COMMENT 'Payload bytes that the agent got' CODEC(ZSTD(1)),
    bytes_out UInt64 COMMENT 'Payload bytes that it sent' CODEC(ZSTD(1)),
    cookie UInt64 COMMENT 'The kernel''s cookie of the socket' CODEC(ZSTD(1)),
    domain LowCardinality(String) COMMENT 'The peer''s name, a hint: destination.domain of detail',
    count UInt32 COMMENT 'How many such calls the row stands for' CODEC(ZSTD(1)),
    detail LowCardinality(String) COMMENT 'What else there is, a JSON object, or empty',

    -- Read out of detail where they are asked for; nothing is stored.
    argv Array(String) ALIAS JSONExtract(detail, 'argv', 'Array(String)') COMMENT 'The arguments of an exec',
    command String ALIAS arrayStringConcat(JSONExtract(detail, 'argv', 'Array(String)'), ' ') COMMENT 'The same in a line',
    write Bool ALIAS JSONExtractBool(detail, 'write') COMMENT 'An open for writing',

    -- Who talked to an address: remote_ip = toIPv6('10.1.2.3').
    INDEX remote_ip remote_ip TYPE bloom_filter(0.01) GRANULARITY 4,
    -- Who did something below a folder: startsWith(path, '/home/ada/.ssh/'), with the slash at the end.
    INDEX path path TYPE tokenbf_v1(4096, 3, 0) GRANULARITY 2,
    INDEX time time TYPE minmax GRANULARITY 1
) ENGINE = {engine:MergeTree}
PARTITION BY toDate(time)
ORDER BY (agent, time)
TTL toDateTime(time) + INTERVAL {events_days} DAY
SETTINGS ttl_only_drop_parts = 1, {deduplicate};
