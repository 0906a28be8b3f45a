use std::path::{Path, PathBuf};

use oci_spec::image::{Arch, Os};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{Choice, Image, ImageError, label_text, open};

/// The only image there is, for linux/amd64.
pub(crate) fn any() -> Choice {
    Choice { name: None, os: Os::Linux, arch: Arch::Amd64 }
}

fn named(name: &str) -> Choice {
    Choice { name: Some(name.to_owned()), ..any() }
}

fn digest(bytes: &[u8]) -> String {
    crate::words::hex(&Sha256::digest(bytes))
}

/// Files of an image, before they become a folder or an archive.
#[derive(Default)]
struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    fn blob(&mut self, kind: &str, content: &Value) -> Value {
        let bytes = content.to_string().into_bytes();
        let hex = digest(&bytes);
        let descriptor = json!({ "mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len() });
        self.0.push((format!("blobs/sha256/{hex}"), bytes));
        descriptor
    }

    fn manifest(&mut self, exec: &str) -> Value {
        let config = self.blob("application/vnd.oci.image.config.v1+json", &config(exec));
        let kind = "application/vnd.oci.image.manifest.v1+json";
        self.blob(kind, &json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [] }))
    }

    fn index(mut self, manifests: &[Value]) -> Self {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        self.0.push(("index.json".to_owned(), index.to_string().into_bytes()));
        self
    }

    fn folder(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in &self.0 {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        dir
    }

    fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

fn config(exec: &str) -> Value {
    json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] },
        "config": {
            "Labels": { "dev.keep.intent": "v1", "dev.keep.exec": exec },
            "Entrypoint": null, "Cmd": ["/start", "--now"], "Volumes": null, "OnBuild": null
        }
    })
}

fn name(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": "1" });
    descriptor
}

fn open_bytes(bytes: &[u8], choice: &Choice) -> Result<Image, ImageError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, bytes).unwrap();
    open(&path, choice)
}

fn exec(image: &Image) -> &str {
    &image.labels["dev.keep.exec"]
}

#[test]
fn a_layout_says_the_same_as_a_folder_and_as_an_archive() {
    let mut files = Files::default();
    let manifest = files.manifest("/a");
    let files = files.index(&[name(manifest, "docker.io/shop/web:1")]);
    let folder = open(files.folder().path(), &any()).unwrap();
    assert_eq!(open_bytes(&files.tar(), &any()).unwrap(), folder);
    assert_eq!((exec(&folder), folder.entrypoint.as_deref()), ("/a", Some("/start")));
    assert_eq!(folder.name.as_deref(), Some("docker.io/shop/web:1"));
}

#[test]
fn a_name_chooses_among_several_images_and_without_one_they_are_listed() {
    let mut files = Files::default();
    let (a, b) = (files.manifest("/a"), files.manifest("/b"));
    let digest = b["digest"].as_str().unwrap().to_owned();
    let files = files.index(&[name(a, "docker.io/shop/web:1"), name(b, "docker.io/shop/db:1")]);
    let tar = files.tar();
    assert_eq!(exec(&open_bytes(&tar, &named("shop/web:1")).unwrap()), "/a");
    assert_eq!(exec(&open_bytes(&tar, &named("docker.io/shop/db:1")).unwrap()), "/b");
    assert_eq!(exec(&open_bytes(&tar, &named(&digest)).unwrap()), "/b");
    let listed = open_bytes(&tar, &any()).unwrap_err().to_string();
    assert!(listed.ends_with("--image: docker.io/shop/db:1, docker.io/shop/web:1"), "{listed}");
    assert!(matches!(open_bytes(&tar, &named("op/web:1")), Err(ImageError::NoSuchImage { .. })));
    assert!(matches!(open_bytes(&tar, &named("1")), Err(ImageError::Ambiguous(_))));
}

#[test]
fn two_names_of_one_image_are_no_choice() {
    let mut files = Files::default();
    let a = files.manifest("/a");
    let files = files.index(&[name(a.clone(), "shop/web:1"), name(a, "shop/web:latest")]);
    assert_eq!(exec(&open_bytes(&files.tar(), &any()).unwrap()), "/a");
}

#[test]
fn of_a_multi_platform_image_the_wanted_platform_is_taken() {
    let mut files = Files::default();
    let mut entries = Vec::new();
    for (arch, path) in [("arm64", "/arm"), ("amd64", "/amd")] {
        let mut manifest = files.manifest(path);
        manifest["platform"] = json!({ "os": "linux", "architecture": arch });
        entries.push(manifest);
    }
    let mut attestation = files.manifest("/none");
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    entries.push(attestation);
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    let nested = files.blob("application/vnd.oci.image.index.v1+json", &index);
    let tar = files.index(&[name(nested, "shop/web:1")]).tar();
    assert_eq!(exec(&open_bytes(&tar, &any()).unwrap()), "/amd");
    assert_eq!(exec(&open_bytes(&tar, &Choice { arch: Arch::ARM64, ..any() }).unwrap()), "/arm");
    let missing = open_bytes(&tar, &Choice { arch: Arch::from("s390x"), ..any() }).unwrap_err().to_string();
    assert_eq!(missing, "has no image for linux/s390x; it holds linux/amd64, linux/arm64");
}

#[test]
fn indexes_nested_without_end_are_refused() {
    let mut files = Files::default();
    let mut entry = files.manifest("/a");
    for _ in 0..8 {
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        entry = files.blob("application/vnd.oci.image.index.v1+json", &index);
    }
    assert!(matches!(open_bytes(&files.index(&[entry]).tar(), &any()), Err(ImageError::TooDeep(_))));
}

#[test]
fn a_docker_archive_is_read_by_its_manifest() {
    let config = config("/a").to_string().into_bytes();
    let name = format!("{}.json", digest(&config));
    let manifest = json!([{ "Config": name, "RepoTags": ["shop/web:1"], "Layers": [] }]);
    let mut files =
        Files(vec![(name, config), ("manifest.json".to_owned(), manifest.to_string().into_bytes())]);
    assert_eq!(exec(&open_bytes(&files.tar(), &any()).unwrap()), "/a");
    assert_eq!(exec(&open_bytes(&files.tar(), &named("web:1")).unwrap()), "/a");
    assert!(open_bytes(&files.tar(), &named("db:1")).is_err());
    files.0[0].1 = self::config("/b").to_string().into_bytes();
    assert!(matches!(open_bytes(&files.tar(), &any()), Err(ImageError::Digest { .. })));
}

#[test]
fn a_config_outside_the_image_is_not_read() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), config("/secret").to_string()).unwrap();
    for path in [secret.path().to_str().unwrap(), "../../etc/shadow", "./x", "a//b"] {
        let manifest = json!([{ "Config": path, "Layers": [] }]).to_string();
        let files = Files(vec![("manifest.json".to_owned(), manifest.into_bytes())]);
        assert!(matches!(open(files.folder().path(), &any()), Err(ImageError::Archive(_))), "{path}");
    }
    let mut files = Files::default();
    let mut manifest = files.manifest("/a");
    manifest["digest"] = json!("sha256:../../../../etc/passwd");
    assert!(matches!(open(files.index(&[manifest]).folder().path(), &any()), Err(ImageError::Json { .. })));
}

#[test]
fn blobs_that_are_not_what_was_promised_are_refused() {
    let build = |change: &dyn Fn(&mut Files, &mut Value)| {
        let mut files = Files::default();
        let mut manifest = files.manifest("/a");
        change(&mut files, &mut manifest);
        open_bytes(&files.index(&[manifest]).tar(), &any()).unwrap_err()
    };
    let flip = |files: &mut Files, at: usize| {
        let last = files.0[at].1.len() - 1;
        files.0[at].1[last] = b' ';
    };
    assert!(matches!(build(&|files, _| flip(files, 0)), ImageError::Digest { .. }), "config");
    assert!(matches!(build(&|files, _| flip(files, 1)), ImageError::Digest { .. }), "manifest");
    assert!(matches!(build(&|_, manifest| manifest["size"] = json!(3)), ImageError::Size { .. }));
    assert!(matches!(build(&|_, manifest| manifest["size"] = json!(u64::MAX)), ImageError::TooLarge { .. }));
    assert!(matches!(build(&|files, _| drop(files.0.remove(0))), ImageError::Missing { .. }));
    let sha512 = format!("sha512:{}", "0".repeat(128));
    assert!(matches!(build(&|_, m| m["digest"] = json!(sha512)), ImageError::UnsupportedDigest(_)));
}

/// A header that claims `size`, with nothing behind it.
fn lying_header(kind: tar::EntryType, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("index.json").unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn archives_that_lie_about_their_sizes_are_refused() {
    for size in [1, 4096, 1 << 40, u64::MAX, u64::MAX - 511, i64::MAX as u64] {
        for kind in [tar::EntryType::Regular, tar::EntryType::GNULongName, tar::EntryType::XHeader] {
            let refused = open_bytes(&lying_header(kind, size), &any());
            assert!(matches!(refused, Err(ImageError::Archive(_))), "{size} {kind:?} {refused:?}");
        }
    }
    let mut pax = lying_header(tar::EntryType::XHeader, 29);
    pax.extend(b"29 size=18446744073709551615\n".iter().chain([0; 483].iter()));
    pax.extend(lying_header(tar::EntryType::Regular, 0));
    assert!(matches!(open_bytes(&pax, &any()), Err(ImageError::Archive(_))));
}

#[test]
fn an_archive_cut_anywhere_is_an_error_or_whole_and_never_a_panic() {
    let mut files = Files::default();
    let manifest = files.manifest("/a");
    let tar = files.index(&[manifest]).tar();
    for end in (1..tar.len()).step_by(97) {
        // Cut in the zeros at its end it is whole.
        let read = open_bytes(&tar[..end], &any());
        assert!(read.as_ref().map(exec).unwrap_or("/a") == "/a", "{end}");
    }
}

#[test]
fn a_huge_extended_header_or_config_is_not_read() {
    let mut tar = lying_header(tar::EntryType::GNULongName, 1 << 20);
    tar.resize(512 + (1 << 20), b'a');
    assert!(matches!(open_bytes(&tar, &any()), Err(ImageError::TooLarge { .. })));
    let mut files = Files::default();
    let manifest = files.manifest(&"/a ".repeat(3 << 20));
    assert!(matches!(open_bytes(&files.index(&[manifest]).tar(), &any()), Err(ImageError::TooLarge { .. })));
}

#[test]
fn layers_are_seeked_over_not_read() {
    let mut files = Files::default();
    let manifest = files.manifest("/a");
    let rest = files.index(&[manifest]).tar();
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("image.tar");
    // A sparse layer of 4 TiB: to read it would take hours.
    let size = 4 << 40;
    let mut header = lying_header(tar::EntryType::Regular, size);
    header[..10].copy_from_slice(b"layer.tar\0");
    let mut sum = tar::Header::from_byte_slice(&header).clone();
    sum.set_cksum();
    std::fs::write(&path, sum.as_bytes()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(512 + size).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &rest, 512 + size).unwrap();
    assert_eq!(exec(&open(&path, &any()).unwrap()), "/a");
}

fn labels(text: &str) -> Result<Image, ImageError> {
    label_text(text.as_bytes(), "labels", &any())
}

#[test]
fn label_files_are_read_as_lines_or_as_dockerfile_instructions() {
    let bare =
        labels("# comment\ndev.keep.intent=v1\ndev.keep.exec = /a /b\n\nENTRYPOINT [\"/a\", \"-x\"]\n")
            .unwrap();
    let instruction = labels(
        "LABEL dev.keep.intent=\"v1\" \\\n# between\n      dev.keep.exec=\"/a /b\"\nCMD [\"/c\"]\nENTRYPOINT [\"/a\"]",
    )
    .unwrap();
    assert_eq!(bare.labels, instruction.labels);
    assert_eq!(exec(&bare), "/a /b");
    assert_eq!((bare.entrypoint.as_deref(), instruction.entrypoint.as_deref()), (Some("/a"), Some("/a")));
    assert_eq!((bare.lines["dev.keep.exec"], instruction.lines["dev.keep.exec"]), (3, 3));
    let quoting = labels(r#"label a=x\ y b='$z "q"' c="\$\"\\ n""#).unwrap().labels;
    assert_eq!([&quoting["a"], &quoting["b"], &quoting["c"]], ["x y", "$z \"q\"", "$\"\\ n"]);
    assert_eq!(labels("CMD nginx -g daemon").unwrap().entrypoint.as_deref(), Some("/bin/sh"));
    assert_eq!(labels("a=1\na=2").unwrap().labels["a"], "2");
}

#[test]
fn json_is_labels_or_an_image_config() {
    assert_eq!(exec(&labels(" {\"dev.keep.exec\":\"/a\"}").unwrap()), "/a");
    let config = labels(&config("/a").to_string()).unwrap();
    assert_eq!((exec(&config), config.entrypoint.as_deref()), ("/a", Some("/start")));
    assert!(matches!(labels("{\"dev.keep.exec\":1}"), Err(ImageError::Json { .. })));
}

#[test]
fn a_mistake_in_a_label_file_is_named_by_its_line() {
    let problem = |text: &str| labels(text).unwrap_err().to_string();
    assert!(problem("a=1\nFROM debian").starts_with("line 2: FROM: this is a Dockerfile"));
    assert!(problem("oops").starts_with("line 1: \"oops\" is no label"));
    assert_eq!(problem("\nLABEL a=\"x"), "line 2: the quote \" is not closed");
    assert!(problem("LABEL a=$X").starts_with("line 1: a variable"));
    assert!(problem("LABEL a").contains("has no value"));
    assert!(problem("a=\"x\" b=\"y\"").contains("after the closing quote"));
    assert!(
        label_text(&b"a=1\n\xff"[..], "labels", &any())
            .unwrap_err()
            .to_string()
            .starts_with("line 2: not UTF-8")
    );
    assert!(matches!(label_text(std::io::repeat(b'a'), "labels", &any()), Err(ImageError::TooLarge { .. })));
}

#[test]
fn a_compressed_archive_says_how_to_decompress_it() {
    let gzip = open_bytes(b"\x1f\x8b\x08rest", &any()).unwrap_err().to_string();
    assert_eq!(gzip, "compressed with gzip; decompress it first (gunzip)");
    assert!(open(Path::new("/nonexistent"), &any()).is_err());
}
