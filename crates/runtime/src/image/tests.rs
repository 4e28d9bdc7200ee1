//! The store as a whole, fed with archives made by hand, honest and hostile.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;

/// A tar made entry by entry, paths unchecked: the tar crate would refuse the hostile ones.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Tar(tar::Builder::new(Vec::new()))
    }

    fn header(name: &str, kind: tar::EntryType, size: usize, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_cksum();
        header
    }

    pub(crate) fn file(mut self, name: &str, content: &[u8], mode: u32) -> Self {
        let header = Self::header(name, tar::EntryType::Regular, content.len(), mode);
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn directory(mut self, name: &str, mode: u32) -> Self {
        self.0.append(&Self::header(name, tar::EntryType::Directory, 0, mode), &b""[..]).unwrap();
        self
    }

    pub(crate) fn link(mut self, kind: tar::EntryType, name: &str, target: &str) -> Self {
        let mut header = Self::header(name, kind, 0, 0o777);
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
        self
    }

    fn owned_file(mut self, name: &str, uid: u64, gid: u64, mode: u32) -> Self {
        let mut header = Self::header(name, tar::EntryType::Regular, 0, mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_cksum();
        self.0.append(&header, &b""[..]).unwrap();
        self
    }

    fn extensions(mut self, pairs: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(pairs.iter().copied()).unwrap();
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A docker-archive of one image.
pub(crate) fn docker_archive(tags: &[&str], layers: &[Vec<u8>], run: &str) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| format!("\"{}\"", Digest::of(l))).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{run},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let names: Vec<String> = (0..layers.len()).map(|n| format!("\"{n}/layer.tar\"")).collect();
    let tags: Vec<String> = tags.iter().map(|t| format!("\"{t}\"")).collect();
    let manifest =
        format!(r#"[{{"Config":"c.json","RepoTags":[{}],"Layers":[{}]}}]"#, tags.join(","), names.join(","));
    let mut archive = Tar::new();
    for (n, layer) in layers.iter().enumerate() {
        archive = archive.file(&format!("{n}/layer.tar"), layer, 0o644);
    }
    archive.file("c.json", config.as_bytes(), 0o644).file("manifest.json", manifest.as_bytes(), 0o644).bytes()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: unpacking layers needs root");
    }
    root
}

pub(crate) fn store(directory: &tempfile::TempDir) -> ImageStore {
    ImageStore::open(directory.path()).unwrap()
}

fn import_layer(layer: Vec<u8>) -> (tempfile::TempDir, Result<std::path::PathBuf, ImageError>) {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    let diff_id = Digest::of(&layer);
    let archive = docker_archive(&["t:1"], &[layer], "{}");
    let result = store.import(archive.as_slice(), &ImportOptions::default());
    let path = result.and_then(|_| store.layer_directory(diff_id.as_str()));
    (directory, path)
}

fn names_in(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_nothing_half_made(directory: &tempfile::TempDir) {
    let images = directory.path().join("images");
    assert_eq!(names_in(&images.join("ingest")), [""; 0]);
    assert_eq!(names_in(&images.join("layers")), [""; 0]);
    assert!(!images.join("index.json").exists());
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0u8; 64];
    let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn owners_modes_links_and_times_survive() {
    if !is_root() {
        return;
    }
    let layer = Tar::new()
        .directory("./", 0o755)
        .directory("./tmp/", 0o1777)
        .owned_file("./bin/su", 0, 42, 0o4755)
        .owned_file("./home/user", 1000, 1001, 0o600)
        .link(tar::EntryType::Link, "./bin/su2", "./bin/su")
        .link(tar::EntryType::Symlink, "./bin/sh", "/bin/busybox")
        .link(tar::EntryType::Fifo, "./fifo", "")
        .extensions(&[
            ("mtime", b"12.5"),
            ("SCHILY.xattr.user.note", b"hi"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/x"),
        ])
        .file("./noted", b"x", 0o644)
        .bytes();
    let (_directory, path) = import_layer(layer);
    let path = path.unwrap();
    let su = fs::metadata(path.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()), (0o4755, 0, 42, 2));
    assert_eq!(fs::metadata(path.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(path.join("tmp")).unwrap().mtime(), 1_000_000_000);
    let user = fs::metadata(path.join("home/user")).unwrap();
    assert_eq!((user.uid(), user.gid(), user.mode() & 0o7777), (1000, 1001, 0o600));
    assert_eq!(fs::metadata(path.join("home")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(path.join("bin/sh")).unwrap(), Path::new("/bin/busybox"));
    assert!(fs::metadata(path.join("fifo")).unwrap().file_type().is_fifo());
    let noted = fs::metadata(path.join("noted")).unwrap();
    assert_eq!((noted.mtime(), noted.mtime_nsec()), (12, 500_000_000));
    assert_eq!(xattr(&path.join("noted"), "user.note").as_deref(), Some(&b"hi"[..]));
    assert_eq!(xattr(&path.join("noted"), "trusted.overlay.redirect"), None);
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_beside() {
    if !is_root() {
        return;
    }
    let layer = Tar::new()
        .file("gone/.wh.file", b"", 0o644)
        .directory("fresh", 0o755)
        .file("fresh/.wh..wh..opq", b"", 0o644)
        .file("fresh/new", b"", 0o644)
        .file(".wh.before", b"", 0o644)
        .directory("before", 0o755)
        .directory("after", 0o755)
        .file("after/kept", b"", 0o644)
        .file(".wh.after", b"", 0o644)
        .file(".wh..wh.plnk", b"", 0o644)
        .bytes();
    let (_directory, path) = import_layer(layer);
    let path = path.unwrap();
    let whiteout = fs::symlink_metadata(path.join("gone/file")).unwrap();
    assert!(whiteout.file_type().is_char_device());
    assert_eq!(whiteout.rdev(), 0);
    for opaque in ["fresh", "before", "after"] {
        assert_eq!(
            xattr(&path.join(opaque), "trusted.overlay.opaque").as_deref(),
            Some(&b"y"[..]),
            "{opaque}"
        );
    }
    assert_eq!(names_in(&path.join("after")), ["kept"]);
    assert_eq!(names_in(&path), ["after", "before", "fresh", "gone"]);
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_any_kind() {
    if !is_root() {
        return;
    }
    let layer = Tar::new()
        .directory("a", 0o755)
        .file("a/deep", b"x", 0o644)
        .file("a", b"now a file", 0o644)
        .link(tar::EntryType::Symlink, "b", "/etc")
        .directory("b", 0o700)
        .file("b/c", b"", 0o644)
        .bytes();
    let (_directory, path) = import_layer(layer);
    let path = path.unwrap();
    assert_eq!(fs::read(path.join("a")).unwrap(), b"now a file");
    assert_eq!(names_in(&path.join("b")), ["c"]);
}

#[test]
fn no_entry_leaves_the_layer() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let hostile = [
        Tar::new().file("../evil", b"x", 0o644),
        Tar::new().file("a/../../evil", b"x", 0o644),
        Tar::new().link(tar::EntryType::Link, "passwd", "../../../../../../etc/passwd"),
        Tar::new().link(tar::EntryType::Link, "passwd", "/etc/passwd"),
        Tar::new().file(".wh...", b"", 0o644),
        Tar::new().file(".wh.", b"", 0o644),
        Tar::new().link(tar::EntryType::Symlink, "out", target).file("out/evil", b"x", 0o644),
        Tar::new().link(tar::EntryType::Symlink, "out", target).link(tar::EntryType::Link, "in", "out/x"),
        Tar::new().link(tar::EntryType::Symlink, "out", target).file("out/.wh.x", b"", 0o644),
        Tar::new().link(tar::EntryType::Symlink, "out", target).file("out/.wh..wh..opq", b"", 0o644),
        Tar::new().link(tar::EntryType::Symlink, "out", "/proc/self/root").directory("out/etc/evil", 0o755),
    ];
    for tar in hostile {
        let (directory, result) = import_layer(tar.bytes());
        let error = result.expect_err("a hostile layer was taken").to_string();
        assert!(error.starts_with("refused entry"), "{error}");
        assert_nothing_half_made(&directory);
    }
    assert_eq!(names_in(outside.path()), [""; 0]);
}

#[test]
fn a_link_to_the_root_stays_in_the_layer() {
    if !is_root() {
        return;
    }
    let layer = Tar::new()
        .directory("etc", 0o755)
        .link(tar::EntryType::Symlink, "x", "/etc")
        .file("x/monopod-test-entry", b"inside", 0o644)
        .file("/abs", b"inside", 0o644)
        .bytes();
    let (_directory, path) = import_layer(layer);
    let path = path.unwrap();
    assert_eq!(fs::read(path.join("etc/monopod-test-entry")).unwrap(), b"inside");
    assert_eq!(fs::read(path.join("abs")).unwrap(), b"inside");
    assert!(!Path::new("/etc/monopod-test-entry").exists());
}

#[test]
fn too_many_entries_and_too_many_bytes_are_refused() {
    if !is_root() {
        return;
    }
    let limits = Limits { entries: 2, bytes: 10, archive_entries: 100 };
    let many = Tar::new().directory("a", 0o755).directory("b", 0o755).directory("c", 0o755).bytes();
    let large = Tar::new().file("a", &[0; 11], 0o644).bytes();
    for layer in [many, large] {
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory).with_limits(limits);
        let archive = docker_archive(&["t:1"], &[layer], "{}");
        let error = store.import(archive.as_slice(), &ImportOptions::default()).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { .. }), "{error}");
        assert_nothing_half_made(&directory);
    }
}

/// A file of so many zeros that takes one block of the archive.
fn sparse(name: &str, length: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_size(0);
    for id in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
        id(&mut header, 0);
    }
    let octal = |number: u64| format!("{number:011o}\0");
    let gnu = header.as_gnu_mut().unwrap();
    gnu.realsize.copy_from_slice(octal(length).as_bytes());
    gnu.sparse[0].offset.copy_from_slice(octal(length).as_bytes());
    gnu.sparse[0].numbytes.copy_from_slice(octal(0).as_bytes());
    header.set_cksum();
    [header.as_bytes().as_slice(), &[0; 1024]].concat()
}

#[test]
fn a_layer_that_would_fill_the_disk_is_refused_before_it_is_written() {
    if !is_root() {
        return;
    }
    // A small disk in a mount namespace of its own: nothing of it stays, whatever happens.
    let work = || {
        sys::namespace::unshare(sys::namespace::Namespaces::MOUNT).unwrap();
        sys::mount::make_all_private().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let disk = sys::mount::Detached::new("tmpfs", &[("size", "64m")], sys::mount::Attributes::NONE);
        disk.unwrap().attach_at(directory.path()).unwrap();
        let store = store(&directory);
        let used = || {
            let disk = rustix::fs::statvfs(directory.path()).unwrap();
            (disk.f_blocks - disk.f_bfree) * disk.f_frsize
        };
        let before = used();
        let bomb = sparse("bomb", 1 << 30);
        let diff_id = Digest::of(&bomb);
        let import = |layer: Vec<u8>| {
            let archive = docker_archive(&["t:1"], &[layer], "{}");
            store.import(archive.as_slice(), &ImportOptions::default()).map(drop)
        };
        let error = import(bomb).unwrap_err().to_string();
        assert!(error.starts_with(&format!("failed to extract layer {diff_id}: write ")), "{error}");
        assert!(error.ends_with(": no space left on device"), "{error}");
        assert_nothing_half_made(&directory);
        assert!(used() <= before + (1 << 20), "{} bytes are still used", used() - before);
        // Many files that fit one by one do not fit all.
        let mut many = Vec::new();
        for number in 0..80 {
            let file = sparse(&format!("f{number}"), 1 << 20);
            many.extend_from_slice(&file[..512]);
        }
        many.extend_from_slice(&[0; 1024]);
        assert!(import(many).unwrap_err().to_string().ends_with(": no space left on device"));
        assert!(used() <= before + (1 << 20));
        import(sparse("small", 1 << 20)).unwrap();
        drop(store);
        sys::mount::detach(directory.path()).unwrap();
    };
    std::thread::spawn(work).join().unwrap();
}

#[test]
fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let lie = docker_archive(&["t:1"], &[Tar::new().file("a", b"truth", 0o644).bytes()], "{}");
    let at = lie.windows(5).position(|w| w == b"truth").unwrap();
    let mut lie = lie;
    lie[at..at + 5].copy_from_slice(b"lie!!");
    let error = store(&directory).import(lie.as_slice(), &ImportOptions::default()).unwrap_err();
    assert!(error.to_string().starts_with("unexpected digest of uncompressed layer"), "{error}");
    assert_nothing_half_made(&directory);
}

#[test]
fn a_file_that_is_no_archive_is_refused_without_quoting_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).unwrap();
    let text = "root:x:0:0:root:/root:/bin/bash\n".repeat(100);
    let told = store.import(text.as_bytes(), &ImportOptions::default()).unwrap_err().full_text();
    assert!(told.contains("it is no tar archive") && !told.contains("root"), "{told}");
}

#[test]
fn broken_archives_are_errors_and_leave_nothing() {
    let good = docker_archive(&["t:1"], &[Tar::new().file("a", b"x", 0o644).bytes()], "{}");
    let gz = gzip(&good);
    let broken: [&[u8]; 6] = [
        b"",
        b"not a tar at all, but longer than a magic number",
        &good[..700],
        &gz[..gz.len() / 2],
        b"\xfd7zXZ\0xxxxxxxxxxxxxxxx",
        &Tar::new().file("manifest.json", b"{", 0o644).bytes(),
    ];
    for archive in broken {
        let directory = tempfile::tempdir().unwrap();
        let error = store(&directory).import(archive, &ImportOptions::default()).unwrap_err();
        assert!(matches!(error, ImageError::Malformed { .. }), "{error}");
        assert_nothing_half_made(&directory);
    }
}

#[test]
fn an_exported_image_comes_back_with_the_same_id_and_names() {
    if !is_root() {
        return;
    }
    let first = tempfile::tempdir().unwrap();
    let layers = [Tar::new().file("a", b"x", 0o644).bytes()];
    let archive = docker_archive(&["one:1", "one:latest"], &layers, r#"{"Cmd":["sh"],"Env":["A=b"]}"#);
    let compressed = zstd::encode_all(gzip(&archive).as_slice(), 1);
    // One wrapping only is undone: a tar.gz in a zst is no archive.
    assert!(store(&first).import(compressed.unwrap().as_slice(), &ImportOptions::default()).is_err());
    let images = store(&first).import(gzip(&archive).as_slice(), &ImportOptions::default()).unwrap();
    assert_eq!(images[0].repo_tags, ["docker.io/library/one:1", "docker.io/library/one:latest"]);
    assert_eq!((images[0].cmd.as_slice(), images[0].pinned), (&["sh".to_owned()][..], true));
    let mut exported = Vec::new();
    store(&first).export(&[images[0].id.clone()], &mut exported).unwrap();

    let second = tempfile::tempdir().unwrap();
    let again = store(&second).import(exported.as_slice(), &ImportOptions::default()).unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].id, images[0].id);
    assert_eq!(again[0].repo_digests, images[0].repo_digests);
    let mut tags = again[0].repo_tags.clone();
    tags.sort();
    assert_eq!(tags, images[0].repo_tags);
}

#[test]
fn a_store_sees_what_another_has_changed() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (daemon, command) = (store(&directory), store(&directory));
    assert_eq!(daemon.find("busybox").unwrap(), None);
    let archive = docker_archive(&["busybox"], &[Tar::new().file("a", b"", 0o644).bytes()], "{}");
    let image = command.import(archive.as_slice(), &ImportOptions::default()).unwrap().remove(0);
    assert_eq!(image.repo_digests, [] as [&str; 0], "no registry has given it a digest");
    let (_, manifest) = daemon.content_of(&image.id).unwrap();
    let by_digest = format!("busybox@{manifest}");
    for name in ["busybox", "docker.io/library/busybox:latest", &image.id, &image.id[7..20], &by_digest] {
        assert_eq!(daemon.find(name).unwrap().as_ref(), Some(&image), "{name}");
    }
    assert!(daemon.find("Bad Name").is_err());
    command.remove("busybox").unwrap();
    assert_eq!(daemon.list().unwrap(), []);
    assert_eq!(names_in(&directory.path().join("images/layers")), [""; 0]);
    assert_eq!(names_in(&directory.path().join("images/blobs/sha256")), [""; 0]);
}

#[test]
fn a_used_image_is_kept_until_its_lease_ends() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    let archive = docker_archive(&["a:1", "a:2"], &[Tar::new().file("a", b"", 0o644).bytes()], "{}");
    let image = store.import(archive.as_slice(), &ImportOptions::default()).unwrap().remove(0);
    store.lease("container", "a:1").unwrap();
    store.lease("container", "a:1").unwrap();
    assert_eq!(store.remove("a:2").unwrap().untagged, ["docker.io/library/a:2"]);
    let error = store.remove("a:1").unwrap_err();
    assert_eq!(error.to_string(), "image a:1 is in use by container container");
    assert!(matches!(store.remove(&image.id), Err(ImageError::InUse { .. })));
    assert_eq!(store.prune(true).unwrap().images, [""; 0]);
    store.release("container").unwrap();
    assert_eq!(store.remove("a:1").unwrap().deleted, Some(image.id));
    assert!(matches!(store.lease("container", "a:1"), Err(ImageError::NotFound(_))));
}

#[test]
fn what_a_killed_import_left_is_swept_and_what_a_living_one_makes_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    let ingest = directory.path().join("images/ingest");
    {
        let living = store.adding().unwrap();
        fs::write(living.scratch("f"), b"x").unwrap();
        ImageStore::open(directory.path()).unwrap();
        assert!(living.scratch("f").exists());
        // As kill -9 would have it: the lock goes, the files stay.
        let copy = ingest.join("t-dead");
        fs::create_dir(&copy).unwrap();
        fs::write(copy.join("f"), b"x").unwrap();
    }
    assert_eq!(names_in(&ingest), ["t-dead"]);
    ImageStore::open(directory.path()).unwrap();
    assert_eq!(names_in(&ingest), [""; 0]);
    let mode = fs::metadata(directory.path().join("images")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_tag_moves_to_the_newer_image_and_the_older_is_pruned() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    for content in [b"old", b"new"] {
        let archive = docker_archive(&["app:1"], &[Tar::new().file("a", content, 0o644).bytes()], "{}");
        store.import(archive.as_slice(), &ImportOptions::default()).unwrap();
    }
    let images = store.list().unwrap();
    assert_eq!(images.iter().map(|i| i.repo_tags.len()).sum::<usize>(), 1);
    let pruned = store.prune(false).unwrap();
    assert_eq!(pruned.images.len(), 1);
    assert!(pruned.bytes > 0);
    let left = store.list().unwrap();
    assert_eq!((left.len(), left[0].repo_tags.len()), (1, 1));
}
