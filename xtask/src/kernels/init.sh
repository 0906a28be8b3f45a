#!/usr/bin/busybox sh
# Brings up as much of a system as the sandbox's tests need, runs them, and ends the machine. Set on the kernel's command line:
# KEEP_CGROUP=v2 or none, KEEP_PROGRAMS=which programs of tests, KEEP_TESTS=what tests' names contain, KEEP_CONTAINERS=yes
# for the attack suite, systemd for the same in cgroups that systemd makes, or bench for KEEP_RUNS lives of a container. Results
# go to the second serial line, all else to the first.
export PATH=/usr/bin HOME=/root
# Properties of pure functions are tried often enough elsewhere.
export PROPTEST_CASES=32
if [ "$1" != moved ]; then
    # Containers pivot away from their root, which the kernel's first root does not allow: they get one that is mounted on it.
    busybox mkdir /next
    busybox mount --bind / /next
    cd /next
    busybox mount --move . /
    exec busybox chroot . /init moved
fi
for folder in dev proc sys run tmp; do
    busybox mkdir -p /$folder
done
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /dev/shm
busybox mount -t devpts devpts /dev/pts
busybox mount -t tmpfs tmpfs /dev/shm
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t tmpfs tmpfs /run
busybox mount -t tmpfs -o mode=1777 tmpfs /tmp
busybox ln -s /proc/self/fd /dev/fd
busybox ln -s /proc/self/fd/2 /dev/stderr
if [ "$KEEP_CGROUP" = v2 ]; then
    busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
busybox ip link set lo up
exec >/dev/ttyS1
busybox stty -F /dev/ttyS1 raw
for test in /tests/$KEEP_PROGRAMS*; do
    [ -e "$test" ] || continue
    echo "begin $test"
    # Without a name, every test of a program runs.
    "$test" $KEEP_TESTS </dev/null
    echo "end $test $?"
done
case $KEEP_CONTAINERS in
yes) busybox sh /keep/containers.sh ;;
bench) busybox sh /keep/bench.sh ;;
systemd) exec busybox sh /keep/systemd.sh ;;
esac
echo "end"
busybox poweroff -f
