//! A pull from Debian's docker-registry, the reference of the protocol, filled by writing its
//! storage: with and without a login. Says so when it is not installed.

#![allow(clippy::disallowed_methods, reason = "a test owns what it starts")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use runtime::Credentials;
use runtime::image::{Digest, ImageStore, Registries, Silent};

const REGISTRY: &str = "/usr/bin/docker-registry";
/// `ann:secret` as htpasswd writes it with bcrypt, the only form the registry takes.
const HTPASSWD: &str = "ann:$2y$05$wmM7XJwDL5tY4SnMCA5GVu5EDE9ARK1YM/imnR3jmc1K0NZ8adBsm\n";

struct Registry {
    child: Child,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(directory: &Path, auth: &str) -> Registry {
    let config = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n{auth}http: {{addr: 127.0.0.1:0}}\n",
        directory.display()
    );
    let file = directory.join("config.yml");
    fs::write(&file, config).unwrap();
    let mut child = Command::new(REGISTRY)
        .arg("serve")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let port = loop {
        let line = lines.next().expect("the registry says where it listens").unwrap();
        if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
            break rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
        }
    };
    // It writes on for as long as it lives; a full pipe would stop it.
    std::thread::spawn(move || lines.for_each(drop));
    Registry { child, port }
}

/// Writes `lib/app:1` as the registry would after a push.
fn fill(directory: &Path) {
    let root = directory.join("docker/registry/v2");
    let layer = layer();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(&layer)
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","digest":"{}","size":{}}}]}}"#,
        Digest::of(config.as_bytes()),
        config.len(),
        Digest::of(&layer),
        layer.len()
    );
    let write = |path: &str, content: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    for blob in [layer.as_slice(), config.as_bytes(), manifest.as_bytes()] {
        let digest = Digest::of(blob);
        write(&format!("blobs/sha256/{}/{}/data", &digest.hex()[..2], digest.hex()), blob);
        write(
            &format!("repositories/lib/app/_layers/sha256/{}/link", digest.hex()),
            digest.as_str().as_bytes(),
        );
    }
    let digest = Digest::of(manifest.as_bytes());
    let manifests = "repositories/lib/app/_manifests";
    write(&format!("{manifests}/revisions/sha256/{}/link", digest.hex()), digest.as_str().as_bytes());
    write(&format!("{manifests}/tags/1/current/link"), digest.as_str().as_bytes());
}

fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    tar.append_data(&mut header, "hello", &b"hello"[..]).unwrap();
    tar.into_inner().unwrap()
}

fn missing() -> bool {
    let missing = !rustix::process::geteuid().is_root() || !Path::new(REGISTRY).exists();
    if missing {
        eprintln!("skipped: needs root and docker-registry");
    }
    missing
}

async fn pull(
    store: &Path,
    registry: &Registry,
    credentials: Vec<Credentials>,
) -> Result<runtime::Image, String> {
    let store = Arc::new(ImageStore::open(store).unwrap());
    let name = format!("localhost:{}/lib/app:1", registry.port);
    let pulled = store.pull(&name, &Registries::default(), credentials, Arc::new(Silent)).await;
    pulled.map_err(|e| e.to_string())
}

#[tokio::test]
async fn an_image_is_pulled_from_the_reference_registry() {
    if missing() {
        return;
    }
    let (directory, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(directory.path());
    let registry = start(directory.path(), "");
    let image = pull(store.path(), &registry, Vec::new()).await.unwrap();
    let hex = image.layers[0].strip_prefix("sha256:").unwrap();
    let hello = store.path().join("images/layers").join(hex).join("fs/hello");
    assert_eq!(fs::read(hello).unwrap(), b"hello");
}

#[tokio::test]
async fn the_reference_registry_takes_our_login() {
    if missing() {
        return;
    }
    let (directory, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(directory.path());
    let passwords = directory.path().join("htpasswd");
    fs::write(&passwords, HTPASSWD).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", passwords.display());
    let registry = start(directory.path(), &auth);
    let denied = pull(store.path(), &registry, Vec::new()).await.unwrap_err();
    assert!(
        denied.contains("pull access denied, repository does not exist or may require authorization"),
        "{denied}"
    );
    let ann = Credentials { username: "ann".into(), password: "secret".into(), ..Default::default() };
    pull(store.path(), &registry, vec![ann]).await.unwrap();
}
