-- Where a process comes from: its parents up to the agent's first one, each with what it ran. Whom they talked to on
-- other nodes says peers.sql.
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
    )
SELECT level, pid, ppid, program, arrayStringConcat(JSONExtract(detail, 'argv', 'Array(String)'), ' ') AS command, since
FROM line
ORDER BY level;
