//! Timelines on disk: a file for each Pod, read by `monopod timeline` whether the daemon runs or not.
//!
//! Workers hand in what happened; one task writes. A file goes an hour after its Pod, as the Pod's Events do.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use crate::pod::spec;
pub use crate::pod::timeline::Entry;
use crate::shared::Shared;

/// Where they lie in a data directory.
pub const DIRECTORY: &str = "timelines";
/// So long a timeline outlives its Pod: the lifetime of Events.
const KEPT: Duration = Duration::from_secs(3600);
/// How often old ones are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(300);
/// A file does not grow beyond this: a Pod that crashes for days keeps its beginning.
const SIZE_MAX: u64 = 256 << 10;
/// Lines waiting to be written. A disk that hangs costs lines, never a Pod.
const QUEUE: usize = 1024;

/// Where workers leave what happened.
#[derive(Clone, Debug)]
pub(crate) struct Timelines(mpsc::Sender<(String, Entry)>);

/// What waits to be written.
#[derive(Debug)]
pub(crate) struct Queue(mpsc::Receiver<(String, Entry)>);

pub(crate) fn channel() -> (Timelines, Queue) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Timelines(sender), Queue(receiver))
}

impl Timelines {
    pub(crate) fn note(&self, pod: &Pod, entry: Entry) {
        // Full: the line is lost, and the Pod goes on.
        let _ = self.0.try_send((file_name(pod), entry));
    }
}

/// `namespace_name_uid.jsonl`; none of the three has an underscore or a slash.
fn file_name(pod: &Pod) -> String {
    let (namespace, name) = spec::name(pod);
    format!("{namespace}_{name}_{}.jsonl", pod.metadata.uid.as_deref().unwrap_or_default())
}

/// Writes for ever.
pub(crate) async fn keep(shared: Arc<Shared>, mut queue: Queue) {
    let directory = shared.config.timelines_directory.clone();
    let mut swept = Instant::now();
    while let Some(first) = queue.0.recv().await {
        let mut lines = vec![first];
        while let Ok(next) = queue.0.try_recv() {
            lines.push(next);
        }
        let sweep = (swept.elapsed() >= SWEEP_EVERY).then(|| {
            swept = Instant::now();
            shared.workers().values().map(|worker| file_name(&worker.pod)).collect::<HashSet<_>>()
        });
        let place = directory.clone();
        let write = move || write(&place, &lines, sweep.as_ref());
        match runtime::on_own_thread((), write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a timeline could not be written"),
            Err(error) => tracing::warn!(%error, "a timeline could not be written"),
        }
    }
}

fn write(
    directory: &Path,
    lines: &[(String, Entry)],
    known: Option<&HashSet<String>>,
) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for (name, entry) in lines {
        let path = directory.join(name);
        let mut file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        if file.metadata()?.len() < SIZE_MAX {
            let mut line = serde_json::to_vec(entry)?;
            line.push(b'\n');
            file.write_all(&line)?;
        }
    }
    known.map_or(Ok(()), |known| sweep(directory, known))
}

fn sweep(directory: &Path, known: &HashSet<String>) -> std::io::Result<()> {
    for file in fs::read_dir(directory)? {
        let file = file?;
        let kept = file.file_name().to_str().is_some_and(|name| known.contains(name));
        let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
        if !kept && age > KEPT {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

/// A timeline that was kept.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Namespace of the Pod.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// What happened, the first first.
    pub entries: Vec<Entry>,
}

/// The timelines of the Pods of this name, the latest last. A line that is not whole (the machine went down
/// while it was written) is left out.
pub fn read(directory: &Path, namespace: &str, name: &str) -> std::io::Result<Vec<Timeline>> {
    let mut found = Vec::new();
    let files = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        files => files?,
    };
    let paths: Vec<PathBuf> = files.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    for path in paths {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let mut parts = stem.splitn(3, '_');
        if (parts.next(), parts.next()) != (Some(namespace), Some(name)) {
            continue;
        }
        let uid = parts.next().unwrap_or_default().to_owned();
        let text = fs::read_to_string(&path)?;
        let mut entries: Vec<Entry> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        entries.sort_by_key(|entry| entry.at);
        found.push(Timeline { namespace: namespace.to_owned(), name: name.to_owned(), uid, entries });
    }
    found.sort_by_key(|timeline| timeline.entries.first().map(|entry| entry.at));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn entry(what: &str, second: i64) -> Entry {
        Entry {
            at: Timestamp::from_second(second).unwrap(),
            what: what.into(),
            container: String::new(),
            cause: String::new(),
            took_ms: None,
        }
    }

    #[test]
    fn what_was_written_is_read_in_its_order_and_a_torn_line_is_left_out() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("timelines");
        let line = |file: &str, what: &str, second| (file.to_owned(), entry(what, second));
        let lines = [
            line("d_web_2.jsonl", "b", 20),
            line("d_web_1.jsonl", "x", 5),
            line("d_web_2.jsonl", "a", 10),
            line("d_other_3.jsonl", "o", 1),
        ];
        write(&at, &lines, None).unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(at.join("d_web_2.jsonl"))
            .unwrap()
            .write_all(b"{\"at\":\"20")
            .unwrap();
        let found = read(&at, "d", "web").unwrap();
        let words: Vec<_> = found
            .iter()
            .map(|one| {
                (one.uid.as_str(), one.entries.iter().map(|entry| entry.what.as_str()).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(words, [("1", vec!["x"]), ("2", vec!["a", "b"])]);
        assert!(read(&home.path().join("none"), "d", "web").unwrap().is_empty());
    }

    #[test]
    fn an_old_timeline_goes_unless_its_pod_is_there() {
        let home = tempfile::tempdir().unwrap();
        for name in ["d_a_1.jsonl", "d_b_2.jsonl", "d_c_3.jsonl"] {
            let file = fs::File::create(home.path().join(name)).unwrap();
            if name != "d_c_3.jsonl" {
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        }
        sweep(home.path(), &HashSet::from(["d_a_1.jsonl".to_owned()])).unwrap();
        let left = |name: &str| home.path().join(name).exists();
        assert_eq!(["d_a_1.jsonl", "d_b_2.jsonl", "d_c_3.jsonl"].map(left), [true, false, true]);
    }
}
