# The steps of a task's life under Keep and under crun, KEEP_RUNS times each: lines "lives WHO MICROSECONDS..."; then execs in a
# container of each that sleeps: lines "execs WHO MICROSECONDS".
. /keep/containerd.sh
ctr images import /keep/true.tar >/dev/null
ctr containers create --runtime io.containerd.keep.v2 keep.test/true:1 keep
ctr containers create --runtime io.containerd.runc.v2 --runc-binary crun keep.test/true:1 crun
keep-task version crun 1.0.2
keep-task lives "$KEEP_RUNS" keep crun | busybox sed "s/^/lives /"
for who in keep crun; do ctr tasks rm -f "$who" >/dev/null 2>&1; ctr containers rm "$who"; done
ctr run -d --runtime io.containerd.keep.v2 keep.test/true:1 keep /bin/true sleep 86400
ctr containers create --runtime io.containerd.runc.v2 --runc-binary crun keep.test/true:1 crun /bin/true sleep 86400
keep-task version crun 1.0.2
ctr tasks start -d crun
keep-task execs "$KEEP_RUNS" keep crun | busybox sed "s/^/execs /"
for who in keep crun; do ctr tasks rm -f "$who" >/dev/null 2>&1; done
