//! Giving an image another name.

use super::access::Grant;
use super::error::ImageError;
use super::reference::Reference;
use super::store::{ImageStore, find_entry};

impl ImageStore {
    /// Gives an image another name, taking it from whichever has it; returns the name in full. Who names an
    /// image by hand gives it, by that name, to everybody.
    pub fn tag(&self, source: &str, target: &str) -> Result<String, ImageError> {
        let reference = Reference::parse(target)
            .map_err(|reason| ImageError::Reference { reference: target.to_owned(), reason })?;
        if reference.digest().is_some() {
            let reason = "an image cannot be given a digest".to_owned();
            return Err(ImageError::Malformed { what: format!("name {target:?}"), reason });
        }
        let (name, repository) = (reference.to_string(), reference.name());
        self.change_index(|index| {
            let found = find_entry(index, source)?.map(|entry| entry.image.id.clone());
            let id = found.ok_or_else(|| ImageError::NotFound(source.to_owned()))?;
            for entry in &mut index.images {
                entry.image.repo_tags.retain(|tag| *tag != name);
                if entry.image.id == id {
                    entry.image.repo_tags.push(name.clone());
                    if let Some(grants) = &mut entry.grants {
                        grants.insert(repository.clone(), Grant::of(None));
                    }
                }
            }
            Ok(name.clone())
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::image::tests::{Tar, docker_archive, is_root, store};
    use crate::image::{ImageError, ImportOptions};

    #[test]
    fn a_name_is_given_and_taken_from_whoever_had_it() {
        if !is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let store = store(&directory);
        for name in ["a:1", "b:1"] {
            let archive =
                docker_archive(&[name], &[Tar::new().file("f", name.as_bytes(), 0o644).bytes()], "{}");
            store.import(archive.as_slice(), &ImportOptions::default()).unwrap();
        }
        assert_eq!(store.tag("a:1", "registry.example/team/a").unwrap(), "registry.example/team/a:latest");
        assert_eq!(store.tag("a:1", "b:1").unwrap(), "docker.io/library/b:1");
        let found = store.find("b:1").unwrap().unwrap();
        assert_eq!(
            found.repo_tags,
            ["docker.io/library/a:1", "registry.example/team/a:latest", "docker.io/library/b:1"]
        );
        assert!(matches!(store.tag("nobody", "c:1"), Err(ImageError::NotFound(_))));
        assert!(store.tag("a:1", "A b").is_err());
        // Doing it again is no harm.
        store.tag("a:1", "b:1").unwrap();
        assert_eq!(store.find("b:1").unwrap().unwrap().repo_tags.len(), 3);
    }
}
