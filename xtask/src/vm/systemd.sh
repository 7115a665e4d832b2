#!/bin/busybox sh
# agentwatch as a service: what its unit promises, tried one after the other. Run by systemd as the only
# thing that this machine is for; read by vm/qemu.rs, like init.sh.
/bin/busybox mkdir -p /usr/bin
/bin/busybox --install -s /bin
/bin/busybox --install -s /usr/bin
export PATH=/bin:/usr/bin:/usr/local/bin HOME=/root TERM=dumb
exec 2>&1 < /dev/null

log=/tmp/agentwatch.log
policy=/etc/agentwatch/policy.yaml
agents=/sys/fs/cgroup/agents
passed=0
failed=0

say() {
    echo "agentwatch-vm: $*"
}

# check FUNCTION: its status is the result, and what it prints is shown if that is bad.
check() {
    if printed=$("$1" 2>&1); then
        passed=$((passed + 1))
        echo "test systemd::$1 ... ok"
    else
        failed=$((failed + 1))
        echo "test systemd::$1 ... FAILED"
        echo "$printed"
        tail -n 5 $log
    fi
}

# within SECONDS COMMAND...: until it succeeds.
within() {
    seconds=$1
    shift
    until "$@" > /dev/null 2>&1; do
        if [ "$seconds" -eq 0 ]; then
            "$@"
            return
        fi
        seconds=$((seconds - 1))
        sleep 1
    done
}

property() {
    systemctl show agentwatch -p "$1" --value
}

# is PROPERTY VALUE
is() {
    found=$(property "$1")
    [ "$found" = "$2" ] || { echo "$1 is $found, not $2"; return 1; }
}

# is_up RESTARTS
is_up() {
    is NRestarts "$1" && is ActiveState active && is SubState running
}

# state AGENT STATE
state() {
    agentwatch agents -o json | grep "\"name\":\"$1\"" | grep "\"state\":\"$2\"" || { agentwatch agents; return 1; }
}

# in_agent AGENT COMMAND...
in_agent() {
    agent=$1
    shift
    sh -c 'echo $$ > "$0/cgroup.procs" && exec "$@"' "$agents/$agent" "$@"
}

say "kernel $(uname -r)"
say "start systemd"
[ "$(cat /proc/1/comm)" = systemd ] || echo "pid 1 is $(cat /proc/1/comm)"

it_starts_and_is_ready() {
    systemctl start agentwatch && is_up 0 && property StatusText | grep 'watching 0 agents' &&
        agentwatch health
}
check it_starts_and_is_ready

mkdir -p $agents/a $agents/b
sh -c "echo \$\$ > $agents/a/cgroup.procs; while :; do sleep 0.2; done" &

agents_are_found() {
    within 20 state a watched && within 20 state b watched
}
check agents_are_found

it_freezes_and_cuts_off() {
    agentwatch freeze a --reason trial && grep 'frozen 1' $agents/a/cgroup.events && agentwatch quarantine a
}
check it_freezes_and_cuts_off

a_reload_changes_what_is_denied() {
    mkdir -p /tmp/m
    in_agent b mount -t tmpfs trial /tmp/m || { echo "denied before"; return 1; }
    printf 'apiVersion: agentwatch/v1\nkind: Policy\ndeny: [mount]\n' > $policy
    systemctl reload agentwatch || return
    within 20 grep 'has another policy now' $log || return
    ! in_agent b mount -t tmpfs trial /tmp/m
}
check a_reload_changes_what_is_denied

a_killed_daemon_is_started_again_and_knows_what_was() {
    kill -9 "$(property MainPID)"
    within 90 is_up 1 && within 20 state a frozen || return
    ! in_agent b mount -t tmpfs trial /tmp/m || { echo "no longer denied"; return 1; }
    agentwatch thaw a && state a quarantined && agentwatch release a && state a watched
}
check a_killed_daemon_is_started_again_and_knows_what_was

run_asks_the_daemon() {
    agentwatch run --name once -- /bin/sh -c 'exit 7'
    [ $? = 7 ] && agentwatch agents && agentwatch findings
}
check run_asks_the_daemon

one_that_hangs_is_ended_by_the_watchdog() {
    kill -STOP "$(property MainPID)"
    within 120 is_up 2 && within 20 state a watched
}
check one_that_hangs_is_ended_by_the_watchdog

it_kills() {
    agentwatch kill a && grep 'populated 0' $agents/a/cgroup.events
}
check it_kills

it_stops_cleanly() {
    systemctl stop agentwatch && is ActiveState inactive && is Result success || return
    [ ! -e /run/agentwatch ] || { echo "/run/agentwatch is left"; return 1; }
    [ "$(stat -c %a /var/lib/agentwatch)" = 700 ] && [ -s /var/lib/agentwatch/daemon-state.json ]
}
check it_stops_cleanly

# What the unit forbids is nothing that the daemon wants: it says so at this level if it is.
nothing_was_refused_to_it() {
    ! grep '"level":"ERROR"' $log && grep '"level":"INFO"' $log
}
check nothing_was_refused_to_it

if [ $failed = 0 ]; then word=ok; else word=FAILED; fi
echo "test result: $word. $passed passed; $failed failed; 0 ignored"
if [ $failed != 0 ]; then
    sed 's/^/agentwatch-vm: said /' $log
fi
[ $failed = 0 ]
say "exit systemd $?"
say "end"
