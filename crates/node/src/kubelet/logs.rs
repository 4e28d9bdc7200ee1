//! `GET /containerLogs/…`: the log file of a container, followed while it grows.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use runtime::{ContainerState, Runtime};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use wire::Response;

use super::changes::{self, Changes, Watch};
use super::{Kubelet, Query, bare_id, statuses, text};
use crate::logs::Line;
use crate::pod::spec;

const CHUNK: usize = 32 * 1024;

/// What part of the log is wanted.
#[derive(Debug, Default)]
struct Options {
    follow: bool,
    timestamps: bool,
    since: Option<Timestamp>,
    tail: Option<usize>,
    limit: Option<usize>,
    stream: Option<&'static str>,
}

impl Kubelet {
    pub(super) async fn container_logs(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        query: &Query,
    ) -> Response {
        let Some(worker) = self.node.pod(namespace, name) else {
            return text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist\n"));
        };
        if spec::container(&worker.pod, container).is_none() {
            return text(
                StatusCode::NOT_FOUND,
                format!("container {container:?} not found in pod {name:?}\n"),
            );
        }
        // Seconds are counted back from here and now: the client's clock may show anything.
        let options = options(query, Timestamp::now());
        let id = match container_id(&worker.pod, name, container, query.flag(&["previous"])) {
            Ok(id) => id,
            Err(message) => return text(StatusCode::BAD_REQUEST, message),
        };
        // The runtime knows where it writes; it was told once, and a later spec may say otherwise.
        let path = match self.node.runtime.container_status(&id).await {
            Ok(status) => status.log_path,
            Err(err) => return text(StatusCode::BAD_REQUEST, err.to_string()),
        };
        let changes = options.follow.then(|| Arc::clone(&self.changes));
        match Follower::open(Arc::clone(&self.node.runtime), id, path, options, changes).await {
            Ok(follower) => {
                let chunks = stream::unfold(follower, |mut follower| async move {
                    Some((follower.next().await?, follower))
                });
                Response::new(wire::body_from_stream(chunks))
            }
            Err(err) => text(StatusCode::BAD_REQUEST, err),
        }
    }
}

fn options(query: &Query, now: Timestamp) -> Options {
    let seconds = query.get("sinceSeconds").and_then(|text| text.parse().ok());
    let ago = seconds.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    Options {
        follow: query.flag(&["follow"]),
        timestamps: query.flag(&["timestamps"]),
        since: query.get("sinceTime").and_then(|text| text.parse().ok()).or(ago),
        tail: query.get("tailLines").and_then(|text| text.parse().ok()),
        limit: query.get("limitBytes").and_then(|text| text.parse().ok()),
        stream: match query.get("stream") {
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            _ => None,
        },
    }
}

/// Which instance's log is meant; the error is upstream's sentence.
fn container_id(pod: &Pod, name: &str, container: &str, previous: bool) -> Result<String, String> {
    let about = format!("container {container:?} in pod {name:?}");
    let Some(status) = statuses(pod).find(|status| status.name == container) else {
        return Err(format!("{about} is not available"));
    };
    // By the status and not by what runs: the client asks for what `kubectl get` has shown it.
    let last = last_id(status);
    if previous {
        return last
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {name:?} not found"));
    }
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        return status
            .container_id
            .as_deref()
            .map(bare_id)
            .ok_or_else(|| format!("{about} is not available"));
    }
    // One that never ran has an end and no log; what ran before it tells more than nothing.
    if let Some(terminated) = state.terminated {
        let id = terminated.container_id.as_deref().map(bare_id).filter(|id| !id.is_empty());
        return id.or(last).ok_or_else(|| format!("{about} is terminated"));
    }
    // While it waits to be started again, what it said before it crashed is what people look for.
    match (last, state.waiting) {
        (Some(id), _) => Ok(id),
        (None, Some(waiting)) => Err(match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" => format!("{about} is waiting to start: image can't be pulled"),
            "ImagePullBackOff" => format!("{about} is waiting to start: trying and failing to pull image"),
            reason => format!("{about} is waiting to start: {reason}"),
        }),
        (None, None) => Err(format!("{about} is waiting to start - no logs yet")),
    }
}

fn last_id(status: &ContainerStatus) -> Option<String> {
    let terminated = status.last_state.as_ref()?.terminated.as_ref()?;
    terminated.container_id.as_deref().map(bare_id).filter(|id| !id.is_empty())
}

/// Reads a log to its end, or as long as the container writes.
struct Follower {
    runtime: Arc<dyn Runtime>,
    id: String,
    path: PathBuf,
    file: File,
    unread: Vec<u8>,
    options: Options,
    left: Option<usize>,
    /// The file after ours: ours gets no more, but may hold what has not been read.
    next: Option<File>,
    /// The last record was a whole line or the end of one.
    at_line_start: bool,
    ended: bool,
    /// Who tells when there is more, for our file and for the one after it.
    changes: Option<Arc<Changes>>,
    watch: Option<Watch>,
}

impl Follower {
    async fn open(
        runtime: Arc<dyn Runtime>,
        id: String,
        path: PathBuf,
        options: Options,
        changes: Option<Arc<Changes>>,
    ) -> Result<Self, String> {
        let failed = |err: std::io::Error| {
            format!("failed to try resolving symlinks in path {:?}: {err}", path.display().to_string())
        };
        // First, so that nothing is written unseen between the two.
        let watch = changes.as_ref().and_then(|changes| changes.watch(&path));
        let mut file = File::open(&path).await.map_err(failed)?;
        if let Some(lines) = options.tail {
            let start = tail_start(&mut file, lines).await.map_err(failed)?;
            file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
        }
        // Counted over the whole answer, however often the file is rotated meanwhile.
        let left = options.limit;
        Ok(Self {
            runtime,
            id,
            path,
            file,
            unread: Vec::new(),
            options,
            left,
            next: None,
            at_line_start: true,
            ended: false,
            changes,
            watch,
        })
    }

    /// The next part of the answer.
    async fn next(&mut self) -> Option<Result<Bytes, wire::BoxError>> {
        loop {
            if self.left == Some(0) {
                return None;
            }
            let mut chunk = vec![0; CHUNK];
            let read = match self.file.read(&mut chunk).await {
                Ok(read) => read,
                Err(err) => return Some(Err(err.into())),
            };
            if read > 0 {
                self.unread.extend_from_slice(&chunk[..read]);
                let text = self.take_lines();
                if !text.is_empty() {
                    return Some(Ok(text.into()));
                }
            } else if !self.wait_for_more().await {
                return None;
            }
        }
    }

    /// The text of all complete lines that are wanted.
    fn take_lines(&mut self) -> Vec<u8> {
        // Half a record has no time yet and may be half a character.
        let Some(end) = self.unread.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.unread.split_off(end + 1);
        let lines = std::mem::replace(&mut self.unread, rest);
        let mut out = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|byte| *byte == b'\n').filter_map(Line::parse) {
            if !self.wants(&line) {
                continue;
            }
            // A long line is several records, and has one time.
            if self.options.timestamps && self.at_line_start {
                out.extend_from_slice(line.time.as_bytes());
                out.push(b' ');
            }
            self.at_line_start = !line.partial;
            out.extend_from_slice(&line.text());
        }
        if let Some(left) = &mut self.left {
            out.truncate(*left);
            *left -= out.len();
        }
        out
    }

    fn wants(&self, line: &Line<'_>) -> bool {
        let stream = self.options.stream.is_none_or(|stream| stream == line.stream);
        let since = self.options.since;
        stream && since.is_none_or(|since| line.time.parse::<Timestamp>().is_ok_and(|time| time >= since))
    }

    /// At the end of the file: false when there will be no more.
    async fn wait_for_more(&mut self) -> bool {
        if !self.options.follow {
            return false;
        }
        if let Some(next) = self.next.take() {
            self.file = next;
            return true;
        }
        // Ours is read to its end once more: what was written before the change is in it.
        self.next = self.rotated().await;
        if self.next.is_some() {
            return true;
        }
        // One more look after the end was seen: what was written before it is read.
        let ended = self.has_ended().await;
        if std::mem::replace(&mut self.ended, ended) {
            return false;
        }
        if !self.ended {
            changes::wait(self.watch.as_ref()).await;
        }
        true
    }

    async fn has_ended(&self) -> bool {
        let status = self.runtime.container_status(&self.id).await;
        !status.is_ok_and(|status| matches!(status.state, ContainerState::Running | ContainerState::Created))
    }

    /// The file that took the place of ours.
    async fn rotated(&mut self) -> Option<File> {
        let inode = |path: &Path| std::fs::metadata(path).map(|meta| meta.ino()).ok();
        let ours = self.file.metadata().await.ok()?.ino();
        if inode(&self.path)? == ours {
            return None;
        }
        // Watched before it is opened, as ours was.
        self.watch = self.changes.as_ref().and_then(|changes| changes.watch(&self.path));
        File::open(&self.path).await.ok()
    }
}

/// Where the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: usize) -> std::io::Result<u64> {
    // From the end, block by block: the log may be large and a few lines are wanted.
    let mut end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    let mut found = 0;
    let mut first = true;
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        file.seek(SeekFrom::Start(start)).await?;
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(CHUNK)];
        file.read_exact(&mut block).await?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The line feed at the very end closes the last line.
            let closing = first && start + at as u64 + 1 == end;
            first = false;
            if closing {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(start + at as u64 + 1);
            }
        }
        first = false;
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_logged_is_said_in_upstreams_words() {
        let pod = |state: serde_json::Value, last: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"status": {"containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "containerID": "monopod://now", "state": state, "lastState": last
            }]}}))
            .unwrap()
        };
        let waiting = |reason: &str| pod(json!({"waiting": {"reason": reason}}), json!({}));
        let id = |pod: &Pod, previous| container_id(pod, "web", "c", previous);
        let running = pod(json!({"running": {}}), json!({}));
        assert_eq!(id(&running, false).unwrap(), "now");
        assert_eq!(
            id(&running, true).unwrap_err(),
            "previous terminated container \"c\" in pod \"web\" not found"
        );
        let text = "container \"c\" in pod \"web\" is waiting to start: ";
        assert_eq!(id(&waiting("ContainerCreating"), false).unwrap_err(), format!("{text}ContainerCreating"));
        assert_eq!(id(&waiting("ErrImagePull"), false).unwrap_err(), format!("{text}image can't be pulled"));
        let crashed = pod(
            json!({"waiting": {"reason": "CrashLoopBackOff"}}),
            json!({"terminated": {"exitCode": 1, "containerID": "monopod://old"}}),
        );
        assert_eq!((id(&crashed, false).unwrap(), id(&crashed, true).unwrap()), ("old".into(), "old".into()));
    }

    #[tokio::test]
    async fn a_tail_begins_at_the_last_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let mut file = File::open(&path).await.unwrap();
        for (lines, start) in [(0, 14), (1, 8), (2, 4), (3, 0), (9, 0)] {
            assert_eq!(tail_start(&mut file, lines).await.unwrap(), start, "{lines} lines");
        }
    }

    async fn follower(path: &Path, options: Options) -> Follower {
        let runtime = Arc::new(testkit::FakeRuntime::default());
        Follower::open(runtime, "gone".into(), path.into(), options, Some(Arc::default())).await.unwrap()
    }

    async fn read_all(mut follower: Follower) -> String {
        let mut all = Vec::new();
        while let Some(part) = follower.next().await {
            all.extend_from_slice(&part.unwrap());
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn a_long_line_in_several_records_has_one_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let (first, second) = ("2026-01-01T00:00:00.000000001Z", "2026-01-01T00:00:00.000000002Z");
        let log = format!(
            "{first} stdout P long \n{second} stdout P line\n{second} stdout F !\n{second} stderr F next\n"
        );
        std::fs::write(&path, log).unwrap();
        let options = Options { timestamps: true, ..Options::default() };
        let text = read_all(follower(&path, options).await).await;
        assert_eq!(text, format!("{first} long line!\n{second} next\n"));
    }

    #[tokio::test]
    async fn what_was_written_just_before_a_rotation_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
        std::fs::write(&path, line("one")).unwrap();
        let mut follower = follower(&path, Options { follow: true, ..Options::default() }).await;
        assert_eq!(follower.next().await.unwrap().unwrap(), "one\n");
        // The end has been seen; now more comes and the file moves away before anybody looks.
        let old = std::fs::OpenOptions::new().append(true).open(&path);
        std::io::Write::write_all(&mut old.unwrap(), line("two").as_bytes()).unwrap();
        std::fs::rename(&path, directory.path().join("0.log.old")).unwrap();
        std::fs::write(&path, line("three")).unwrap();
        assert!(follower.wait_for_more().await);
        assert_eq!(read_all(follower).await, "two\nthree\n");
    }
}
