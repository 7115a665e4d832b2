-- Who talked to an address, when, and how much: connections and flows of all agents on all nodes.
--
--   clickhouse client --param_address=10.1.2.3 --param_days=14 --queries-file address.sql
SELECT agent, node, direction, remote_port, any(domain) AS name, min(time) AS first, max(time) AS last,
    countIf(kind = 'flow_close') AS flows, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out
FROM agentwatch.events
WHERE remote_ip = toIPv6({address:String}) AND time >= now() - toIntervalDay({days:UInt32})
GROUP BY agent, node, direction, remote_port
ORDER BY bytes_out DESC, agent
LIMIT 1000;
