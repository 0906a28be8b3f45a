use std::io::Write as _;

use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;
use tempfile::TempDir;

use super::super::store::Store;
use super::super::tests::any as any_image;
use super::super::{ImageError, Input, input, inspect};
use super::*;

/// One entry of a layer: its path and what it is.
#[derive(Debug, Clone, Copy)]
enum Make {
    Folder,
    File(u32, &'static str),
    Link(&'static str),
    HardLink(&'static str),
}

fn layer(entries: &[(&str, Make)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, make) in entries {
        let mut header = tar::Header::new_gnu();
        let mut content = "";
        header.set_size(0);
        header.set_mode(0o755);
        match make {
            Make::Folder => header.set_entry_type(tar::EntryType::Directory),
            Make::File(mode, text) => {
                content = text;
                header.set_size(text.len() as u64);
                header.set_mode(*mode);
            }
            Make::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_link_name(target).unwrap();
            }
            Make::HardLink(target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name(target).unwrap();
            }
        }
        builder.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Two frames with an index of zstd:chunked between them.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"idx"].concat();
    let frame = |part: &[u8]| compress_to_vec(part, CompressionLevel::Fastest);
    [frame(first), skipped, frame(second)].concat()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", crate::words::hex(&Sha256::digest(bytes)))
}

/// A docker archive's folder with layers as they are stored, and with the digests that its config promises.
fn image(stored: &[Vec<u8>], digests: &[String]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": digests },
        "config": { "Labels": { "dev.keep.intent": "v1" }, "Cmd": ["/run"], "Env": ["PATH=/opt"], "ExposedPorts": { "80/tcp": {} } }
    });
    let names: Vec<String> = (0..stored.len()).map(|number| format!("{number}.tar")).collect();
    let manifest = json!([{ "Config": "config", "RepoTags": null, "Layers": names }]);
    let mut files = vec![("config".to_owned(), config.to_string().into_bytes())];
    files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
    files.extend(names.into_iter().zip(stored.iter().cloned()));
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn scanned(stored: &[Vec<u8>], digests: &[String]) -> Result<Files, ImageError> {
    let folder = image(stored, digests);
    Ok(inspect(&mut Store::folder(folder.path()), &any_image())?.facts.files)
}

fn files(layers: &[&[(&str, Make)]]) -> Files {
    let stored: Vec<Vec<u8>> = layers.iter().map(|entries| layer(entries)).collect();
    let digests: Vec<String> = stored.iter().map(|bytes| digest(bytes)).collect();
    scanned(&stored, &digests).unwrap()
}

fn names(files: &Files) -> String {
    files.entries.keys().map(AbsPath::as_str).collect::<Vec<_>>().join(" ")
}

fn found(files: &Files, path: &str) -> Option<File> {
    files.resolve(&AbsPath::new(path).unwrap()).map(|(_, file)| file.clone())
}

#[test]
fn layers_say_the_same_plain_and_compressed() {
    let entries = [
        ("bin", Make::Folder),
        ("bin/a", Make::File(0o4755, "x")),
        ("./run", Make::File(0o755, "#!/bin/sh -e\nls\n")),
    ];
    let bytes = layer(&entries);
    let plain = scanned(std::slice::from_ref(&bytes), &[digest(&bytes)]).unwrap();
    assert_eq!(names(&plain), "/bin /bin/a /run");
    assert_eq!(found(&plain, "/bin/a"), Some(File { kind: Kind::Regular, mode: 0o4755 }));
    let Some(File { kind: Kind::Script(script), .. }) = found(&plain, "/run") else { panic!("no script") };
    assert_eq!(
        (script.interpreter.as_str(), script.text.as_deref()),
        ("/bin/sh -e", Some("#!/bin/sh -e\nls\n"))
    );
    for stored in [gzip(&bytes), zstd(&bytes)] {
        assert_eq!(scanned(&[stored], &[digest(&bytes)]).unwrap(), plain);
    }
}

#[test]
fn whiteouts_take_from_the_layers_beneath_and_not_from_their_own() {
    let base: &[(&str, Make)] = &[
        ("a", Make::Folder),
        ("a/x", Make::File(0o644, "")),
        ("a/y", Make::Folder),
        ("a/y/z", Make::File(0o644, "")),
        ("a-b", Make::File(0o644, "")),
        ("f", Make::Folder),
        ("f/g", Make::File(0o644, "")),
    ];
    assert_eq!(names(&files(&[base, &[("a/.wh.y", Make::File(0, ""))]])), "/a /a-b /a/x /f /f/g");
    let opaque: &[(&str, Make)] = &[("a/new", Make::File(0o644, "")), ("a/.wh..wh..opq", Make::File(0, ""))];
    assert_eq!(names(&files(&[base, opaque])), "/a /a-b /a/new /f /f/g");
    assert_eq!(names(&files(&[base, &[("f", Make::File(0o644, ""))]])), "/a /a-b /a/x /a/y /a/y/z /f");
}

#[test]
fn links_are_followed_also_by_the_layers_above() {
    let base: &[(&str, Make)] = &[
        ("usr", Make::Folder),
        ("usr/bin", Make::Folder),
        ("bin", Make::Link("usr/bin")),
        ("usr/bin/sh", Make::File(0o755, "x")),
        ("usr/bin/hard", Make::HardLink("bin/sh")),
    ];
    let all = files(&[base, &[("bin/ls", Make::File(0o755, "x")), ("bin/.wh.sh", Make::File(0, ""))]]);
    assert_eq!(names(&all), "/bin /usr /usr/bin /usr/bin/hard /usr/bin/ls");
    assert_eq!(found(&all, "/bin/ls"), Some(File { kind: Kind::Regular, mode: 0o755 }));
    assert_eq!(found(&all, "/bin/hard"), Some(File { kind: Kind::Regular, mode: 0o755 }));
    assert_eq!(found(&all, "/bin/sh"), None);
}

#[test]
fn the_config_says_the_rest() {
    let folder = image(&[], &[]);
    let facts = inspect(&mut Store::folder(folder.path()), &any_image()).unwrap().facts;
    assert_eq!(facts.command().map(|command| command.program()), Some("/run"));
    assert_eq!(facts.folders().collect::<Vec<_>>(), ["/opt"]);
    assert_eq!(facts.exposed.len(), 1);
    assert!(facts.files.complete);
}

#[test]
fn a_layer_that_is_not_what_was_promised_is_refused() {
    let bytes = layer(&[("a", Make::Folder)]);
    let other = layer(&[("b", Make::Folder)]);
    assert!(matches!(
        scanned(std::slice::from_ref(&bytes), &[digest(&other)]),
        Err(ImageError::Digest { .. })
    ));
    assert!(matches!(scanned(std::slice::from_ref(&bytes), &[]), Err(ImageError::Archive(_))));
    let cut = gzip(&bytes)[..40].to_vec();
    assert!(matches!(scanned(&[cut], &[digest(&bytes)]), Err(ImageError::Read { .. })));
    let folder = image(std::slice::from_ref(&bytes), &[digest(&bytes)]);
    std::fs::remove_file(folder.path().join("0.tar")).unwrap();
    assert!(matches!(
        inspect(&mut Store::folder(folder.path()), &any_image()),
        Err(ImageError::Missing { .. })
    ));
}

#[test]
fn an_extended_header_without_end_is_not_read() {
    let mut header = tar::Header::new_gnu();
    header.set_path("x").unwrap();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let bytes = [header.as_bytes().as_slice(), &[b'a'; 4096]].concat();
    let refused = scanned(std::slice::from_ref(&bytes), &[digest(&bytes)]).unwrap_err();
    assert!(
        matches!(refused, ImageError::Read { ref source, .. } if source.to_string().contains("too long")),
        "{refused:?}"
    );
}

#[test]
fn a_stream_longer_than_is_read_ends_in_an_error() {
    let mut measured = Measured { stream: std::io::repeat(0), hash: Sha256::new(), left: 10_000 };
    assert!(
        std::io::copy(&mut measured, &mut std::io::sink()).unwrap_err().to_string().contains("more bytes")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_layer_mutated_anywhere_is_read_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        compression in 0..3,
    ) {
        let plain = layer(&[("usr", Make::Folder), ("bin", Make::Link("usr")), ("bin/a", Make::File(0o755, "#!/bin/sh\n")), ("b", Make::HardLink("bin/a"))]);
        let mut bytes = match compression { 0 => plain, 1 => gzip(&plain), _ => zstd(&plain) };
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // Its digest holds where the mutated layer is plain, so that all of it is read.
        let digest = digest(&bytes);
        let _read_or_refused = scanned(&[bytes], &[digest]);
    }

    #[test]
    fn an_archive_mutated_anywhere_is_read_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let bytes = layer(&[("run", Make::File(0o755, "#!/bin/sh\n"))]);
        let folder = image(std::slice::from_ref(&bytes), &[digest(&bytes)]);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_dir_all(".", folder.path()).unwrap();
        let mut archive = builder.into_inner().unwrap();
        for (at, value) in changes {
            let at = at.index(archive.len());
            archive[at] = value;
        }
        let path = folder.path().join("image.tar");
        std::fs::write(&path, archive).unwrap();
        if let Ok(Input::Store(mut store)) = input(&path) {
            let _read_or_refused = inspect(&mut store, &any_image());
        }
    }
}
