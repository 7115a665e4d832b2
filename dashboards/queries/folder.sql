-- Which agents did what to files below a folder. The folder ends with a slash: whole names are what the index
-- knows.
--
--   clickhouse client --param_folder=/home/ada/.ssh/ --param_days=14 --queries-file folder.sql
SELECT agent, node, kind, count() AS rows, sum(e.count) AS calls, min(time) AS first, max(time) AS last,
    groupUniqArray(5)(path) AS some_paths
FROM agentwatch.events AS e
WHERE startsWith(path, {folder:String}) AND time >= now() - toIntervalDay({days:UInt32})
GROUP BY agent, node, kind
ORDER BY rows DESC, agent
LIMIT 1000;
