-- What GPUs did: a row for each GPU and sample, and one for each process on it. What a GPU cannot tell is NULL.
CREATE TABLE IF NOT EXISTS {db}.gpu_samples{local}{on_cluster} (
    time DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'When',
    node LowCardinality(String) COMMENT 'The host',
    namespace LowCardinality(String) COMMENT 'Of a process: its pod''s namespace in Kubernetes',
    pod LowCardinality(String) COMMENT 'Of a process: its pod''s name',
    agent LowCardinality(String) COMMENT 'Of a process: the agent whose it is; empty for the GPU as a whole',
    run LowCardinality(String) COMMENT 'Of a process: the agent''s run',
    gpu LowCardinality(String) COMMENT 'The GPU''s or the MIG instance''s UUID',
    gpu_index UInt16 COMMENT 'Its number on the host',
    model LowCardinality(String) COMMENT 'What it is: NVIDIA H200, ...',
    pid UInt32 COMMENT 'Of a process: its id; 0 for the GPU as a whole',
    comm LowCardinality(String) COMMENT 'Of a process: its name',
    sm_percent Nullable(Float32) CODEC(ZSTD(1)) COMMENT 'Part of the time in which a kernel ran',
    tensor_percent Nullable(Float32) CODEC(ZSTD(1)) COMMENT 'Part of the time in which tensor cores worked',
    integer_percent Nullable(Float32) CODEC(ZSTD(1)) COMMENT 'Part of the time in which integer pipes worked',
    float_percent Nullable(Float32) CODEC(ZSTD(1)) COMMENT 'Part of the time in which floating-point pipes worked',
    dram_percent Nullable(Float32) CODEC(ZSTD(1)) COMMENT 'Part of the time in which memory was read or written',
    memory_used_bytes Nullable(UInt64) CODEC(ZSTD(1)) COMMENT 'Memory in use',
    memory_total_bytes Nullable(UInt64) CODEC(ZSTD(1)) COMMENT 'Memory that there is',
    power_watts Nullable(Float32) CODEC(ZSTD(1)) COMMENT 'Power drawn',
    power_limit_watts Nullable(Float32) CODEC(ZSTD(1)) COMMENT 'Power it may draw',
    temperature_celsius Nullable(Float32) CODEC(ZSTD(1)) COMMENT 'Temperature',
    pcie_rx_bytes_per_second Nullable(UInt64) CODEC(ZSTD(1)) COMMENT 'To the GPU over PCIe',
    pcie_tx_bytes_per_second Nullable(UInt64) CODEC(ZSTD(1)) COMMENT 'From the GPU over PCIe',
    nvlink_rx_bytes_per_second Nullable(UInt64) CODEC(ZSTD(1)) COMMENT 'To the GPU over NVLink',
    nvlink_tx_bytes_per_second Nullable(UInt64) CODEC(ZSTD(1)) COMMENT 'From the GPU over NVLink',
    mining_score Nullable(Float32) CODEC(ZSTD(1)) COMMENT 'How much it looks like mining'
) ENGINE = {engine:MergeTree}
PARTITION BY toDate(time)
ORDER BY (node, gpu, pid, time)
TTL toDateTime(time) + INTERVAL {events_days} DAY
SETTINGS ttl_only_drop_parts = 1, {deduplicate};
