//! The drop folder: archives of images that are put into `DATA-DIR/archives` are imported, with no command and no
//! registry.
//!
//! What was imported is remembered by name, length and time of change, so that a start costs nothing and an image
//! that somebody has removed stays removed until its archive changes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use runtime::image::{ImageStore, ImportOptions};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// How often the folder is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// What archives are called.
const ENDINGS: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz"];

/// A file as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    length: u64,
    seconds: i64,
    nanoseconds: i64,
}

type Stamps = BTreeMap<String, Stamp>;

/// Imports what is in the folder, and what comes.
pub(crate) async fn watch(data_dir: PathBuf, store: Arc<ImageStore>, shutdown: CancellationToken) {
    let mut folder = Folder::open(&data_dir);
    loop {
        let store = store.clone();
        // Unpacking blocks for as long as the disk takes.
        let looked = tokio::task::spawn_blocking(move || {
            folder.look(|path| import(&store, path));
            folder
        });
        match looked.await {
            Ok(same) => folder = same,
            Err(err) => {
                tracing::error!(%err, "the folder of archives is not watched any more");
                shutdown.cancelled().await;
                return;
            }
        }
        // Cancel-safe: a look that was not begun is made at the next start.
        if shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

fn import(store: &ImageStore, path: &Path) -> Result<(), String> {
    let archive = fs::File::open(path).map_err(|err| err.to_string())?;
    let images = store.import(std::io::BufReader::new(archive), &ImportOptions::default());
    let images = images.map_err(|err| err.full_text())?;
    let names: Vec<String> = images.into_iter().flat_map(|image| image.repo_tags).collect();
    tracing::info!(archive = %path.display(), images = names.join(", "), "an archive is imported");
    Ok(())
}

struct Folder {
    directory: PathBuf,
    memory: PathBuf,
    /// What is done with: imported, or no archive as it is.
    done: Stamps,
    /// What the last look has seen: who is still being copied differs.
    before: Stamps,
}

impl Folder {
    fn open(data_dir: &Path) -> Self {
        let memory = data_dir.join("images/archives.json");
        // Without it all is imported once more, which does no harm.
        let done =
            fs::read(&memory).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Folder { directory: data_dir.join("archives"), memory, done, before: Stamps::new() }
    }

    fn look(&mut self, mut import: impl FnMut(&Path) -> Result<(), String>) {
        let seen = self.list();
        for (name, stamp) in &seen {
            let path = self.directory.join(name);
            if self.done.get(name) == Some(stamp) || self.before.get(name) != Some(stamp) {
                continue;
            }
            if let Err(error) = import(&path) {
                tracing::warn!(archive = %path.display(), error, "an archive cannot be imported; it is tried again when it changes");
            }
            self.done.insert(name.clone(), *stamp);
            self.done.retain(|name, _| seen.contains_key(name));
            let written = serde_json::to_vec(&self.done).map_err(|err| err.to_string());
            if let Err(error) =
                written.and_then(|text| fs::write(&self.memory, text).map_err(|err| err.to_string()))
            {
                tracing::warn!(error, "what was imported cannot be kept: the next start imports it again");
            }
        }
        self.before = seen;
    }

    fn list(&self) -> Stamps {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let stamp = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let metadata = fs::metadata(entry.path()).ok()?;
            let (length, seconds, nanoseconds) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
            let wanted = metadata.is_file() && ENDINGS.iter().any(|ending| name.ends_with(ending));
            wanted.then_some((name, Stamp { length, seconds, nanoseconds }))
        };
        entries.filter_map(stamp).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_imported_once_when_it_is_whole_and_again_when_it_changes() {
        let directory = tempfile::tempdir().expect("a directory");
        for part in ["images", "archives"] {
            fs::create_dir(directory.path().join(part)).expect("made");
        }
        let file = directory.path().join("archives/a.tar");
        fs::write(directory.path().join("archives/README"), "no archive").expect("written");
        fs::write(&file, "half").expect("written");
        let mut imported = Vec::new();
        let mut look = |folder: &mut Folder| {
            folder.look(|path| {
                imported.push(fs::read_to_string(path).expect("read"));
                if imported.len() == 2 { Err("broken".into()) } else { Ok(()) }
            });
            imported.clone()
        };
        let mut folder = Folder::open(directory.path());
        assert_eq!(look(&mut folder), [""; 0], "it may still be copied");
        fs::write(&file, "whole.").expect("written");
        assert_eq!(look(&mut folder), [""; 0], "it was");
        assert_eq!(look(&mut folder), ["whole."]);
        assert_eq!(look(&mut folder), ["whole."]);
        // The next daemon knows of it.
        let mut folder = Folder::open(directory.path());
        look(&mut folder);
        assert_eq!(look(&mut folder), ["whole."]);
        fs::write(&file, "another").expect("written");
        look(&mut folder);
        assert_eq!(look(&mut folder), ["whole.", "another"]);
        assert_eq!(look(&mut folder), ["whole.", "another"], "what is broken is not tried for ever");
    }
}
