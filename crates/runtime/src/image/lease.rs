//! Who uses which image, when it was used last, and which go when room is needed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;

use super::error::ImageError;
use super::store::{Entry, ImageStore, Lock, ignore_missing};
use crate::interface::Image;
use crate::usage::{Collected, Collection};

impl ImageStore {
    /// Notes that `holder` uses the image, so that it is neither removed nor pruned, and returns it.
    /// Doing it again is no harm.
    pub fn lease(&self, holder: &str, image: &str) -> Result<Image, ImageError> {
        let _unchanged = self.lock("index.lock", Lock::Shared)?;
        let found = self.find(image)?.ok_or_else(|| ImageError::NotFound(image.to_owned()))?;
        let path = self.lease_path(holder);
        match symlink(&found.id, &path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(ImageError::Io { action: "write lease", path, source: e })
            }
            _ => {
                self.note_use(&found.id);
                Ok(found)
            }
        }
    }

    /// Ends a lease.
    pub fn release(&self, holder: &str) -> Result<(), ImageError> {
        let path = self.lease_path(holder);
        if let Ok(image) = fs::read_link(&path) {
            self.note_use(&image.to_string_lossy());
        }
        ignore_missing(fs::remove_file(&path)).map_err(ImageError::io("remove lease", &path))
    }

    /// All leases: holder and image id.
    pub fn leases(&self) -> Result<Vec<(String, String)>, ImageError> {
        let directory = self.root.join("leases");
        let read = fs::read_dir(&directory).map_err(ImageError::io("read", &directory))?;
        Ok(read
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let image = fs::read_link(entry.path()).ok()?;
                Some((entry.file_name().to_string_lossy().into_owned(), image.to_string_lossy().into_owned()))
            })
            .collect())
    }

    fn lease_path(&self, holder: &str) -> PathBuf {
        self.root.join("leases").join(holder.replace('/', "_"))
    }

    /// When the image was used last is when its file here was written: kept over restarts of the daemon.
    fn use_path(&self, image: &str) -> PathBuf {
        self.root.join("uses").join(image.replace(':', "-"))
    }

    fn note_use(&self, image: &str) {
        let path = self.use_path(image);
        // Emptied anew, which sets its time also when it is there already.
        if let Err(error) =
            File::create(&path).and_then(|file| file.set_modified(system_time(Timestamp::now())))
        {
            tracing::warn!(path = %path.display(), %error, "when an image was used last cannot be kept");
        }
    }

    /// Removes images that no container uses, those first that were used longest ago (and of those never used
    /// the oldest), until so many bytes are free. Imported ones have no registry to come back from, and stay.
    pub fn collect(&self, wanted: Collection, now: Timestamp) -> Result<Collected, ImageError> {
        let latest = system_time(now).checked_sub(wanted.minimum_age);
        let collected = self.change_index(|index| {
            let used: HashSet<String> = self.leases()?.into_iter().map(|(_, image)| image).collect();
            let mut unused: Vec<(SystemTime, SystemTime, String, u64)> = index
                .images
                .iter()
                .filter(|entry| !entry.image.pinned && !used.contains(&entry.image.id))
                .map(|entry| {
                    (self.used_at(entry), self.came_at(entry), entry.image.id.clone(), entry.image.size)
                })
                .filter(|(_, came, ..)| latest.is_some_and(|latest| *came <= latest))
                .collect();
            unused.sort();
            let mut gone = Collected::default();
            for (_, _, id, size) in unused {
                if gone.bytes >= wanted.bytes {
                    break;
                }
                gone.bytes = gone.bytes.saturating_add(size);
                gone.images.push(id);
            }
            index.images.retain(|entry| !gone.images.contains(&entry.image.id));
            Ok(gone)
        })?;
        if !collected.images.is_empty() {
            collected.images.iter().for_each(|id| drop(fs::remove_file(self.use_path(id))));
            self.sweep()?;
        }
        Ok(collected)
    }

    fn used_at(&self, entry: &Entry) -> SystemTime {
        modified(&self.use_path(&entry.image.id))
    }

    fn came_at(&self, entry: &Entry) -> SystemTime {
        modified(&self.blob_path(&entry.manifest))
    }
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::from(time)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::image::ImportOptions;
    use crate::image::tests::{Tar, docker_archive, is_root, store};

    #[test]
    fn unused_images_go_the_longest_unused_first_and_imported_ones_stay() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        let import = |name: &str| {
            let archive =
                docker_archive(&[name], &[Tar::new().file("a", name.as_bytes(), 0o644).bytes()], "{}");
            store.import(archive.as_slice(), &ImportOptions::default()).unwrap().remove(0).id
        };
        let ids = ["imported:1", "never:1", "long-ago:1", "lately:1", "used:1"].map(import);
        // As if the others had been pulled.
        store
            .change_index(|index| {
                index.images.iter_mut().for_each(|entry| entry.image.pinned = entry.image.id == ids[0]);
                Ok(())
            })
            .unwrap();
        for (id, seconds) in [(&ids[3], 20), (&ids[2], 10)] {
            store.note_use(id);
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            File::options().write(true).open(store.use_path(id)).unwrap().set_modified(time).unwrap();
        }
        store.lease("container", "used:1").unwrap();
        let now = Timestamp::now();
        let collect = |bytes, seconds| {
            let wanted = Collection { bytes, minimum_age: Duration::from_secs(seconds) };
            store.collect(wanted, now + Duration::from_secs(60)).unwrap().images
        };
        assert_eq!(collect(u64::MAX, 3600), [""; 0], "all came within the hour");
        assert_eq!(collect(1, 0), [ids[1].clone()], "one frees enough");
        assert_eq!(collect(u64::MAX, 0), [ids[2].clone(), ids[3].clone()]);
        store.release("container").unwrap();
        assert_eq!(collect(u64::MAX, 0), [ids[4].clone()]);
        assert_eq!(
            store.list().unwrap().into_iter().map(|image| image.id).collect::<Vec<_>>(),
            [ids[0].clone()]
        );
        assert_eq!(fs::read_dir(directory.path().join("images/uses")).unwrap().count(), 0);
    }
}
