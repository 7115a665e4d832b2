#!/bin/busybox sh
# The first process of the virtual machine: mounts what agentwatch expects of a host, runs the
# smoke test, says how it ended, and switches the machine off. Read by vm/qemu.rs.
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

echo "agentwatch-vm: kernel $(uname -r), lsm=$(cat /sys/kernel/security/lsm)"
echo "agentwatch-vm: start"
AGENTWATCH_BIN=/bin/agentwatch RUST_BACKTRACE=1 /bin/smoke < /dev/null 2>&1
echo "agentwatch-vm: exit $?"
poweroff -f
