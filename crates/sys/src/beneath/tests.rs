//! Walks, removals and writes in trees that somebody hostile moves about meanwhile.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Access, RenameFlags, accessat, renameat_with};

use super::*;
use crate::mount::{Attributes, Detached};

/// A chain of directories, deeper than any path can name.
fn dig(top: &Path, depth: u32) {
    let mut at = openat(CWD, top, READ, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = openat(&at, "d", READ, Mode::empty()).unwrap();
        openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }
}

/// In a mount namespace of its own, so that nothing of it is left whatever happens.
fn with_own_mounts(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let inside = || {
        crate::namespace::unshare(crate::namespace::Namespaces::MOUNT).unwrap();
        crate::mount::make_all_private().unwrap();
        test();
    };
    std::thread::spawn(inside).join().unwrap();
}

#[test]
fn a_tree_deeper_than_any_path_is_counted_and_removed() {
    // In memory: sixty thousand inodes are a matter of minutes on a busy disk.
    with_own_mounts(|| {
        let home = tempfile::tempdir().unwrap();
        Detached::new("tmpfs", &[], Attributes::NONE).unwrap().attach_at(home.path()).unwrap();
        let top = home.path().join("top");
        fs::create_dir_all(top.join("beside/it")).unwrap();
        dig(&top, 30_000);
        // On a stack that a recursion would overflow.
        let work = move || {
            assert_eq!(crate::disk::usage(&top).unwrap().inodes, 60_002);
            remove_tree(&top).unwrap();
            assert!(!top.exists());
            remove_tree(&top).unwrap();
            remove_tree(&top.join("below/nothing")).unwrap();
        };
        let done = std::thread::Builder::new().stack_size(256 << 10).spawn(work).unwrap().join();
        // What is left of the tree goes with its file system.
        crate::mount::detach(home.path()).unwrap();
        done.unwrap();
    });
}

#[test]
fn links_are_removed_and_what_they_lead_to_stays() {
    let home = tempfile::tempdir().unwrap();
    let (outside, top) = (home.path().join("outside"), home.path().join("top"));
    fs::create_dir_all(outside.join("kept")).unwrap();
    fs::create_dir_all(top.join("deep")).unwrap();
    for link in ["link", "deep/link"] {
        symlink(&outside, top.join(link)).unwrap();
    }
    remove_tree(&top).unwrap();
    assert!(!top.exists() && outside.join("kept").is_dir());
    symlink(&outside, &top).unwrap();
    remove_tree(&top).unwrap();
    assert!(fs::symlink_metadata(&top).is_err() && outside.join("kept").is_dir());
    fs::write(&top, "a file").unwrap();
    remove_tree(&top).unwrap();
    assert!(!top.exists());
}

#[test]
fn a_removal_goes_around_what_is_mounted_and_names_it() {
    with_own_mounts(|| {
        let home = tempfile::tempdir().unwrap();
        let (top, host) = (home.path().join("top"), home.path().join("host"));
        fs::create_dir_all(top.join("a/mounted")).unwrap();
        fs::create_dir_all(top.join("b/c")).unwrap();
        fs::create_dir(&host).unwrap();
        fs::write(host.join("precious"), "").unwrap();
        Detached::bind(&host, crate::mount::Depth::This).unwrap().attach_at(&top.join("a/mounted")).unwrap();
        let error = remove_tree(&top).unwrap_err();
        assert_eq!(error.errno, Errno::BUSY);
        assert!(error.attempt.ends_with("top/a/mounted"), "{error}");
        assert!(host.join("precious").exists() && !top.join("b").exists());
        let root = Directory::open(&top).unwrap();
        assert_eq!(root.directory("a/mounted").unwrap_err().errno, Errno::XDEV);
        crate::mount::detach(&top.join("a/mounted")).unwrap();
        remove_tree(&top).unwrap();
        assert!(host.join("precious").exists() && !top.exists());
    });
}

#[test]
fn a_removal_ends_though_somebody_moves_the_tree_about() {
    let home = tempfile::tempdir().unwrap();
    let top = home.path().join("top");
    let outside = home.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("precious"), "").unwrap();
    fs::create_dir(&top).unwrap();
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let swapper = {
        let (top, outside, stop) = (top.clone(), outside.clone(), stop.clone());
        std::thread::spawn(move || {
            let swap = |a: &Path, b: &Path| renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
            while !stop.load(Ordering::Relaxed) {
                // Everything of it may be gone at any time.
                let _ = fs::create_dir_all(top.join("a/b/c"));
                let _ = symlink(&outside, top.join("a/link"));
                let _ = swap(&top.join("a/link"), &top.join("a/b"));
                let _ = fs::rename(top.join("a/b"), top.join("moved"));
            }
        })
    };
    for _ in 0..300 {
        // It may be filled anew; that is an error, never a way out.
        let _ = Directory::open(&top).and_then(|top| top.empty());
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(outside.join("precious").exists());
    remove_tree(&top).unwrap();
    assert!(!top.exists());
}

#[test]
fn a_path_below_leads_neither_out_nor_through_links_unless_asked() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("root");
    fs::create_dir_all(root.join("dir")).unwrap();
    fs::write(root.join("dir/file"), "content").unwrap();
    fs::write(home.path().join("secret"), "").unwrap();
    symlink("dir", root.join("inner")).unwrap();
    symlink("../secret", root.join("out")).unwrap();
    symlink("/dir/file", root.join("absolute")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    let root = Directory::open(&root).unwrap();
    let look = |path: &str, links| root.lookup(path, OFlags::PATH, links, Mounts::Stay).map(drop);
    for path in ["../secret", "out", "/etc", "inner/file"] {
        assert!(look(path, Links::Refused).is_err(), "{path}");
    }
    assert_eq!(look("dir/file", Links::Refused), Ok(()));
    assert_eq!(look("inner/file", Links::Beneath), Ok(()));
    assert_eq!(look("out", Links::Beneath), Err(Errno::XDEV));
    assert_eq!(look("absolute", Links::Beneath), Err(Errno::XDEV));
    assert_eq!(look("absolute", Links::Inside), Ok(()));
    assert_eq!(look("out", Links::Inside), Err(Errno::NOENT));
    let magic = Directory::open(Path::new("/proc/self")).unwrap();
    let error = magic.lookup("root", OFlags::PATH, Links::Inside, Mounts::Cross).unwrap_err();
    assert_eq!(error, Errno::LOOP);
}

#[test]
fn only_regular_files_are_read_and_nothing_waits() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("file"), "x").unwrap();
    symlink("file", home.path().join("link")).unwrap();
    let root = Directory::open(home.path()).unwrap();
    rustix::fs::mknodat(&root, "fifo", FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert!(root.file("file").is_ok());
    for name in ["link", "fifo", ".", "missing", "../x"] {
        assert!(root.file(name).is_err(), "{name}");
    }
}

#[test]
fn a_link_replaces_whatever_stands_under_its_name() {
    let home = tempfile::tempdir().unwrap();
    let root = Directory::open(home.path()).unwrap();
    fs::create_dir_all(home.path().join("a/b")).unwrap();
    fs::write(home.path().join("f"), "").unwrap();
    symlink("/etc", home.path().join("a_tmp")).unwrap();
    for name in ["a", "f", "new", "new"] {
        root.replace_link(name, Path::new("target"), "a_tmp").unwrap();
        assert_eq!(root.read_link(name).unwrap(), Some("target".into()));
    }
    assert_eq!(root.read_link("nothing").unwrap(), None);
    for name in ["..", "a/b", ""] {
        assert_eq!(
            root.replace_link(name, Path::new("x"), "a_tmp").unwrap_err().errno,
            Errno::INVAL,
            "{name}"
        );
    }
}

#[test]
fn directories_and_files_are_made_with_their_modes_and_never_through_links() {
    let home = tempfile::tempdir().unwrap();
    let root = Directory::open(home.path()).unwrap();
    root.make_directory("d", 0o2775).unwrap().make_file("f", 0o666).unwrap();
    assert_eq!(fs::metadata(home.path().join("d")).unwrap().permissions().mode() & 0o7777, 0o2775);
    assert_eq!(fs::metadata(home.path().join("d/f")).unwrap().permissions().mode() & 0o7777, 0o666);
    assert!(root.make_directory("d", 0o700).is_ok(), "one that is there serves");
    symlink("d", home.path().join("link")).unwrap();
    assert!(root.make_directory("link", 0o700).is_err());
    assert!(root.make_file("link", 0o600).is_err());
}

/// Gives everything another mode and writes down the order.
struct Order(Vec<String>);

impl Visit for Order {
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(), Errno> {
        let item = Item::take(directory, name)?;
        if item.kind() != FileType::Symlink {
            item.set_mode(0o604)?;
        }
        self.0.push(name.to_str().unwrap().to_owned());
        Ok(())
    }

    fn directory(&mut self, directory: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
        let has = |name| accessat(directory, name, Access::EXISTS, AtFlags::empty()).is_ok();
        self.0.push(if has("b") { "root" } else { "directory" }.to_owned());
        Ok(())
    }
}

#[test]
fn a_walk_meets_the_root_last_and_changes_no_target_of_a_link() {
    let home = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::create_dir(home.path().join("b")).unwrap();
    fs::write(home.path().join("b/file"), "").unwrap();
    symlink(outside.path(), home.path().join("b/link")).unwrap();
    symlink("/", home.path().join("slash")).unwrap();
    let mut order = Order(Vec::new());
    walk(&Directory::open(home.path()).unwrap(), &mut order).unwrap();
    assert_eq!(order.0.last().unwrap(), "root");
    order.0.sort();
    assert_eq!(order.0, ["directory", "file", "link", "root", "slash"]);
    assert_eq!(fs::metadata(home.path().join("b/file")).unwrap().permissions().mode() & 0o777, 0o604);
    assert_eq!(fs::metadata(outside.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Gives everything to a group.
struct Regroup;

impl Visit for Regroup {
    fn entry(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(), Errno> {
        Item::take(directory, name)?.set_owner(None, Some(4711))
    }

    fn directory(&mut self, directory: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
        rustix::fs::fchown(directory, None, Some(Gid::from_raw(4711)))
    }
}

#[test]
fn links_that_are_exchanged_with_directories_lead_no_walk_out() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (top, outside) = (home.path().join("top"), home.path().join("outside"));
    fs::create_dir_all(top.join("dir")).unwrap();
    fs::create_dir(&outside).unwrap();
    for number in 0..50 {
        fs::write(top.join("dir").join(number.to_string()), "").unwrap();
        fs::write(outside.join(number.to_string()), "").unwrap();
    }
    symlink(&outside, top.join("link")).unwrap();
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let swapper = {
        let (top, stop) = (top.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (top.join("dir"), top.join("link"));
                renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).unwrap();
            }
        })
    };
    for _ in 0..500 {
        walk(&Directory::open(&top).unwrap(), &mut Regroup).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    for number in 0..50 {
        assert_ne!(fs::metadata(outside.join(number.to_string())).unwrap().gid(), 4711);
    }
    assert_ne!(fs::metadata(&outside).unwrap().gid(), 4711);
}

#[test]
fn an_own_mount_on_the_way_is_crossed_only_when_asked() {
    with_own_mounts(|| {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("m")).unwrap();
        let tmpfs = Detached::new("tmpfs", &[], Attributes::NONE).unwrap();
        tmpfs.attach_at(&home.path().join("m")).unwrap();
        let root = Directory::open(home.path()).unwrap();
        let look = |mounts| root.lookup("m", OFlags::PATH, Links::Refused, mounts).map(drop);
        assert_eq!((look(Mounts::Stay), look(Mounts::Cross)), (Err(Errno::XDEV), Ok(())));
        crate::mount::detach(&home.path().join("m")).unwrap();
    });
}
