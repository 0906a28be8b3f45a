# The attack suite in containers: every probe, as the container's own process and as an exec, as root and as another user.
# Each line that a probe prints becomes "attack SETTING: PROBE: WHAT CAME OF IT". Before that, what the task API says of memory on
# cgroup v2, in lines "task WHAT: ANSWER".
export PATH=/keep:/usr/bin CONTAINERD_NAMESPACE=keep CONTAINERD_ADDRESS=/run/containerd.sock
busybox insmod "/keep/overlay-$(busybox uname -r).ko"
echo "127.0.0.1 localhost" >/etc/hosts
echo "nameserver 127.0.0.1" >/etc/resolv.conf
busybox mkdir -p /run/ctd/root /run/ctd/state
cat >/run/ctd/containerd.toml <<X
version = 4
root = '/run/ctd/root'
state = '/run/ctd/state'
disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.runtime', 'io.containerd.cri.v1.images']
[plugins.'io.containerd.server.v1.grpc']
  address = '/run/containerd.sock'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '/run/containerd.sock.ttrpc'
X
containerd -c /run/ctd/containerd.toml >/dev/null 2>&1 &
keep-attack listen >/dev/null 2>&1 &
for _ in $(busybox seq 60); do
    ctr version >/dev/null 2>&1 && break
    busybox sleep 1
done
keep() {
    ctr run --net-host --runtime io.containerd.keep.v2 "$@"
}
ctr images import /keep/busybox.tar >/dev/null
keep -d --memory-limit 67108864 keep.test/busybox:1 metered sleep 600
echo "task metrics: $(ctr task metrics --format json metered | busybox tr -d '\n')"
ctr task kill -s KILL metered
ctr events >/run/events 2>/dev/null &
busybox sleep 2
keep --rm --memory-limit 67108864 keep.test/busybox:1 greedy dd if=/dev/zero of=/dev/null bs=268435456 count=1
echo "task exit: $?"
busybox sleep 2
echo "task events:" $(busybox grep greedy /run/events | busybox grep -o "/tasks/[a-z-]*")
for user in root user; do
    image=keep.test/attack:$user
    ctr images import /keep/$user.tar >/dev/null
    keep --rm $image init-$user /bin/keep-attack run | busybox sed "s/^/attack keep, init, $user: /"
    keep -d $image exec-$user /bin/keep-attack sleep
    ctr task exec --exec-id probes exec-$user /bin/keep-attack run | busybox sed "s/^/attack keep, exec, $user: /"
    ctr task kill -s KILL exec-$user
done
