//! Reading a directory of manifests: whatever lies in it, and whoever changes it meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, open, openat};

/// A file with its content, or why it has none.
pub(super) type Found = (PathBuf, Result<Vec<u8>, String>);

/// Longest manifest (upstream's).
const SIZE_MAX: u64 = 10 << 20;

/// The manifests of a directory by name, those that begin with a dot left out. A directory that is not
/// there has none.
pub(super) fn look(directory: &Path) -> Result<Vec<Found>, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = match open(directory, flags, Mode::empty()) {
        Ok(place) => place,
        Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
        Err(err) => return Err(format!("cannot open {}: {err}", directory.display())),
    };
    let names = names(&place).map_err(|err| format!("cannot list {}: {err}", directory.display()))?;
    let found = names.into_iter().filter_map(|name| {
        let content = content(&place, &name).transpose()?;
        Some((directory.join(&name), content.map_err(|err| err.to_string())))
    });
    Ok(found.collect())
}

fn names(place: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(place)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What is in a file. `None`: it is a directory, which is not looked into, or has gone.
fn content(place: &OwnedFd, name: &str) -> io::Result<Option<Vec<u8>>> {
    // Looked at through the descriptor that is read, so that it is the same; and without blocking, for it
    // may be a pipe to which nobody writes.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(place, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(None),
        _ => return Err(io::Error::other("it is neither a file nor a directory")),
    }
    let mut text = Vec::new();
    File::from(file).take(SIZE_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > SIZE_MAX {
        return Err(io::Error::other("it is longer than 10 MiB"));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn whatever_lies_in_the_directory_it_is_read_to_the_end() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::write(at("b.yaml"), "b").unwrap();
        fs::write(at(".hidden"), "x").unwrap();
        fs::create_dir(at("below")).unwrap();
        fs::File::create(at("long")).unwrap().set_len(SIZE_MAX + 1).unwrap();
        std::os::unix::fs::symlink("b.yaml", at("a.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let found = look(home.path()).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(path, content)| {
                (path.file_name().unwrap().to_str().unwrap(), content.as_deref().map_err(String::as_str))
            })
            .collect();
        assert_eq!(
            found,
            [
                ("a.yaml", Ok(&b"b"[..])),
                ("b.yaml", Ok(&b"b"[..])),
                ("long", Err("it is longer than 10 MiB")),
                ("pipe", Err("it is neither a file nor a directory")),
            ]
        );
        assert_eq!(look(&at("nowhere")), Ok(Vec::new()));
        assert!(look(&at("b.yaml")).unwrap_err().starts_with("cannot open"));
    }
}
