//! Container states on disk, so that a dead shim still tells how its containers ended.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::protocol::ContainerState;

const SUFFIX: &str = ".state";

fn path(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!("{id}{SUFFIX}"))
}

/// States are padded with spaces to a multiple of this, so that the next one covers the last.
const BLOCK: usize = 1024;

/// Writes a state over the last one. In place: the blocks are there, so the end of a container
/// can be told on a full disk too, and ext4 starts no disk write, as it would at a rename. The
/// file is for those who come after the shim; they see no write half done. It is not synced:
/// after a crash of the machine no container runs anyway.
///
/// # Errors
/// The disk is full or gone.
pub(crate) fn write(directory: &Path, state: &ContainerState) -> io::Result<()> {
    let mut text = serde_json::to_vec(state)?;
    text.resize(text.len().next_multiple_of(BLOCK), b' ');
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path(directory, &state.id))?;
    file.write_all(&text)
}

/// Removes a state.
pub(crate) fn remove(directory: &Path, id: &str) {
    let _ = fs::remove_file(path(directory, id));
}

/// What a shim has left behind in a sandbox directory. Files that cannot be read are skipped.
/// A container that had not exited in there has ended with its shim, without an exit code.
///
/// # Errors
/// The directory cannot be read.
pub fn read_all(directory: &Path) -> io::Result<Vec<ContainerState>> {
    let mut states = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
            let state = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
            states.extend(state);
        }
    }
    states.sort_by_key(|state: &ContainerState| state.created_at);
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Exit, ResolvedUser, Status};

    #[test]
    fn what_was_written_is_read_and_rubbish_is_skipped() {
        let home = tempfile::tempdir().unwrap();
        let state = ContainerState {
            id: "a".into(),
            status: Status::Exited,
            pid: 0,
            user: ResolvedUser::default(),
            created_at: 1,
            started_at: 2,
            exit: Some(Exit { code: 3, ..Exit::default() }),
        };
        let running = ContainerState { status: Status::Running, exit: None, ..state.clone() };
        write(home.path(), &running).unwrap();
        write(home.path(), &state).unwrap();
        fs::write(home.path().join("b.state"), "rubbish").unwrap();
        assert_eq!(read_all(home.path()).unwrap(), [state]);
        remove(home.path(), "a");
        assert_eq!(read_all(home.path()).unwrap(), []);
    }
}
