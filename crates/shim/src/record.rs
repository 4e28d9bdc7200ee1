//! Container states on disk, so that a dead shim still tells how its containers ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::protocol::ContainerState;

const SUFFIX: &str = ".state";

fn path(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!("{id}{SUFFIX}"))
}

/// Writes a state: readers see the old or the new one, never a part. It is not synced: after a
/// crash of the machine no container runs anyway.
///
/// # Errors
/// The disk is full or gone.
pub(crate) fn write(directory: &Path, state: &ContainerState) -> io::Result<()> {
    let final_path = path(directory, &state.id);
    let draft = final_path.with_extension("new");
    fs::write(&draft, serde_json::to_vec(state)?)?;
    fs::rename(draft, final_path)
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
        write(home.path(), &state).unwrap();
        fs::write(home.path().join("b.state"), "rubbish").unwrap();
        assert_eq!(read_all(home.path()).unwrap(), [state]);
        remove(home.path(), "a");
        assert_eq!(read_all(home.path()).unwrap(), []);
    }
}
