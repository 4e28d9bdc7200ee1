//! A disk that is full, while an image comes in and while something is written.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Instance, data_directory, program, test_image};

/// A small disk of its own as data directory. Declared before the instance that lives there: dropped after it.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn new(size: &str) -> (Self, tempfile::TempDir) {
        let dir = data_directory();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "monopod-test"])
            .arg(dir.path())
            .status();
        assert!(mount.expect("mount runs").success());
        (SmallDisk(dir.path().to_path_buf()), dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(&self.0).output().is_ok_and(|out| out.status.success());
        let _ = std::fs::remove_dir(&self.0);
        if !unmounted && !std::thread::panicking() {
            panic!("something still uses {}", self.0.display());
        }
    }
}

/// Writes until nothing more fits.
fn fill(file: &Path) {
    let mut file = File::create(file).expect("created");
    for size in [1 << 20, 4096, 1] {
        let block = vec![0x5a; size];
        while file.write_all(&block).is_ok() {}
    }
}

#[test]
fn an_import_that_does_not_fit_leaves_nothing() {
    let (disk, dir) = SmallDisk::new("12m");
    let monopod = |words: &[&str]| {
        Command::new(program("MONOPOD")).args(words).arg("--data-dir").arg(&disk.0).output().expect("runs")
    };
    let out = monopod(&["image", "import", &test_image("nginx.tar")]);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{err}");
    assert!(err.contains("No space left on device") && err.lines().count() == 1, "{err}");
    let listed = monopod(&["image", "ls", "-o", "json"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim(), "[]");
    // What came in of the large one is gone, so the small one fits.
    let out = monopod(&["image", "import", &test_image("busybox.tar")]);
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    drop(dir);
}

#[test]
fn a_write_that_does_not_fit_is_refused_and_the_server_lives() {
    let (disk, dir) = SmallDisk::new("48m");
    let instance = Instance::start_in(dir, &[], &["--listen", "127.0.0.1:0"]);
    instance.kubectl(&["create", "configmap", "before", "--from-literal=k=v"]).ok();
    let filler = disk.0.join("filler");
    fill(&filler);
    let large = three_quarters();
    // What is already allocated to the store may still be written; what does not fit is refused with a reason.
    let refused = (0..64).find_map(|n| {
        let manifest =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large-{n}}}\ndata: {{k: {large}}}\n");
        let said = instance.kubectl_with(&["create", "-f", "-"], &manifest);
        (said.code != 0).then_some(said.err)
    });
    let refused = refused.expect("a full disk takes no more");
    assert!(refused.contains("no space left on"), "{refused}");
    assert_eq!(instance.field("configmap/before", "{.data.k}"), "v", "reading goes on");

    let ready = instance.kubectl(&["get", "--raw", "/readyz"]).fails();
    assert!(ready.contains("[-]store failed"), "the truth is told: {ready}");
    std::fs::remove_file(&filler).expect("removed");
    instance.eventually("a write after room was made", || {
        let said = instance.kubectl(&["create", "configmap", "after", "--from-literal=k=w"]);
        if said.code == 0 || said.err.contains("already exists") { Ok(()) } else { Err(said.err) }
    });
    assert_eq!(instance.field("configmap/after", "{.data.k}"), "w");
    assert_eq!(instance.kubectl(&["get", "--raw", "/readyz"]).ok(), "ok");
}

/// Three quarters of a MiB, the most that a ConfigMap comfortably takes.
fn three_quarters() -> String {
    "x".repeat(768 * 1024)
}
