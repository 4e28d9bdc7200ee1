//! Checks of hostPath by its type.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks the path, or makes it where the type says so. Errors in upstream's words.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    let file_type = fs::metadata(path).map(|meta| meta.file_type()).ok();
    let is = |test: fn(&fs::FileType) -> bool| file_type.as_ref().is_some_and(test);
    let refused = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if file_type.is_none() => {
            fs::create_dir_all(path).map_err(|err| err.to_string())?;
            set_mode(path, 0o755)
        }
        "FileOrCreate" if file_type.is_none() => {
            fs::File::create_new(path).map_err(|err| err.to_string())?;
            set_mode(path, 0o644)
        }
        "DirectoryOrCreate" | "Directory" if is(fs::FileType::is_dir) => Ok(()),
        "FileOrCreate" | "File" if is(fs::FileType::is_file) => Ok(()),
        "Socket" if is(FileTypeExt::is_socket) => Ok(()),
        "CharDevice" if is(FileTypeExt::is_char_device) => Ok(()),
        "BlockDevice" if is(FileTypeExt::is_block_device) => Ok(()),
        "DirectoryOrCreate" | "Directory" => refused("a directory"),
        "FileOrCreate" | "File" => refused("a file"),
        "Socket" => refused("a socket file"),
        "CharDevice" => refused("a character device"),
        "BlockDevice" => refused("a block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), String> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_takes_what_it_names_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let (file, directory) = (root.path().join("f"), root.path().join("d/e"));
        assert!(check(&file, "").is_ok(), "no type, no check");
        assert!(check(&file, "File").unwrap_err().ends_with("f is not a file"));
        check(&file, "FileOrCreate").unwrap();
        check(&directory, "DirectoryOrCreate").unwrap();
        assert!(check(&directory, "Directory").is_ok() && check(&file, "File").is_ok());
        assert!(check(&file, "Directory").unwrap_err().starts_with("hostPath type check failed: "));
        let listener = std::os::unix::net::UnixListener::bind(root.path().join("s")).unwrap();
        assert!(check(&root.path().join("s"), "Socket").is_ok());
        drop(listener);
        assert!(check(Path::new("/dev/null"), "CharDevice").is_ok());
        assert!(check(Path::new("/dev/null"), "BlockDevice").is_err());
    }
}
