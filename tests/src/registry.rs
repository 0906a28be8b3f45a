//! A read-only OCI registry inside a node, for whoever pulls images there by their public names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::image::{Image, MANIFEST};
use crate::node::Node;

/// Where it listens, on the node's loopback.
const PORT: u16 = 5000;
/// Longest that a client may take for its question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Images by their names.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Digest of the manifest by host, repository and tag.
    names: BTreeMap<(String, String, String), String>,
    /// Media type and content by digest.
    blobs: BTreeMap<String, (String, Vec<u8>)>,
}

impl Shelf {
    /// Adds an image under several names of the form `host/repository:tag`.
    ///
    /// # Errors
    /// When a layer cannot be made, or a name has another form.
    pub fn add(&mut self, image: &Image, names: &[&str]) -> Result<()> {
        let packed = image.pack()?;
        for name in names {
            let parts = name.split_once('/').and_then(|(host, rest)| Some((host, rest.rsplit_once(':')?)));
            let (host, (repository, tag)) = parts.with_context(|| format!("no host or tag in {name}"))?;
            let key = (host.to_owned(), repository.to_owned(), tag.to_owned());
            self.names.insert(key, packed.manifest.clone());
        }
        for (digest, content) in packed.blobs {
            let kind = if digest == packed.manifest { MANIFEST } else { "application/octet-stream" };
            self.blobs.insert(digest, (kind.to_owned(), content));
        }
        Ok(())
    }

    /// What a path like `/v2/busybox/manifests/latest?ns=docker.io` names: digest, media type and content.
    fn find(&self, path: &str) -> Option<(&str, &str, &[u8])> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let host = query.split('&').find_map(|pair| pair.strip_prefix("ns=")).unwrap_or_default();
        let (rest, reference) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
        let (repository, _) = rest.rsplit_once('/')?;
        let key = || (host.to_owned(), repository.to_owned(), reference.to_owned());
        let digest =
            if reference.starts_with("sha256:") { reference } else { self.names.get(&key())?.as_str() };
        let (digest, (kind, content)) = self.blobs.get_key_value(digest)?;
        Some((digest, kind, content))
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(&stream);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, digest, kind, content) = match self.find(path) {
            Some((digest, kind, content)) => ("200 OK", digest, kind, content),
            None if path.trim_end_matches('/') == "/v2" => ("200 OK", "", "application/json", &b"{}"[..]),
            None => (
                "404 Not Found",
                "",
                "application/json",
                &b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}"[..],
            ),
        };
        let length = content.len();
        let digest =
            if digest.is_empty() { String::new() } else { format!("Docker-Content-Digest: {digest}\r\n") };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{digest}Connection: close\r\n\r\n"
        );
        (&stream).write_all(head.as_bytes())?;
        if method == "HEAD" { Ok(()) } else { (&stream).write_all(content) }
    }
}

/// A registry that serves. Dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Registry {
    /// Serves the shelf on the loopback of the node, and has its containerd, by the folder `certs.d` of its configuration,
    /// ask it for images of every host.
    ///
    /// # Errors
    /// When the node's network cannot be entered, or the port is taken.
    pub fn start(node: &Node, shelf: Shelf) -> Result<Self> {
        let folder = node.folder.join("certs.d/_default");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let address = format!("http://127.0.0.1:{PORT}");
        let text = format!(
            "server = \"{address}\"\n[host.\"{address}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        std::fs::write(folder.join("hosts.toml"), text).context("cannot write hosts.toml")?;
        let network = format!("/proc/{}/ns/net", node.init());
        let over = Arc::new(AtomicBool::new(false));
        let (told, ready) = mpsc::channel();
        let until = Arc::clone(&over);
        let server = std::thread::spawn(move || match listen(Path::new(&network)) {
            Ok(listener) => {
                // Who started us waits for this.
                drop(told.send(Ok(())));
                serve(&listener, &shelf, &until);
            }
            Err(error) => drop(told.send(Err(error))),
        });
        ready.recv().context("the registry ended at once")??;
        Ok(Self { over, server: Some(server) })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if self.server.take().is_some_and(|server| server.join().is_err()) {
            eprintln!("the registry panicked");
        }
    }
}

/// Listens in another network namespace, which the calling thread enters for good.
fn listen(network: &Path) -> Result<TcpListener> {
    let namespace = File::open(network).with_context(|| format!("cannot open {}", network.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the node's network")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
        .with_context(|| format!("cannot listen on port {PORT} of the node"))?;
    listener.set_nonblocking(true).context("cannot wait for clients with a limit")?;
    Ok(listener)
}

fn serve(listener: &TcpListener, shelf: &Shelf, until: &AtomicBool) {
    std::thread::scope(|scope| {
        while !until.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    scope.spawn(move || {
                        let answered = stream.set_nonblocking(false).and_then(|()| shelf.answer(stream));
                        match answered {
                            // Who connects beforehand and then asks nothing.
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                            Err(error) => eprintln!("the registry could not answer: {error}"),
                            Ok(()) => {}
                        }
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => {
                    eprintln!("the registry ends: {error}");
                    return;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Layer;

    #[test]
    fn an_image_is_found_by_host_and_tag_and_its_blobs_by_digest() {
        let mut shelf = Shelf::default();
        let image = Image::new([Layer::new().file("x", "1", 0o644)]);
        shelf.add(&image, &["keep.test/a/b:1"]).expect("added");
        let (digest, kind, manifest) = shelf.find("/v2/a/b/manifests/1?ns=keep.test").expect("the manifest");
        assert_eq!(kind, MANIFEST);
        let manifest: serde_json::Value = serde_json::from_slice(manifest).expect("JSON");
        let layer = manifest["layers"][0]["digest"].as_str().expect("a layer");
        assert!(shelf.find(&format!("/v2/a/b/blobs/{layer}?ns=keep.test")).is_some());
        assert!(shelf.find(&format!("/v2/a/b/manifests/{digest}")).is_some());
        for other in ["/v2/a/b/manifests/2?ns=keep.test", "/v2/a/b/manifests/1?ns=other", "/v2/", "/"] {
            assert!(shelf.find(other).is_none(), "{other}");
        }
    }
}
