# A throw-away authority and certificates for one node that listens on loopback only, valid for 3 days.
#   pki.sh FOLDER      writes FOLDER/pki/* and FOLDER/{admin,kcm,scheduler,kubelet}.conf
set -e
umask 077
mkdir -p "$1/pki"
cd "$1/pki"
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
certificate() { # name subject usage [names]
    key "$1"
    openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
    printf 'keyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n%s' "$3" "${4:+subjectAltName=$4
}" > "$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3 -extfile "$1.ext" -out "$1.crt"
}
key ca
openssl req -x509 -new -key ca.key -subj /CN=node-ca -days 3 -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,digitalSignature
certificate apiserver /CN=kube-apiserver serverAuth \
    DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:192.168.77.2,IP:10.96.0.1
certificate kubelet-server /CN=node serverAuth DNS:node,IP:127.0.0.1,IP:192.168.77.2
certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
certificate admin /O=system:masters/CN=admin clientAuth
certificate kcm /CN=system:kube-controller-manager clientAuth
certificate scheduler /CN=system:kube-scheduler clientAuth
certificate kubelet /O=system:nodes/CN=system:node:node clientAuth
openssl genrsa -out sa.key 2048
openssl rsa -in sa.key -pubout -out sa.pub
text() { base64 -w0 "$1"; }
for user in admin kcm scheduler kubelet; do
    cat > "../$user.conf" <<Y
apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: $(text ca.crt)}}]
users: [{name: $user, user: {client-certificate-data: $(text $user.crt), client-key-data: $(text $user.key)}}]
contexts: [{name: node, context: {cluster: node, user: $user}}]
current-context: node
Y
done
