//! A root file system as a list of entries, written as a reproducible image archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// One file of a root file system.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Directory(u32),
    File(Vec<u8>, u32),
    Link(String),
}

/// A root file system by path (without the leading slash), in order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rootfs(BTreeMap<String, Entry>);

impl Rootfs {
    /// The directories and files that every image of ours has.
    pub(crate) fn new() -> Self {
        let mut rootfs = Rootfs::default();
        for dir in
            ["bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "var", "var/log"]
        {
            rootfs.directory(dir, 0o755);
        }
        rootfs.directory("tmp", 0o1777);
        rootfs.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n");
        rootfs.text("etc/group", "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n");
        rootfs
    }

    /// Adds a user and the group of its name and number.
    pub(crate) fn user(&mut self, name: &str, id: u32) {
        self.append("etc/passwd", &format!("{name}:x:{id}:{id}::/:/bin/sh\n"));
        self.append("etc/group", &format!("{name}:x:{id}:\n"));
    }

    fn append(&mut self, path: &str, text: &str) {
        if let Some(Entry::File(content, _)) = self.0.get_mut(path) {
            content.extend_from_slice(text.as_bytes());
        }
    }

    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.0.insert(path.to_owned(), Entry::Directory(mode));
    }

    pub(crate) fn text(&mut self, path: &str, text: &str) {
        self.file(path, text.as_bytes().to_vec(), 0o644);
    }

    /// Adds a file and the directories above it.
    pub(crate) fn file(&mut self, path: &str, content: Vec<u8>, mode: u32) {
        self.parents(path);
        self.0.insert(path.to_owned(), Entry::File(content, mode));
    }

    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.parents(path);
        self.0.insert(path.to_owned(), Entry::Link(to.to_owned()));
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Entry::Directory(0o755));
        }
    }

    /// The layer: same entries, same bytes, whoever makes it and when.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            match entry {
                Entry::Directory(mode) => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File(content, mode) => {
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    tar.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link(to) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, to)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }

    /// Writes the image as `docker save` would: one layer, one configuration, its tags.
    pub(crate) fn save(&self, file: &Path, tags: &[&str], config: &Value) -> Result<()> {
        let layer = self.layer()?;
        let layer_digest = sha256(&layer);
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "monopod images"}],
        })
        .to_string();
        let config_name = format!("{}.json", sha256(config.as_bytes()));
        let layer_name = format!("{layer_digest}/layer.tar");
        let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": [layer_name]}]).to_string();
        let partial = file.with_extension("partial");
        let mut tar =
            tar::Builder::new(File::create(&partial).with_context(|| partial.display().to_string())?);
        for (name, bytes) in [
            (config_name.as_str(), config.as_bytes()),
            (&layer_name, &layer),
            ("manifest.json", manifest.as_bytes()),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes)?;
        }
        tar.into_inner()?.flush()?;
        std::fs::rename(&partial, file).with_context(|| file.display().to_string())
    }
}

fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_entries_make_the_same_archive() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let make = |name: &str| {
            let mut rootfs = Rootfs::new();
            rootfs.file("a/b", b"x".to_vec(), 0o755);
            rootfs.link("bin/b", "/a/b");
            let file = dir.path().join(name);
            rootfs.save(&file, &["docker.io/library/x:1"], &json!({"Cmd": ["/a/b"]})).expect("saved");
            std::fs::read(file).expect("read")
        };
        assert_eq!(make("one.tar"), make("two.tar"));
    }
}
