//! Static Pods: those that come from files on the node and not from the API.
//!
//! ```text
//! directory ─inotify, slow look─▶ keep ─▶ the Pods there are to be ─▶ dispatcher ─▶ workers, as of any Pod
//!                                                  └────────────────▶ mirror: a Pod in the API shows each
//! ```
//!
//! They need no API: they begin and go on without one. What the API shows of them is a mirror that
//! cannot change them, and comes back when somebody deletes it.

mod decode;
mod file;
pub(crate) mod mirror;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch as latest;

use crate::pod::event::Record;
use crate::pod::spec::{self, SEEN};
use crate::shared::Shared;
use file::Found;

/// The Pods that the files want. `None`: nobody has looked yet.
pub(crate) type Wanted = Option<Arc<Vec<Arc<Pod>>>>;

/// How often the files are looked at when nobody tells of a change (upstream's fileCheckFrequency).
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// And while there is no directory, or no notice of its changes.
const LOOK_OFTEN: Duration = Duration::from_secs(1);

/// Looks for ever, and tells what there is.
pub(crate) async fn keep(shared: Arc<Shared>, tell: latest::Sender<Wanted>) {
    let Some(directory) = shared.config.manifests_directory.clone() else {
        tell.send_replace(Some(Arc::default()));
        return std::future::pending().await;
    };
    let mut source = Source::new(&shared.config.node_name);
    let mut watch = None;
    loop {
        // Before the look: what changes after it is told.
        if watch.is_none() {
            watch = watch::Watch::of(&directory);
        }
        source.look(&shared, &directory, &tell).await;
        let patience = if watch.is_some() { LOOK_EVERY } else { LOOK_OFTEN };
        let changed = async {
            match &watch {
                Some(watch) => watch.changed().await,
                None => std::future::pending().await,
            }
        };
        // Elapsed: looked at all the same.
        if tokio::time::timeout(patience, changed).await == Ok(watch::Changed::Gone) {
            watch = None;
        }
    }
}

/// Pods whose name an earlier file has taken, each with its file.
type Doubles = Vec<(Arc<Pod>, PathBuf)>;

/// What is known of the files.
struct Source {
    node: String,
    /// By file: the last that could be understood, and its sum.
    pods: BTreeMap<PathBuf, (Arc<Pod>, String)>,
    /// What has been said of a file already.
    told: BTreeMap<PathBuf, String>,
}

impl Source {
    fn new(node: &str) -> Self {
        Self { node: node.to_owned(), pods: BTreeMap::new(), told: BTreeMap::new() }
    }

    async fn look(&mut self, shared: &Shared, directory: &Path, tell: &latest::Sender<Wanted>) {
        let place = directory.to_owned();
        // A thread of its own: the directory may lie on a server that is gone.
        let found = runtime::on_own_thread((), move || file::look(&place)).await;
        let found = found.map_err(|err| err.to_string()).and_then(|found| found);
        let (pods, doubles) = match found {
            Ok(found) => {
                self.told.remove(directory);
                self.take(found, Timestamp::now())
            }
            // What cannot be read says nothing about what there is to be.
            Err(why) => {
                self.complain(directory.to_owned(), why);
                if tell.borrow().is_some() {
                    return;
                }
                (Vec::new(), Vec::new())
            }
        };
        for (pod, file) in doubles {
            let message = double(&pod);
            if self.complain(file, message.clone()) {
                shared.record(&pod, &Record::pod_warning("FailedValidation", message));
            }
        }
        tell.send_if_modified(|known| {
            let same = |known: &Arc<Vec<Arc<Pod>>>| {
                known.len() == pods.len() && known.iter().zip(&pods).all(|(a, b)| Arc::ptr_eq(a, b))
            };
            let changed = !known.as_ref().is_some_and(same);
            if changed {
                *known = Some(Arc::new(pods));
            }
            changed
        });
    }

    /// What the files want now, one Pod for each name, and those that come too late for theirs.
    fn take(&mut self, found: Vec<Found>, now: Timestamp) -> (Vec<Arc<Pod>>, Doubles) {
        let there: BTreeSet<&PathBuf> = found.iter().map(|(path, _)| path).collect();
        self.pods.retain(|path, _| there.contains(path));
        self.told.retain(|path, _| there.contains(path));
        for (path, content) in found {
            match content.and_then(|text| decode::pod(&text, &path, &self.node)) {
                Ok((pod, digest)) => self.note(path, pod, digest, now),
                // One that is being written, or was written wrong, does not end what runs: what was last
                // understood holds as long as there is a file.
                Err(why) => drop(self.complain(path, why)),
            }
        }
        let (mut names, mut pods, mut doubles) = (BTreeSet::new(), Vec::new(), Vec::new());
        for (path, (pod, _)) in &self.pods {
            if names.insert(spec::name(pod)) {
                pods.push(Arc::clone(pod));
            } else {
                doubles.push((Arc::clone(pod), path.clone()));
            }
        }
        (pods, doubles)
    }

    /// The Pod of a file; the very same as before when it has not changed.
    fn note(&mut self, path: PathBuf, mut pod: Pod, digest: String, now: Timestamp) {
        if self.pods.get(&path).is_some_and(|(_, known)| *known == digest) {
            return;
        }
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(SEEN.into(), now.to_string());
        self.told.remove(&path);
        self.pods.insert(path, (Arc::new(pod), digest));
    }

    /// Says once what is wrong with a file; true when it was news.
    fn complain(&mut self, path: PathBuf, why: String) -> bool {
        if self.told.get(&path) == Some(&why) {
            return false;
        }
        tracing::warn!(file = %path.display(), why, "a manifest of static Pods is not used");
        self.told.insert(path, why);
        true
    }
}

fn double(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let full_name = spec::full_name(pod);
    format!("Error validating pod {full_name} from file due to duplicate pod name {name:?}, ignoring")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec::{HASH, SOURCE};

    fn found(file: &str, text: &str) -> Found {
        (file.into(), Ok(text.as_bytes().to_vec()))
    }

    fn manifest(name: &str, image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: {image}}}]}}"
        )
    }

    fn taken(source: &mut Source, found: Vec<Found>) -> Vec<String> {
        let (pods, _) = source.take(found, Timestamp::UNIX_EPOCH);
        pods.iter()
            .map(|pod| {
                format!("{} {}", spec::name(pod).1, spec::spec(pod).containers[0].image.clone().unwrap())
            })
            .collect()
    }

    #[test]
    fn a_file_that_is_half_written_ends_nothing_and_one_that_is_gone_does() {
        let mut source = Source::new("n1");
        let whole = manifest("web", "a:1");
        assert_eq!(taken(&mut source, vec![found("/m/web", &whole)]), ["web-n1 a:1"]);
        assert_eq!(taken(&mut source, vec![found("/m/web", &whole[..40])]), ["web-n1 a:1"]);
        assert_eq!(taken(&mut source, vec![found("/m/web", "")]), ["web-n1 a:1"]);
        assert_eq!(taken(&mut source, vec![found("/m/web", &manifest("web", "a:2"))]), ["web-n1 a:2"]);
        assert_eq!(taken(&mut source, vec![]), [""; 0]);
    }

    #[test]
    fn the_same_file_is_the_same_pod_and_another_content_another() {
        let mut source = Source::new("n1");
        let first = source.take(vec![found("/m/a", &manifest("a", "a:1"))], Timestamp::UNIX_EPOCH).0;
        let again = source.take(vec![found("/m/a", &manifest("a", "a:1"))], Timestamp::MAX).0;
        assert!(Arc::ptr_eq(&first[0], &again[0]));
        let other = source.take(vec![found("/m/a", &manifest("a", "a:2"))], Timestamp::UNIX_EPOCH).0;
        assert_ne!(first[0].metadata.uid, other[0].metadata.uid);
        let place = source.take(vec![found("/m/b", &manifest("a", "a:1"))], Timestamp::UNIX_EPOCH).0;
        assert_ne!(first[0].metadata.uid, place[0].metadata.uid);
        // Whoever names a UID has the same for another content: it is another Pod all the same.
        let named = |image| manifest("a", image).replace("name: a}", "name: a, uid: u-1}");
        let one = source.take(vec![found("/m/c", &named("a:1"))], Timestamp::UNIX_EPOCH).0;
        let two = source.take(vec![found("/m/c", &named("a:2"))], Timestamp::UNIX_EPOCH).0;
        assert_eq!(
            (one[0].metadata.uid.as_deref(), two[0].metadata.uid.as_deref()),
            (Some("u-1"), Some("u-1"))
        );
        assert!(!Arc::ptr_eq(&one[0], &two[0]));
        assert_eq!(spec::annotation(&one[0], HASH), Some("u-1"));
        assert_eq!(spec::annotation(&one[0], SOURCE), Some("file"));
    }

    #[test]
    fn of_two_files_with_one_name_the_first_is_used_and_the_other_named() {
        let mut source = Source::new("n1");
        let files = || vec![found("/m/b", &manifest("web", "b:1")), found("/m/a", &manifest("web", "a:1"))];
        let (pods, doubles) = source.take(files(), Timestamp::UNIX_EPOCH);
        assert_eq!(spec::spec(&pods[0]).containers[0].image.as_deref(), Some("a:1"));
        assert_eq!((pods.len(), doubles.len()), (1, 1));
        assert!(double(&doubles[0].0).ends_with("from file due to duplicate pod name \"web-n1\", ignoring"));
    }
}
