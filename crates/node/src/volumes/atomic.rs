//! A directory of files that changes all at once.
//!
//! ```text
//! volume/key      -> ..data/key
//! volume/..data   -> ..2026_01_02_03_04_05.678      (replaced by one rename)
//! volume/..2026_01_02_03_04_05.678/key
//! ```
//!
//! The layout is the kubelet's; programs that watch `..data` rely on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path};

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

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
/// directory and must differ from the last.
pub fn write(target: &Path, files: &Files, stamp: &str) -> io::Result<bool> {
    if let Some(bad) = files.keys().find(|path| !is_safe(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {bad:?}")));
    }
    let data = target.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.is_some() && shows(&data, files) {
        return Ok(false);
    }
    let fresh = format!("..{stamp}");
    write_all(&target.join(&fresh), files)?;
    let next = target.join(DATA_NEXT);
    match fs::remove_file(&next) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    symlink(&fresh, &next)?;
    fs::rename(&next, &data)?;
    link_names(target, files)?;
    if let Some(old) = old.filter(|old| *old != Path::new(&fresh)) {
        fs::remove_dir_all(target.join(old))?;
    }
    Ok(true)
}

/// Relative, no `..`, and no name of ours.
fn is_safe(path: &str) -> bool {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    !path.is_empty() && plain && !path.starts_with("..")
}

/// Whether the directory shows these files already.
fn shows(data: &Path, files: &Files) -> bool {
    let present = list(data, Path::new(""));
    present.is_ok_and(|present| present.len() == files.len())
        && files.iter().all(|(path, file)| fs::read(data.join(path)).is_ok_and(|bytes| bytes == file.data))
}

fn list(root: &Path, below: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            all.extend(list(root, &path)?);
        } else {
            all.push(path);
        }
    }
    Ok(all)
}

fn write_all(directory: &Path, files: &Files) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    open_to_all(directory)?;
    for (path, file) in files {
        let place = directory.join(path);
        let mut parent = directory.to_path_buf();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            fs::create_dir_all(&parent)?;
            open_to_all(&parent)?;
        }
        fs::write(&place, &file.data)?;
        // The umask must not narrow what the Pod asked for.
        fs::set_permissions(&place, fs::Permissions::from_mode(file.mode))?;
        if let Some(owner) = file.owner {
            chown(&place, Some(owner), None)?;
        }
    }
    Ok(())
}

fn open_to_all(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

/// One link per first part of a path; links to what is gone are removed.
fn link_names(target: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = target.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn paths_that_leave_the_volume_are_refused() {
        let target = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "", "..x"] {
            assert!(write(target.path(), &files(&[(path, "1")]), "one").is_err(), "{path}");
        }
    }
}
