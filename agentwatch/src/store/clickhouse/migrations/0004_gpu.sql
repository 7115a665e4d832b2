-- What GPUs did: a row for each GPU and sample, and one for each process on it. What a GPU cannot tell is NULL.
CREATE TABLE IF NOT EXISTS {db}.gpu_samples{local}{on_cluster} (
    time DateTime64(3, 'UTC') COMMENT 'When' CODEC(Delta, ZSTD(1)),
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
    sm_percent Nullable(Float32) COMMENT 'Part of the time in which a kernel ran' CODEC(ZSTD(1)),
    tensor_percent Nullable(Float32) COMMENT 'Part of the time in which tensor cores worked' CODEC(ZSTD(1)),
    integer_percent Nullable(Float32) COMMENT 'Part of the time in which integer pipes worked' CODEC(ZSTD(1)),
    float_percent Nullable(Float32) COMMENT 'Part of the time in which floating-point pipes worked' CODEC(ZSTD(1)),
    dram_percent Nullable(Float32) COMMENT 'Part of the time in which memory was read or written' CODEC(ZSTD(1)),
    memory_used_bytes Nullable(UInt64) COMMENT 'Memory in use' CODEC(ZSTD(1)),
    memory_total_bytes Nullable(UInt64) COMMENT 'Memory that there is' CODEC(ZSTD(1)),
    power_watts Nullable(Float32) COMMENT 'Power drawn' CODEC(ZSTD(1)),
    power_limit_watts Nullable(Float32) COMMENT 'Power it may draw' CODEC(ZSTD(1)),
    temperature_celsius Nullable(Float32) COMMENT 'Temperature' CODEC(ZSTD(1)),
    pcie_rx_bytes_per_second Nullable(UInt64) COMMENT 'To the GPU over PCIe' CODEC(ZSTD(1)),
    pcie_tx_bytes_per_second Nullable(UInt64) COMMENT 'From the GPU over PCIe' CODEC(ZSTD(1)),
    nvlink_rx_bytes_per_second Nullable(UInt64) COMMENT 'To the GPU over NVLink' CODEC(ZSTD(1)),
    nvlink_tx_bytes_per_second Nullable(UInt64) COMMENT 'From the GPU over NVLink' CODEC(ZSTD(1)),
    mining_score Nullable(Float32) COMMENT 'How much it looks like mining' CODEC(ZSTD(1))
) ENGINE = {engine:MergeTree}
PARTITION BY toDate(time)
ORDER BY (node, gpu, pid, time)
TTL toDateTime(time) + INTERVAL {events_days} DAY
SETTINGS ttl_only_drop_parts = 1, {deduplicate};
