# The attack suite in containers: every probe, as the container's own process and as an exec, as root and as another user.
# Each line that a probe prints becomes "attack SETTING: PROBE: WHAT CAME OF IT". Before that, what the task API says of memory on
# cgroup v2, what comes of new limits, what execs and a deletion say after the clock jumped by a day, and where SLICE says that
# systemd makes the cgroups, what became of them, in lines "task WHAT: ANSWER".
. /keep/containerd.sh
keep-attack listen >/dev/null 2>&1 &
# keep ID FLAG...: runs a container; its id is among the flags again.
keep() {
    id=$1
    shift
    ctr run --net-host --runtime io.containerd.keep.v2 ${SLICE:+--cgroup "$SLICE:keep:$id"} "$@"
}
ctr images import /keep/busybox.tar >/dev/null
keep metered -d --memory-limit 67108864 keep.test/busybox:1 metered sleep 600
echo "task metrics: $(ctr task metrics --format json metered | busybox tr -d '\n')"
pid=$(ctr task ps metered | busybox awk 'NR == 2 { print $1 }')
limits='{"memory":{"limit":134217728},"pids":{"limit":32},"cpu":{"quota":50000,"period":100000,"shares":512}}'
keep-task update metered "$limits"
said=$?
# Now systemd sets the limits that it knows of.
[ -z "$SLICE" ] || systemctl daemon-reload
cd "/sys/fs/cgroup$(busybox sed s/0::// "/proc/$pid/cgroup")"
echo "task update: $said $(busybox cat memory.max pids.max cpu.max cpu.weight | busybox tr '\n' ' ')"
cd /
if [ -n "$SLICE" ]; then
    ctr task exec -d --exec-id other metered sleep 601
    processes=$(ctr task ps metered | busybox awk 'NR > 1 { print $1 }')
    echo "task cgroups: $(for pid in $processes; do busybox cat "/proc/$pid/cgroup"; done | busybox tr '\n' ' ')"
    echo "task unit: $(systemctl show --property MemoryMax,ActiveState keep-metered.scope | busybox tr '\n' ' ')"
fi
ctr task kill -s KILL metered
if [ -n "$SLICE" ]; then
    busybox sleep 2
    ctr task delete metered >/dev/null
    busybox sleep 2
    echo "task afterwards: $(systemctl show --property ActiveState keep-metered.scope) $(busybox ls -d "/sys/fs/cgroup/$SLICE/"*metered* 2>/dev/null)"
fi
keep clock -d keep.test/busybox:1 clock sleep 600
now=$(busybox date +%s)
said=
for jump in 90000 -90000; do
    busybox date -s "@$((now + jump))" >/dev/null
    ctr task exec --exec-id "jump$jump" clock true
    said="$said$? "
done
busybox date -s "@$now" >/dev/null
ctr task kill -s KILL clock
busybox sleep 2
ctr task delete clock >/dev/null 2>&1
echo "task clock: $said$? $(ctr task ls | busybox grep -c clock)"
ctr events >/run/events 2>/dev/null &
busybox sleep 2
keep greedy --rm --memory-limit 67108864 keep.test/busybox:1 greedy dd if=/dev/zero of=/dev/null bs=268435456 count=1
echo "task exit: $?"
busybox sleep 2
echo "task events:" $(busybox grep greedy /run/events | busybox grep -o "/tasks/[a-z-]*")
for user in root user; do
    image=keep.test/attack:$user
    ctr images import /keep/$user.tar >/dev/null
    keep init-$user --rm $image init-$user /bin/keep-attack run | busybox sed "s/^/attack keep, init, $user: /"
    keep exec-$user -d $image exec-$user /bin/keep-attack sleep
    ctr task exec --exec-id probes exec-$user /bin/keep-attack run | busybox sed "s/^/attack keep, exec, $user: /"
    ctr task kill -s KILL exec-$user
done
