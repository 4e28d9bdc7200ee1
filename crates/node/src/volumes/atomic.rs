//! A directory of files that changes all at once.
//!
//! ```text
//! volume/key      -> ..data/key
//! volume/..data   -> ..2026_01_02_03_04_05.678      (replaced by one rename)
//! volume/..2026_01_02_03_04_05.678/key
//! ```
//!
//! The layout is the kubelet's; programs that watch `..data` rely on it. Containers see it
//! read-only, and still nothing in it is believed: whoever may mount can make his own view of it
//! writable. Every step goes by descriptor from the volume's root, a link is replaced and never
//! followed, and `..data` counts only when it is one plain name of a version.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::fchown;
use std::path::{Component, Path};

use sys::beneath::{Directory, Visit, walk};
use sys::{Context, Errno, Error, Result};

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";
const NAME_NEXT: &str = "..name_tmp";

/// Files by path relative to the volume.
pub type Files = BTreeMap<String, File>;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Contents.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner; `None`: root.
    pub owner: Option<u32>,
}

/// Makes `target` show exactly `files`; false when it did already. `stamp` names the new
/// directory and must differ from the last. `own` gives the files to whom they shall belong,
/// before anybody sees them.
///
/// # Errors
/// A path that is none of a volume, or the disk refuses.
pub fn write(
    target: &Path,
    files: &Files,
    stamp: &str,
    own: impl FnOnce(&Directory) -> Result<()>,
) -> Result<bool> {
    if let Some(bad) = files.keys().find(|path| !is_safe(path)) {
        return Err(Error::new(format!("use path {bad:?}"), Errno::INVAL));
    }
    let volume = Directory::open(target)?;
    if version(&volume)?.is_some_and(|version| shows(&volume, &version, files)) {
        return Ok(false);
    }
    let fresh = format!("..{stamp}");
    // What an earlier try has left of that name.
    volume.remove(&fresh)?;
    fill(&volume.make_directory(&fresh, 0o755)?, files)?;
    own(&volume)?;
    volume.replace_link(DATA, Path::new(&fresh), DATA_NEXT)?;
    link_names(&volume, files)?;
    remove_other_versions(&volume, &fresh)?;
    Ok(true)
}

/// Relative, no `..`, and no name of ours.
fn is_safe(path: &str) -> bool {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    !path.is_empty() && plain && !path.starts_with("..")
}

/// The version that is shown; `None` when `..data` is anything but a link to one.
fn version(volume: &Directory) -> Result<Option<OsString>> {
    let target = volume.read_link(DATA)?.map(|target| target.into_os_string());
    Ok(target.filter(|target| {
        let name = target.as_bytes();
        name.len() > 2 && name.starts_with(b"..") && !name.contains(&b'/') && target != DATA
    }))
}

/// Whether the version holds these files and no others already.
fn shows(volume: &Directory, version: &OsStr, files: &Files) -> bool {
    let Ok(data) = volume.directory(version) else { return false };
    let parts = |path: &String| Path::new(path).components().count();
    let mut count = Count { files: files.len(), directories: 1 + files.keys().map(parts).sum::<usize>() };
    walk(&data, &mut count).is_ok()
        && count.files == 0
        && files.iter().all(|(path, file)| holds(&data, path, file) == Some(true))
}

/// How many more there may be: a tree that somebody has filled is not read to its end.
struct Count {
    files: usize,
    directories: usize,
}

impl Visit for Count {
    fn entry(&mut self, _: BorrowedFd<'_>, _: &CStr) -> std::result::Result<(), Errno> {
        self.files = self.files.checked_sub(1).ok_or(Errno::FBIG)?;
        Ok(())
    }

    fn directory(&mut self, _: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
        self.directories = self.directories.checked_sub(1).ok_or(Errno::FBIG)?;
        Ok(())
    }
}

fn holds(data: &Directory, path: &str, file: &File) -> Option<bool> {
    let opened = data.file(path).ok()?;
    let mut bytes = Vec::with_capacity(file.data.len() + 1);
    opened.take(file.data.len() as u64 + 1).read_to_end(&mut bytes).ok()?;
    Some(bytes == file.data)
}

fn fill(version: &Directory, files: &Files) -> Result<()> {
    for (path, file) in files {
        let path = Path::new(path);
        let parents = path.parent().into_iter().flat_map(Path::components);
        let mut made = None;
        for part in parents {
            made = Some(made.as_ref().unwrap_or(version).make_directory(part, 0o755)?);
        }
        let parent = made.as_ref().unwrap_or(version);
        let name = path.file_name().unwrap_or_default();
        let mut opened = parent.make_file(name, file.mode)?;
        opened.write_all(&file.data).on("write", parent.path().join(name))?;
        if let Some(owner) = file.owner {
            fchown(&opened, Some(owner), None).on("chown", parent.path().join(name))?;
        }
    }
    Ok(())
}

/// One link per first part of a path; links to what is gone are removed.
fn link_names(volume: &Directory, files: &Files) -> Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let target = Path::new(DATA).join(name);
        if volume.read_link(name)?.as_deref() != Some(&target) {
            volume.replace_link(name, &target, NAME_NEXT)?;
        }
    }
    volume.names(|name| {
        let known = name.to_str().is_some_and(|name| wanted.contains(name));
        if !known && !name.as_bytes().starts_with(b"..") && volume.read_link(name)?.is_some() {
            volume.remove(name)?;
        }
        Ok(true)
    })
}

/// Removes the version that was shown before, and what a crash has left of others.
fn remove_other_versions(volume: &Directory, shown: &str) -> Result<()> {
    volume.names(|name| {
        if name.as_bytes().starts_with(b"..") && name != DATA && name != shown {
            volume.remove(name)?;
        }
        Ok(true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn write(target: &Path, files: &Files, stamp: &str) -> Result<bool> {
        super::write(target, files, stamp, |_| Ok(()))
    }

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |data: &str| File { data: data.into(), mode: 0o640, owner: None };
        list.iter().map(|(path, data)| (path.to_string(), file(data))).collect()
    }

    fn names(target: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(target)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        names
    }

    #[test]
    fn an_update_replaces_everything_by_one_rename() {
        let target = tempfile::tempdir().unwrap();
        let target = target.path();
        assert!(write(target, &files(&[("a", "1"), ("dir/b", "2")]), "one").unwrap());
        assert_eq!(fs::read_to_string(target.join("dir/b")).unwrap(), "2");
        assert_eq!(fs::metadata(target.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_link(target.join("a")).unwrap(), Path::new("..data/a"));
        assert!(!write(target, &files(&[("a", "1"), ("dir/b", "2")]), "two").unwrap(), "nothing changed");
        assert!(write(target, &files(&[("a", "3"), ("c", "4")]), "three").unwrap());
        assert_eq!(names(target), ["a", "c"]);
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "3");
        assert!(!target.join("..one").exists(), "the old version is removed");
    }

    #[test]
    fn files_belong_to_whom_they_shall_before_they_are_seen() {
        let target = tempfile::tempdir().unwrap();
        let target = target.path();
        write(target, &files(&[("a", "1")]), "one").unwrap();
        super::write(target, &files(&[("a", "2")]), "two", |volume| {
            assert!(volume.file("..two/a").is_ok());
            assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "1");
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "2");
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let target = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "", "..x"] {
            assert!(write(target.path(), &files(&[(path, "1")]), "one").is_err(), "{path}");
        }
    }

    /// What a container that can write to its view of the volume may have made of it.
    #[test]
    fn a_volume_in_hostile_hands_leads_nowhere_and_is_put_right() {
        let home = tempfile::tempdir().unwrap();
        let (target, host) = (home.path().join("volume"), home.path().join("host"));
        for directory in [&target, &host] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(host.join("precious"), "1").unwrap();
        let hostile: [&dyn Fn(); 6] = [
            &|| symlink(&host, target.join("..data")).unwrap(),
            &|| symlink("../host", target.join("..data")).unwrap(),
            &|| symlink("..data", target.join("..data")).unwrap(),
            &|| {
                symlink(&host, target.join("..evil")).unwrap();
                symlink("..evil", target.join("..data")).unwrap();
            },
            &|| fs::create_dir_all(target.join("..data/deep")).unwrap(),
            &|| {
                symlink(&host, target.join("..data_tmp")).unwrap();
                symlink(&host, target.join("..name_tmp")).unwrap();
                fs::remove_file(target.join("precious")).unwrap();
                fs::create_dir(target.join("precious")).unwrap();
            },
        ];
        for (number, make) in hostile.iter().enumerate() {
            let wanted = files(&[("precious", "1"), ("d/x", "2")]);
            make();
            assert!(write(&target, &wanted, &format!("n{number}")).unwrap(), "{number}");
            assert_eq!(fs::read_to_string(target.join("d/x")).unwrap(), "2", "{number}");
            assert_eq!(fs::read_link(target.join("..data")).unwrap(), Path::new(&format!("..n{number}")));
            assert_eq!(fs::read_dir(&host).unwrap().count(), 1, "{number}");
            assert_eq!(fs::read_to_string(host.join("precious")).unwrap(), "1", "{number}");
            fs::remove_file(target.join("..data")).unwrap();
        }
    }
}
