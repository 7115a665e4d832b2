-- Where a process comes from: its parents up to the agent's first one, each with what it ran; and the processes
-- on other nodes that it or one of them was connected with.
--
--   clickhouse client --param_agent=coder-41 --param_node=node-1 --param_pid=4711 \
--       --param_time='2026-11-10 12:00:00' --queries-file lineage.sql
WITH RECURSIVE
    -- Forks and execs of the agent on that node, that day and the one before.
    born AS (
        SELECT pid, ppid, kind, time, path, detail
        FROM agentwatch.events
        WHERE agent = {agent:String} AND node = {node:String} AND kind IN ('fork', 'exec')
            AND time BETWEEN toDateTime64({time:String}, 9, 'UTC') - toIntervalDay(1)
                AND toDateTime64({time:String}, 9, 'UTC')
    ),
    parents AS (
        SELECT pid, argMax(ppid, time) AS ppid, argMaxIf(path, time, kind = 'exec') AS program,
            argMaxIf(detail, time, kind = 'exec') AS detail, min(time) AS since
        FROM born GROUP BY pid
    ),
    line AS (
        SELECT 0 AS level, pid, ppid, program, detail, since FROM parents WHERE pid = {pid:UInt32}
        UNION ALL
        SELECT line.level + 1 AS level, p.pid, p.ppid, p.program, p.detail, p.since
        FROM parents AS p INNER JOIN line ON p.pid = line.ppid
        WHERE line.level < 64
    ),
    -- Their connections; the other end of one has the same two addresses the other way round.
    ends AS (
        SELECT DISTINCT local, remote FROM agentwatch.events
        WHERE agent = {agent:String} AND node = {node:String} AND kind IN ('flow_open', 'flow_close')
            AND time BETWEEN toDateTime64({time:String}, 9, 'UTC') - toIntervalDay(1)
                AND toDateTime64({time:String}, 9, 'UTC') AND pid IN (SELECT pid FROM line)
    )
SELECT 'process' AS what, {node:String} AS node, {agent:String} AS agent, level, pid, ppid, program,
    arrayStringConcat(JSONExtract(detail, 'argv', 'Array(String)'), ' ') AS command, since
FROM line
UNION ALL
SELECT 'peer', node, agent, 0, pid, ppid, any(exe), any(concat(local, ' from ', remote)), min(time)
FROM agentwatch.events
WHERE kind IN ('flow_open', 'flow_close') AND time BETWEEN toDateTime64({time:String}, 9, 'UTC') - toIntervalDay(1)
                AND toDateTime64({time:String}, 9, 'UTC')
    AND remote_ip IN (SELECT toIPv6OrDefault(extract(local, '^\\[?(.*?)\\]?:[0-9]+$')) FROM ends)
    AND (remote, local) IN (SELECT local, remote FROM ends)
    AND node != {node:String}
GROUP BY node, agent, pid, ppid
ORDER BY what DESC, level, since;
