#!/bin/busybox sh
# The first process of the virtual machine: mounts what agentwatch expects of a host, runs what the
# kernel's command line asks for, says how it ended, and switches the machine off. Read by vm/qemu.rs.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=dumb

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
hostname agentwatch-vm
cd /root || exit

export AGENTWATCH_BIN=/bin/agentwatch RUST_BACKTRACE=1

# By what was asked for, not by what the kernel says: the tests find out whether that holds.
if grep -q 'lsm=[^ ]*bpf' /proc/cmdline; then
    export AGENTWATCH_LSM=1
fi

say() {
    echo "agentwatch-vm: $*"
}

# A test program, whose output is its result.
run() {
    say "start $1"
    "$@" < /dev/null 2>&1
    say "exit $1 $?"
}

say "kernel $(uname -r)"
say "lsm $(cat /sys/kernel/security/lsm)"

# To a file first: the status is that of the program and not of a pipe's end.
agentwatch verifier > /tmp/verdicts 2> /tmp/said
status=$?
sed 's/^/agentwatch-vm: verdict /' /tmp/verdicts
if [ $status -ne 0 ]; then
    sed 's/^/agentwatch-vm: said /' /tmp/said
fi
say "exit verifier $status"

if grep -q 'agentwatch.suite=tests' /proc/cmdline; then
    # One test for each processor: most of the time is one program's start, and the verifier's.
    run smoke --test-threads=2
fi
say "end"
poweroff -f
