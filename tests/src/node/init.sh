# First process of a node's own mount, network, process and host name namespaces. Nothing of it is visible to the
# machine, or reaches it; when it ends, everything in the node ends.
#   init.sh FOLDER tied|stay pure|hybrid
# tied: ends when its standard input does.   pure: without the cgroup v2 tree that stands beside v1 (crun refuses it)
set -e
N=$1
mkdir -p "$N"/state/{varlib,varlog,etc,proc2,cg,sec}
mount -t proc proc /proc
mount -t proc proc "$N/state/proc2"    # a pristine /proc, so that user-namespace pods may mount theirs
# a sysfs of this network namespace, with the machine's cgroup mounts bound back in
mount --rbind /sys/fs/cgroup "$N/state/cg"
[ ! -d /sys/kernel/security ] || mount --rbind /sys/kernel/security "$N/state/sec"
umount -l /sys                         # or its mounts stay in the table, covered
mount -t sysfs sysfs /sys
mount --rbind "$N/state/cg" /sys/fs/cgroup
[ ! -d /sys/kernel/security ] || mount --rbind "$N/state/sec" /sys/kernel/security
umount -R "$N/state/cg" "$N/state/sec" 2>/dev/null || true
# of the v2 tree only a part of the node's own, which the node's end removes
if [ "$3" = hybrid ] && mountpoint -q /sys/fs/cgroup/unified; then
    mkdir -p "/sys/fs/cgroup/unified/$(basename "$N")"
    mount --bind "/sys/fs/cgroup/unified/$(basename "$N")" /sys/fs/cgroup/unified
fi
[ "$3" = hybrid ] || ! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
mount --make-rshared /                 # shared in here only; after the umounts, or they would propagate
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
mount --bind "$N/state/varlib" /var/lib
mount --bind "$N/state/varlog" /var/log
mount -t tmpfs -o mode=755 tmpfs "$N/state/etc"
mkdir -p "$N"/state/etc/{upper,work}
mount -t overlay -o "lowerdir=/etc,upperdir=$N/state/etc/upper,workdir=$N/state/etc/work" overlay /etc
# kubelet insists on these values: shown to it without changing the machine's
for kv in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
    f=$N/state/sysctl.$(basename "${kv%=*}")
    echo "${kv#*=}" > "$f"
    mount --bind "$f" "/proc/sys/${kv%=*}"
done
hostname node
ip link set lo up
ip link add node0 type bridge
ip addr add 192.168.77.2/24 dev node0
ip link set node0 up
# only so that look-ups of a default interface answer: it leads nowhere
ip route add default via 192.168.77.1 dev node0 onlink 2>/dev/null || true
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready > "$N/state/ready"
set +e
trap 'exit 0' TERM                     # the first process of a namespace hears only what it traps
if [ "$2" = tied ]; then
    read -r _                          # bash reaps orphans meanwhile
else
    while :; do sleep 86400 & wait $!; done
fi
