//! What an image declares: its config, found in containerd's content store by digest, and proven to belong to the
//! root filesystem that the container was given.

use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::snapshots::StatSnapshotRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::{Container, GetContainerRequest, GetImageRequest, ReadContentRequest};
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Request, Status};
use containerd_client::with_namespace;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};
use sha2::{Digest, Sha256};

/// Largest index or manifest, and largest config, that is read, in bytes.
const MAX_MANIFEST: usize = 4 << 20;
const MAX_CONFIG: usize = 1 << 20;

/// Longest that containerd may take to answer all questions about an image.
const DEADLINE: Duration = Duration::from_secs(20);

/// What is known of a container's image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Image {
    /// Reference by which containerd has it; empty for a container without an image.
    pub(crate) name: String,
    /// Digest that the reference points to.
    pub(crate) digest: String,
    /// Chain id of its layers, on which the container's snapshot stands; none for a container without an image.
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
}

/// Looks up the image of container `id`. Blocks; runs on a thread of its own, so that a child forked from an
/// asynchronous process can call it. A container without an image gives an empty [`Image`].
///
/// # Errors
/// When containerd cannot be asked, or the config does not belong to the container's root filesystem.
pub(crate) fn look_up(address: &str, namespace: &str, id: &str) -> Result<Image, ImageError> {
    let (address, namespace, id) = (address.to_owned(), namespace.to_owned(), id.to_owned());
    let asked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ImageError::Runtime)?;
        runtime.block_on(async {
            tokio::time::timeout(DEADLINE, ask(&address, &namespace, &id))
                .await
                .unwrap_or(Err(ImageError::Deadline))
        })
    });
    asked.join().map_err(|_| ImageError::Thread)?
}

async fn ask(address: &str, namespace: &str, id: &str) -> Result<Image, ImageError> {
    let channel = containerd_client::connect(Path::new(address))
        .await
        .map_err(|source| ImageError::Connect { address: address.to_owned(), source })?;
    let store = Store { channel, namespace: namespace.to_owned() };
    let container = store.container(id).await?;
    if container.image.is_empty() {
        return Ok(Image::default());
    }
    let target = store.image(&container.image).await?;
    if container.snapshot_key.is_empty() {
        return Err(ImageError::NoSnapshot { image: container.image });
    }
    let parent = store.parent(&container.snapshotter, &container.snapshot_key).await?;
    let config = store.config_with_chain(&target, &parent).await?.ok_or_else(|| ImageError::WrongRootfs {
        image: container.image.clone(),
        snapshot: container.snapshot_key.clone(),
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

    /// The parent of the container's snapshot: the chain id of the layers beneath it.
    async fn parent(&self, snapshotter: &str, key: &str) -> Result<String, ImageError> {
        let request = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: key.to_owned() };
        let answer = SnapshotsClient::new(self.channel.clone())
            .stat(with_namespace!(request, self.namespace))
            .await
            .map_err(|status| refused(format!("look at snapshot {key}"), status))?;
        Ok(answer.into_inner().info.map(|info| info.parent).unwrap_or_default())
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
