# The steps of a task's life under Keep and under crun, KEEP_RUNS times each: lines "lives WHO MICROSECONDS...".
. /keep/containerd.sh
ctr images import /keep/true.tar >/dev/null
ctr containers create --runtime io.containerd.keep.v2 keep.test/true:1 keep
ctr containers create --runtime io.containerd.runc.v2 --runc-binary crun keep.test/true:1 crun
keep-task version crun 1.0.2
keep-task lives "$KEEP_RUNS" keep crun | busybox sed "s/^/lives /"
