-- All that an agent did around a time, in order.
--
--   clickhouse client --param_agent=coder-41 --param_time='2026-11-10 12:00:00' --param_seconds=60 \
--       --queries-file agent-around.sql
SELECT time, node, kind, pid, comm, path, path2, result, remote, domain, count, detail
FROM agentwatch.events
WHERE agent = {agent:String}
    AND time BETWEEN toDateTime64({time:String}, 9, 'UTC') - toIntervalSecond({seconds:UInt32})
        AND toDateTime64({time:String}, 9, 'UTC') + toIntervalSecond({seconds:UInt32})
ORDER BY time, id
LIMIT 10000;
