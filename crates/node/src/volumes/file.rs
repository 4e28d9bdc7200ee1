//! Reading a file of a volume, whatever its containers have put there.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use sys::beneath::{Directory, Links, Mounts};

/// Variables take no more than a program may be started with: what is longer is no file of variables.
const SIZE_MAX: u64 = 1 << 20;

/// The text of a file below a volume; `None`: there is none.
pub fn text(volume: &Path, path: &Path) -> Result<Option<String>, String> {
    let within = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !within {
        return Err(format!("{path:?} is not within the volume"));
    }
    let root = Directory::open(volume).map_err(|err| err.to_string())?;
    // The kernel keeps the way below the volume. Without blocking: it may be a pipe to which nobody writes.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match root.lookup(path, flags, Links::Beneath, Mounts::Stay) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(err) => return Err(format!("failed to open environment variable file {path:?}: {err}")),
    };
    let kind = fstat(&file).map_err(|err| err.to_string())?.st_mode;
    if FileType::from_raw_mode(kind) != FileType::RegularFile {
        return Err(format!("environment variable file {path:?} is no regular file"));
    }
    let mut text = Vec::new();
    let read = File::from(file).take(SIZE_MAX + 1).read_to_end(&mut text);
    read.map_err(|err| format!("error reading environment variable file {path:?}: {err}"))?;
    if text.len() as u64 > SIZE_MAX {
        return Err(format!("environment variable file {path:?} is longer than 1 MiB"));
    }
    String::from_utf8(text).map(Some).map_err(|_| format!("environment variable file {path:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_container_leaves_there_is_read_only_if_it_is_a_file_of_the_volume() {
        let home = tempfile::tempdir().unwrap();
        let volume = home.path().join("v");
        fs::create_dir_all(volume.join("d")).unwrap();
        fs::write(volume.join("d/a.env"), "A='x'").unwrap();
        fs::write(home.path().join("secret"), "S='s'").unwrap();
        symlink("../secret", volume.join("out")).unwrap();
        symlink(home.path().join("secret"), volume.join("absolute")).unwrap();
        symlink("d/a.env", volume.join("in")).unwrap();
        fs::File::create(volume.join("long")).unwrap().set_len(SIZE_MAX + 1).unwrap();
        fs::write(volume.join("bytes"), [0xff]).unwrap();
        let pipe = volume.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, pipe, FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let read = |path: &str| text(&volume, path.as_ref());
        assert_eq!(read("d/a.env"), Ok(Some("A='x'".into())));
        assert_eq!(read("in"), Ok(Some("A='x'".into())));
        assert_eq!(read("none"), Ok(None));
        for wrong in ["out", "absolute", "long", "bytes", "pipe", "d", "../secret", "/etc/passwd"] {
            assert!(read(wrong).is_err(), "{wrong}: {:?}", read(wrong));
        }
    }
}
