-- Who was at the other end of what an agent's processes on a node were connected to, on that node or another one: a
-- connection has the same two addresses at both ends.
--
--   clickhouse client --param_agent=coder-41 --param_node=node-1 --param_time='2026-11-10 12:00:00' \
--       --param_seconds=3600 --queries-file peers.sql
WITH ends AS (
    SELECT DISTINCT pid, local, remote
    FROM agentwatch.events
    WHERE agent = {agent:String} AND node = {node:String} AND kind IN ('flow_open', 'flow_close') AND local != '' AND remote != ''
        AND time BETWEEN toDateTime64({time:String}, 9, 'UTC') - toIntervalSecond({seconds:UInt32})
            AND toDateTime64({time:String}, 9, 'UTC')
)
SELECT node, agent, pid, any(exe) AS program, direction, count() AS flows, min(time) AS first, max(time) AS last
FROM agentwatch.events
WHERE kind IN ('flow_open', 'flow_close')
    AND time BETWEEN toDateTime64({time:String}, 9, 'UTC') - toIntervalSecond({seconds:UInt32})
        AND toDateTime64({time:String}, 9, 'UTC')
    AND remote_ip IN (SELECT toIPv6OrDefault(extract(local, '^\\[?([^\\]]*?)\\]?:[0-9]+$')) FROM ends)
    AND (remote, local) IN (SELECT local, remote FROM ends)
GROUP BY node, agent, pid, direction
ORDER BY flows DESC, node, agent, pid
LIMIT 1000;
