//! Container images without a daemon: an OCI layout is a folder of blobs named by their hashes, and two files of
//! JSON (image-spec 1.1, image-layout.md). The same input gives the same bytes.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What image names are kept under in an index; containerd reads the second.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// The files of an image, all owned by root and of the year 1970.
pub(crate) struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Layer {
    /// Without a file.
    pub(crate) fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    /// Adds a folder.
    ///
    /// # Errors
    /// The path is too long for an archive.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        self.entry(EntryType::Directory, &format!("{path}/"), mode, &[])
    }

    /// Adds a file.
    ///
    /// # Errors
    /// As [`Layer::folder`].
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(EntryType::Regular, path, mode, content)
    }

    /// Adds a program of this machine.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.file(path, 0o755, &content)
    }

    /// Adds everything below a folder of this machine.
    ///
    /// # Errors
    /// Something in it cannot be read, or is neither folder, file nor symbolic link.
    pub(crate) fn tree(&mut self, root: &Path) -> Result<()> {
        for path in sorted(root)? {
            let name = path.strip_prefix(root)?.to_str().context("a name that is not UTF-8")?;
            let meta = fs::symlink_metadata(&path)?;
            let mode = meta.permissions().mode() & 0o7777;
            if meta.is_dir() {
                self.folder(name, mode)?;
            } else if meta.is_symlink() {
                self.link(name, &fs::read_link(&path)?)?;
            } else {
                ensure!(meta.is_file(), "{} is no file", path.display());
                self.file(name, mode, &fs::read(&path)?)?;
            }
        }
        Ok(())
    }

    fn link(&mut self, path: &str, target: &Path) -> Result<()> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target).with_context(|| format!("archive {path}"))
    }

    fn entry(&mut self, kind: EntryType, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = header(kind, mode, content.len() as u64);
        let added = self.tar.append_data(&mut header, path, content);
        added.with_context(|| format!("archive {path}"))
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header
}

/// Every path below `root`, folders before what is in them.
fn sorted(root: &Path) -> Result<Vec<PathBuf>> {
    let list = fs::read_dir(root).with_context(|| format!("read {}", root.display()))?;
    let mut paths = list.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let is_folder = fs::symlink_metadata(&path)?.is_dir();
        all.push(path.clone());
        if is_folder {
            all.extend(sorted(&path)?);
        }
    }
    Ok(all)
}

/// An image for one architecture.
pub(crate) struct Image {
    /// As Go calls it: `amd64`.
    pub(crate) architecture: &'static str,
    /// Its files.
    pub(crate) layer: Layer,
    /// What is run, arguments included.
    pub(crate) entrypoint: Vec<String>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
    /// `org.opencontainers.image.…`
    pub(crate) labels: Value,
}

/// Writes the layout of one image, for one or several architectures, to a folder that is made anew; returns the
/// digest of what its name stands for.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn write(folder: &Path, name: &str, images: Vec<Image>) -> Result<String> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder.join("blobs/sha256"))?;
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let manifests = images.into_iter().map(|image| manifest(folder, image));
    let mut manifests = manifests.collect::<Result<Vec<_>>>()?;
    // What a name stands for is a manifest, or an index with one for each architecture.
    let mut named = if manifests.len() == 1 {
        manifests.remove(0)
    } else {
        blob(folder, INDEX, &index(&manifests))?
    };
    named["annotations"] = NAMES.iter().map(|key| (*key, name)).collect();
    fs::write(folder.join("index.json"), index(&[named.clone()]))?;
    Ok(named["digest"].as_str().context("a digest")?.to_owned())
}

/// Packs a layout as one file, which is what container runtimes import.
///
/// # Errors
/// A file cannot be read or written.
pub(crate) fn archive(layout: &Path, to: &Path) -> Result<()> {
    let mut all = Layer::new();
    all.tree(layout)?;
    fs::write(to, all.tar.into_inner()?).with_context(|| format!("write {}", to.display()))
}

/// Reads a layout back as a stranger would: every blob has the hash that it is named by, and what is named is there.
/// Returns the names of all files in the layers of all architectures.
///
/// # Errors
/// Something is missing or is not what its name says.
pub(crate) fn verify(layout: &Path) -> Result<Vec<String>> {
    let index: Value = serde_json::from_reader(File::open(layout.join("index.json"))?)?;
    let mut files = Vec::new();
    let mut left: Vec<Value> = index["manifests"].as_array().cloned().unwrap_or_default();
    while let Some(descriptor) = left.pop() {
        let content = read_blob(layout, &descriptor)?;
        if descriptor["mediaType"] == LAYER {
            let mut layer = tar::Archive::new(flate2::read::GzDecoder::new(content.as_slice()));
            for entry in layer.entries()? {
                files.push(entry?.path()?.display().to_string());
            }
        } else if descriptor["mediaType"] != CONFIG {
            let value: Value = serde_json::from_slice(&content)?;
            left.extend(value["manifests"].as_array().into_iter().flatten().cloned());
            left.extend(value["layers"].as_array().into_iter().flatten().cloned());
            left.extend(value.get("config").cloned());
        }
    }
    Ok(files)
}

fn read_blob(layout: &Path, descriptor: &Value) -> Result<Vec<u8>> {
    let digest = descriptor["digest"].as_str().context("a descriptor without digest")?;
    let hash = digest.strip_prefix("sha256:").context("a digest of another kind")?;
    let mut content = Vec::new();
    File::open(layout.join("blobs/sha256").join(hash))?.read_to_end(&mut content)?;
    ensure!(self::hash(&content) == hash, "the content of {digest} has another hash");
    ensure!(descriptor["size"] == content.len(), "{digest} has another size");
    Ok(content)
}

fn index(manifests: &[Value]) -> Vec<u8> {
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    index.to_string().into_bytes()
}

/// Writes the blobs of one image; returns the descriptor of its manifest.
fn manifest(folder: &Path, image: Image) -> Result<Value> {
    let platform = json!({ "os": "linux", "architecture": image.architecture });
    let tar = image.layer.tar.into_inner()?;
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    packed.write_all(&tar)?;
    let layer = blob(folder, LAYER, &packed.finish()?)?;
    let config = json!({
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            "User": "0",
            "Entrypoint": image.entrypoint,
            "Env": image.env,
            "WorkingDir": "/",
            "Labels": image.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hash(&tar))] },
    });
    let config = blob(folder, CONFIG, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [layer],
        "annotations": image.labels,
    });
    let mut descriptor = blob(folder, MANIFEST, manifest.to_string().as_bytes())?;
    descriptor["platform"] = platform;
    Ok(descriptor)
}

/// Writes a blob; returns its descriptor.
fn blob(folder: &Path, media_type: &str, content: &[u8]) -> Result<Value> {
    let hash = hash(content);
    let path = folder.join("blobs/sha256").join(&hash);
    fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    Ok(json!({
        "mediaType": media_type,
        "digest": format!("sha256:{hash}"),
        "size": content.len(),
    }))
}

fn hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(architecture: &'static str, content: &[u8]) -> Image {
        let mut layer = Layer::new();
        layer.folder("bin", 0o755).expect("a folder");
        layer.file("bin/tool", 0o755, content).expect("a file");
        let labels = json!({ "org.opencontainers.image.title": "tool" });
        Image { architecture, layer, entrypoint: vec!["/bin/tool".into()], env: vec![], labels }
    }

    fn two(folder: &Path, content: &[u8]) -> String {
        let images = vec![image("amd64", content), image("arm64", content)];
        write(folder, "example.test/tool:1", images).expect("a layout")
    }

    #[test]
    fn the_same_input_gives_the_same_digest_and_can_be_read_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let digest = two(&one, b"1");
        assert_eq!(digest, two(&other, b"1"));
        assert_ne!(digest, two(&other, b"2"));
        let files = verify(&one).expect("a sound layout");
        assert_eq!(files, ["bin/", "bin/tool", "bin/", "bin/tool"], "one layer for each");
        archive(&one, &dir.path().join("one.tar")).expect("an archive");
    }

    #[test]
    fn a_blob_that_was_tampered_with_is_noticed() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), "example.test/tool:1", vec![image("amd64", b"1")]).expect("a layout");
        verify(dir.path()).expect("a sound layout");
        for blob in fs::read_dir(dir.path().join("blobs/sha256")).expect("blobs").flatten() {
            let content = fs::read(blob.path()).expect("a blob");
            fs::write(blob.path(), [&content[..], b" "].concat()).expect("a change");
            assert!(verify(dir.path()).is_err(), "{}", blob.path().display());
            fs::write(blob.path(), content).expect("as it was");
        }
    }
}
