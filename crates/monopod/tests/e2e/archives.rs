//! Image archives made by hand, honest and hostile, and a registry to pull them from.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tar made entry by entry, paths unchecked: the tar crate would refuse the hostile ones.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Tar(tar::Builder::new(Vec::new()))
    }

    fn header(name: &str, kind: tar::EntryType, size: usize) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        header
    }

    pub fn file(mut self, name: &str, content: &[u8]) -> Self {
        let header = Self::header(name, tar::EntryType::Regular, content.len());
        self.0.append(&header, content).expect("appended");
        self
    }

    pub fn symlink(mut self, name: &str, target: &str) -> Self {
        let mut header = Self::header(name, tar::EntryType::Symlink, 0);
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &b""[..]).expect("appended");
        self
    }

    pub fn hard_link(mut self, name: &str, target: &str) -> Self {
        let mut header = Self::header(name, tar::EntryType::Link, 0);
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &b""[..]).expect("appended");
        self
    }

    pub fn directory(mut self, name: &str) -> Self {
        self.0.append(&Self::header(name, tar::EntryType::Directory, 0), &b""[..]).expect("appended");
        self
    }

    /// A PAX header that says how long it is, and nothing more.
    pub fn extended_header(mut self, says: usize) -> Self {
        self.0.append(&Self::header("pax", tar::EntryType::XHeader, says), &b""[..]).expect("appended");
        self
    }

    pub fn block_device(mut self, name: &str, (major, minor): (u32, u32)) -> Self {
        let mut header = Self::header(name, tar::EntryType::Block, 0);
        header.set_device_major(major).expect("an ustar header");
        header.set_device_minor(minor).expect("an ustar header");
        header.set_cksum();
        self.0.append(&header, &b""[..]).expect("appended");
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("finished")
    }
}

/// The digest of bytes as registries write it.
pub fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// A docker-archive of one image with one layer, which says that the layer has this digest.
pub fn docker_archive(tag: &str, layer: &[u8], diff_id: &str) -> Vec<u8> {
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let manifest = json!([{"Config": "c.json", "RepoTags": [tag], "Layers": ["0/layer.tar"]}]);
    Tar::new()
        .file("manifest.json", manifest.to_string().as_bytes())
        .file("c.json", config.to_string().as_bytes())
        .file("0/layer.tar", layer)
        .bytes()
}

/// Debian's docker-registry on a free port of the loopback.
pub struct Registry {
    child: Child,
    pub port: u16,
    directory: TempDir,
    authorization: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `ann:secret` as htpasswd writes it with bcrypt, the only form the registry takes.
const HTPASSWD: &str = "ann:$2y$05$wmM7XJwDL5tY4SnMCA5GVu5EDE9ARK1YM/imnR3jmc1K0NZ8adBsm\n";

impl Registry {
    /// Open to everybody.
    pub fn open() -> Self {
        Self::start("")
    }

    /// Only for `ann` with the password `secret`.
    pub fn with_login() -> Self {
        Self::start("auth: {htpasswd: {realm: test, path: htpasswd}}\n")
    }

    fn start(auth: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("htpasswd"), HTPASSWD).expect("written");
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: data}}}}\n{auth}http: {{addr: 127.0.0.1:0}}\n"
        );
        std::fs::write(directory.path().join("config.yml"), config).expect("written");
        let mut child = Command::new("docker-registry")
            .args(["serve", "config.yml"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, rest) = line.split_once("listening on 127.0.0.1:")?;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        // It writes on for as long as it lives; a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let authorization = format!("Basic {}", STANDARD.encode("ann:secret"));
        Registry { child, port: port.expect("the registry says where it listens"), directory, authorization }
    }

    /// Ends it: nothing can be asked of it any more.
    pub fn stop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// The name of an image here.
    pub fn name(&self, image: &str) -> String {
        format!("localhost:{}/{image}", self.port)
    }

    /// Pushes the first image of a docker-archive as `repository:tag`.
    pub fn push(&self, archive: &Path, repository: &str, tag: &str) {
        let mut files = read_archive(archive);
        let index: Value = serde_json::from_slice(&files["manifest.json"]).expect("a manifest");
        let named = |name: &Value| name.as_str().expect("a name").to_owned();
        let mut take = |name: &Value| files.remove(&named(name)).expect("a file of the archive");
        let config = take(&index[0]["Config"]);
        let layers: Vec<Vec<u8>> =
            index[0]["Layers"].as_array().expect("layers").iter().map(&mut take).collect();
        for blob in layers.iter().chain([&config]) {
            self.push_blob(repository, blob);
        }
        let described =
            |kind: &str, blob: &[u8]| json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()});
        let layer = "application/vnd.docker.image.rootfs.diff.tar";
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind,
            "config": described("application/vnd.docker.container.image.v1+json", &config),
            "layers": layers.iter().map(|blob| described(layer, blob)).collect::<Vec<_>>()});
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (code, _) = self.call("PUT", &path, kind, manifest.to_string().as_bytes());
        assert_eq!(code, 201, "the manifest is taken");
    }

    fn push_blob(&self, repository: &str, blob: &[u8]) {
        let (code, location) = self.call("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        assert_eq!(code, 202, "an upload begins");
        let location = location.expect("a place to upload to");
        let path = location.find("/v2/").map_or(location.as_str(), |at| &location[at..]);
        let path = format!("{path}&digest={}", digest(blob));
        let (code, _) = self.call("PUT", &path, "application/octet-stream", blob);
        assert_eq!(code, 201, "the blob is taken");
    }

    /// One request on a connection of its own: the code and the Location.
    fn call(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, Option<String>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the registry listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nAuthorization: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            self.authorization,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).map(str::to_owned);
        (code, location)
    }

    /// Changes a stored blob behind the registry's back: it then serves what the digest does not say.
    pub fn corrupt(&self, blob: &str) {
        let hex = blob.trim_start_matches("sha256:");
        let file = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let file = self.directory.path().join(file);
        let mut bytes = std::fs::read(&file).expect("a stored blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&file, bytes).expect("written");
    }
}

/// Every file of an archive by its name.
pub fn read_archive(archive: &Path) -> HashMap<String, Vec<u8>> {
    let file = std::fs::File::open(archive).expect("a test image");
    let mut archive = tar::Archive::new(BufReader::new(file));
    let entries = archive.entries().expect("an archive");
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.expect("an entry");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("readable");
        (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), bytes)
    };
    entries.map(read).collect()
}
