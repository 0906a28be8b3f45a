# Starts containerd, for what is run in containers.
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
for _ in $(busybox seq 60); do
    ctr version >/dev/null 2>&1 && break
    busybox sleep 1
done
