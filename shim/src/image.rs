//! What an image declares: its config, found in containerd's content store by digest, and proven to belong to the
//! root filesystem that the container was given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{Info, MountsRequest, StatSnapshotRequest};
use containerd_client::services::v1::{Container, GetContainerRequest, GetImageRequest, ReadContentRequest};
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Status};
use containerd_client::with_namespace;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Largest index or manifest, and largest config, that is read, in bytes.
const MAX_MANIFEST: usize = 4 << 20;
const MAX_CONFIG: usize = 1 << 20;

/// Longest that containerd may take to answer all questions about an image.
const DEADLINE: Duration = Duration::from_secs(20);

/// What is known of a container's image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Reference by which containerd has it; empty for a container without an image.
    pub(crate) name: String,
    /// Digest that the reference points to.
    pub(crate) digest: String,
    /// Chain id of its layers, which are those of the container's root filesystem; none for a container without an image.
    pub(crate) chain: Option<String>,
    /// Labels of its config.
    pub(crate) labels: std::collections::BTreeMap<String, String>,
    /// First word of the config's Entrypoint, else of its Cmd.
    pub(crate) entrypoint: Option<String>,
}

/// Why an image's declaration cannot be trusted, so that the container does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// containerd cannot be reached.
    #[error("cannot connect to containerd at {address}")]
    Connect { address: String, source: containerd_client::tonic::transport::Error },
    /// containerd refused a question.
    #[error("cannot {question}: {}", .source.message())]
    Ask { question: String, source: Box<Status> },
    /// It took too long.
    #[error("containerd did not say within {} s what the image declares", DEADLINE.as_secs())]
    Deadline,
    /// The runtime for asking cannot be had.
    #[error("cannot prepare to ask containerd")]
    Runtime(#[source] std::io::Error),
    /// The helper thread ended without an answer.
    #[error("asking containerd ended without an answer")]
    Thread,
    /// A blob's bytes are not those of its digest.
    #[error("blob {digest} in the content store has other bytes than its digest says")]
    Corrupt { digest: String },
    /// A blob is larger than what is read.
    #[error("blob {digest} is larger than {limit} bytes")]
    TooLarge { digest: String, limit: usize },
    /// A blob is not the JSON that its media type says.
    #[error("cannot parse {what} {digest}")]
    Parse { what: &'static str, digest: String, source: oci_spec::OciSpecError },
    /// The root filesystem is not the image's.
    #[error(
        "the container's root filesystem is not that of image {image}: its snapshot {snapshot} has the parent {parent:?}, \
         and no manifest of the image has that chain of layers; labels of one image do not speak for the files of another"
    )]
    WrongRootfs { image: String, snapshot: String, parent: String },
    /// An image, and no snapshot to compare it with.
    #[error(
        "the container names image {image} but has no snapshot, so its labels cannot be tied to its files"
    )]
    NoSnapshot { image: String },
    /// The container's client mounted something else than its snapshot.
    #[error(
        "the container names image {image}, and what is mounted at {} is not its snapshot {snapshot}; labels of an image do \
         not speak for other files",
        .rootfs.display()
    )]
    WrongMount { image: String, snapshot: String, rootfs: PathBuf },
    /// What is mounted as the root filesystem cannot be told.
    #[error("cannot tell what is mounted at {}", .rootfs.display())]
    Mounted { rootfs: PathBuf, source: std::io::Error },
}

/// What is asked about a container's image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    /// containerd's gRPC socket.
    pub(crate) containerd: &'a str,
    /// containerd namespace.
    pub(crate) namespace: &'a str,
    /// Container id.
    pub(crate) id: &'a str,
    /// The root filesystem where containerd is not asked to mount it: the container's client did.
    pub(crate) mounted: Option<&'a Path>,
}

impl Question<'_> {
    /// Asks on a thread of its own, so that a child forked from an asynchronous process can. A container without an image gives an
    /// empty [`Image`].
    ///
    /// # Errors
    /// When containerd cannot be asked, or the config does not belong to the container's root filesystem.
    pub(crate) fn ask_apart(self) -> Result<Image, ImageError> {
        let asked = std::thread::scope(|scope| scope.spawn(|| self.ask(|answer| answer)).join());
        asked.map_err(|_| ImageError::Thread)??
    }

    /// Asks on this thread. `told` gets the answer, or the errors of [`Self::ask_apart`], as soon as it is there.
    ///
    /// # Errors
    /// When it cannot be prepared to ask.
    pub(crate) fn ask<T>(self, told: impl FnOnce(Result<Image, ImageError>) -> T) -> Result<T, ImageError> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().map_err(ImageError::Runtime)?;
        Ok(runtime.block_on(async {
            let asked = tokio::time::timeout(DEADLINE, ask(self)).await;
            told(asked.unwrap_or(Err(ImageError::Deadline)))
        }))
    }
}

async fn ask(Question { containerd, namespace, id, mounted }: Question<'_>) -> Result<Image, ImageError> {
    let channel = containerd_client::connect(Path::new(containerd))
        .await
        .map_err(|source| ImageError::Connect { address: containerd.to_owned(), source })?;
    let store = Store { channel, namespace: namespace.to_owned() };
    let container = store.container(id).await?;
    if container.image.is_empty() {
        return Ok(Image::default());
    }
    let Some(snapshot) = Snapshot::of(&container, mounted) else {
        return Err(ImageError::NoSnapshot { image: container.image });
    };
    let (target, parent) =
        tokio::try_join!(store.image(&container.image), store.layers(&snapshot, &container))?;
    if let Some(rootfs) = mounted {
        store.check_mount(&snapshot, rootfs, &container).await?;
    }
    let config = store.config_with_chain(&target, &parent).await?.ok_or_else(|| ImageError::WrongRootfs {
        image: container.image.clone(),
        snapshot: snapshot.key.clone(),
        parent: parent.clone(),
    })?;
    let inner = config.config().as_ref();
    let first = |words: Option<&Vec<String>>| {
        words.and_then(|words| words.first()).filter(|w| !w.is_empty()).cloned()
    };
    Ok(Image {
        name: container.image,
        digest: target.0,
        chain: Some(parent),
        labels: inner.and_then(|c| c.labels().clone()).unwrap_or_default().into_iter().collect(),
        entrypoint: inner.and_then(|c| first(c.entrypoint().as_ref()).or_else(|| first(c.cmd().as_ref()))),
    })
}

/// A container's own snapshot.
struct Snapshot {
    snapshotter: String,
    key: String,
}

impl Snapshot {
    /// As the container's record has it, or else as Docker has it, which leaves it out of the record: of the container's id, and
    /// mounted at `rootfs/SNAPSHOTTER/ID`.
    fn of(container: &Container, mounted: Option<&Path>) -> Option<Self> {
        if !container.snapshot_key.is_empty() {
            let (snapshotter, key) = (container.snapshotter.clone(), container.snapshot_key.clone());
            return Some(Self { snapshotter, key });
        }
        let rootfs =
            mounted.filter(|rootfs| rootfs.file_name().is_some_and(|name| name == container.id.as_str()))?;
        let snapshotter = rootfs.parent()?.file_name()?.to_str()?.to_owned();
        Some(Self { snapshotter, key: container.id.clone() })
    }

    /// Docker's own layer beneath it, in which it makes what it mounts over: `/etc/hosts`, `/dev/console` and the like.
    fn init_layer(&self) -> String {
        format!("{}-init", self.key)
    }
}

/// Digest and media type of what an image reference points to.
struct Target(String, String);

struct Store {
    channel: Channel,
    namespace: String,
}

impl Store {
    async fn container(&self, id: &str) -> Result<Container, ImageError> {
        let request = GetContainerRequest { id: id.to_owned() };
        let answer = ContainersClient::new(self.channel.clone())
            .get(with_namespace!(request, self.namespace))
            .await
            .map_err(|status| refused(format!("get container {id}"), status))?;
        Ok(answer.into_inner().container.unwrap_or_default())
    }

    async fn image(&self, name: &str) -> Result<Target, ImageError> {
        let request = GetImageRequest { name: name.to_owned() };
        let answer = ImagesClient::new(self.channel.clone())
            .get(with_namespace!(request, self.namespace))
            .await
            .map_err(|status| refused(format!("get image {name}"), status))?;
        let target = answer.into_inner().image.and_then(|image| image.target).unwrap_or_default();
        Ok(Target(target.digest, target.media_type))
    }

    /// The chain id of the layers beneath the container's snapshot.
    async fn layers(&self, snapshot: &Snapshot, container: &Container) -> Result<String, ImageError> {
        let Some(own) = self.snapshot(&snapshot.snapshotter, &snapshot.key).await? else {
            return Err(ImageError::NoSnapshot { image: container.image.clone() });
        };
        if own.parent != snapshot.init_layer() {
            return Ok(own.parent);
        }
        let init = self.snapshot(&snapshot.snapshotter, &own.parent).await?;
        Ok(init.map(|info| info.parent).unwrap_or_default())
    }

    async fn snapshot(&self, snapshotter: &str, key: &str) -> Result<Option<Info>, ImageError> {
        let request = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        let mut snapshots = SnapshotsClient::new(self.channel.clone());
        match snapshots.stat(with_namespace!(request, self.namespace)).await {
            Ok(answer) => Ok(answer.into_inner().info),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(refused(format!("look at snapshot {key}"), status)),
        }
    }

    /// That what the container's client mounted at `rootfs` is its snapshot: the overlay that writes to the snapshot's own layer.
    async fn check_mount(
        &self,
        snapshot: &Snapshot,
        rootfs: &Path,
        container: &Container,
    ) -> Result<(), ImageError> {
        let Snapshot { snapshotter, key } = snapshot;
        let request = MountsRequest { snapshotter: snapshotter.clone(), key: key.clone() };
        let answer = SnapshotsClient::new(self.channel.clone())
            .mounts(with_namespace!(request, self.namespace))
            .await
            .map_err(|status| refused(format!("ask for the mounts of snapshot {key}"), status))?;
        let mounts = answer.into_inner().mounts;
        let mut options =
            mounts.iter().filter(|mount| mount.r#type == "overlay").flat_map(|mount| &mount.options);
        let own = options.find_map(|option| option.strip_prefix("upperdir="));
        let mounted = sandbox::mountinfo::upper_layer(rootfs)
            .map_err(|source| ImageError::Mounted { rootfs: rootfs.to_owned(), source })?;
        match (own, mounted) {
            (Some(own), Some(mounted)) if Path::new(own) == mounted => Ok(()),
            _ => Err(ImageError::WrongMount {
                image: container.image.clone(),
                snapshot: key.clone(),
                rootfs: rootfs.to_owned(),
            }),
        }
    }

    /// The config whose layers are those of the snapshot's parent, among the target's manifests.
    async fn config_with_chain(
        &self,
        target: &Target,
        parent: &str,
    ) -> Result<Option<ImageConfiguration>, ImageError> {
        for manifest in self.manifests(target).await? {
            let config = self.config(&manifest).await?;
            if chain_id(config.rootfs().diff_ids()).is_some_and(|chain| chain == parent) {
                return Ok(Some(config));
            }
        }
        Ok(None)
    }

    async fn manifests(&self, target: &Target) -> Result<Vec<String>, ImageError> {
        if !is_index(&target.1) {
            return Ok(vec![target.0.clone()]);
        }
        let bytes = self.blob(&target.0, MAX_MANIFEST).await?;
        let index = ImageIndex::from_reader(bytes.as_slice()).map_err(|source| ImageError::Parse {
            what: "image index",
            digest: target.0.clone(),
            source,
        })?;
        // Manifests of other platforms are usually not in the store at all.
        let here = |descriptor: &&Descriptor| {
            descriptor.platform().as_ref().is_none_or(|p| p.architecture().to_string() == oci_arch())
        };
        Ok(index.manifests().iter().filter(here).map(|d| d.digest().to_string()).collect())
    }

    async fn config(&self, manifest: &str) -> Result<ImageConfiguration, ImageError> {
        let bytes = self.blob(manifest, MAX_MANIFEST).await?;
        let parsed = ImageManifest::from_reader(bytes.as_slice()).map_err(|source| ImageError::Parse {
            what: "image manifest",
            digest: manifest.to_owned(),
            source,
        })?;
        let digest = parsed.config().digest().to_string();
        let bytes = self.blob(&digest, MAX_CONFIG).await?;
        ImageConfiguration::from_reader(bytes.as_slice()).map_err(|source| ImageError::Parse {
            what: "image config",
            digest,
            source,
        })
    }

    /// Reads a whole blob, of at most `limit` bytes, and checks it against its digest.
    async fn blob(&self, digest: &str, limit: usize) -> Result<Vec<u8>, ImageError> {
        let question = || format!("read blob {digest}");
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let mut stream = ContentClient::new(self.channel.clone())
            .read(with_namespace!(request, self.namespace))
            .await
            .map_err(|status| refused(question(), status))?
            .into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = stream.message().await.map_err(|status| refused(question(), status))? {
            if bytes.len() + part.data.len() > limit {
                return Err(ImageError::TooLarge { digest: digest.to_owned(), limit });
            }
            bytes.extend_from_slice(&part.data);
        }
        if sha256(&bytes) != digest {
            return Err(ImageError::Corrupt { digest: digest.to_owned() });
        }
        Ok(bytes)
    }
}

fn refused(question: String, status: Status) -> ImageError {
    ImageError::Ask { question, source: Box::new(status) }
}

fn is_index(media_type: &str) -> bool {
    media_type == MediaType::ImageIndex.to_string()
        || media_type == "application/vnd.docker.distribution.manifest.list.v2+json"
}

/// The architecture's name in OCI images (Go's).
fn oci_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The digest of `bytes`, as OCI writes it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Chain id of a stack of layers, lowest first; `None` for no layers.
/// Source: OCI image spec, config.md, "Layer ChainID".
fn chain_id(diff_ids: &[String]) -> Option<String> {
    let (first, rest) = diff_ids.split_first()?;
    Some(rest.iter().fold(first.clone(), |chain, diff| sha256(format!("{chain} {diff}").as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_of_one_layer_is_its_diff_id() {
        assert_eq!(chain_id(&["sha256:aa".to_owned()]), Some("sha256:aa".to_owned()));
        assert_eq!(chain_id(&[]), None);
    }

    #[test]
    fn the_chain_depends_on_the_order_of_layers() {
        let (a, b) = ("sha256:aa".to_owned(), "sha256:bb".to_owned());
        let chain = chain_id(&[a.clone(), b.clone()]);
        assert_eq!(chain, Some(sha256(b"sha256:aa sha256:bb")));
        assert_ne!(chain, chain_id(&[b, a]));
    }
}
