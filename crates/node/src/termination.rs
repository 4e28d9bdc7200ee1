//! The message that an ended container leaves.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use runtime::ContainerStatus;

use crate::logs::text_of_line;
use crate::pod::event::Exit;
use crate::volumes::PodDirectory;
use crate::worker::exit;

/// Longest message of a container.
const MESSAGE_MAX: usize = 4096;
/// Longest message taken from logs, and its lines.
const LOGS_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;

/// Knows where to look.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) directory: PodDirectory,
    pub(crate) container: String,
    pub(crate) from_logs: bool,
}

impl Reader {
    /// The exit with its message: from the file, else from the logs of a failure, else what
    /// the runtime says.
    pub(crate) fn exit(&self, status: &ContainerStatus) -> Exit {
        let file = self.directory.termination_log(&self.container, status.attempt);
        let mut message = read_start(&file, MESSAGE_MAX);
        if message.is_empty() && self.from_logs && status.exit_code != 0 {
            message = last_log_lines(&status.log_path);
        }
        if message.is_empty() {
            message.clone_from(&status.message);
        }
        exit(status, message)
    }
}

fn read_start(path: &Path, limit: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // A file that cannot be read says nothing: the exit code is still known.
        let _ = file.take(limit as u64).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_log_lines(path: &Path) -> String {
    let Ok(mut file) = File::open(path) else { return String::new() };
    let length = file.metadata().map(|meta| meta.len()).unwrap_or_default();
    // Lines carry a time stamp and a stream name: more of the file is read than is kept.
    let from = length.saturating_sub(4 * LOGS_MAX as u64 + (LOG_LINES_MAX * 48) as u64);
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_err() || file.read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let complete = if from > 0 { lines.get(1..).unwrap_or_default() } else { &lines };
    let last = &complete[complete.len().saturating_sub(LOG_LINES_MAX)..];
    let text: Vec<u8> = last.iter().flat_map(|line| text_of_line(line)).collect();
    let kept = &text[text.len().saturating_sub(LOGS_MAX)..];
    String::from_utf8_lossy(kept).into_owned()
}
