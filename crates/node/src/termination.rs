//! The message that an ended container leaves.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use runtime::ContainerStatus;
use sys::beneath::Directory;

use crate::logs::Line;
use crate::pod::event::Exit;
use crate::volumes::PodDirectory;
use crate::worker::exit;

/// Longest message of a container.
const MESSAGE_MAX: u64 = 4096;
/// Longest message taken from logs, and its lines.
const LOGS_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;
/// First look at the end of a log, and the most that is ever read of it: 80 lines of 16 KiB.
const WINDOW: u64 = 16 << 10;
const WINDOW_MAX: u64 = 2 << 20;

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
        let mut message = self.left(status.attempt);
        if message.is_empty() && self.from_logs && status.exit_code != 0 {
            message = last_log_lines(&status.log_path);
        }
        if message.is_empty() {
            message.clone_from(&status.message);
        }
        exit(status, message)
    }

    /// The end of the file that the container may have written. It is the container's: of any
    /// length, and changing still when another of its processes lives on. One that cannot be read
    /// says nothing: the exit code is still known.
    fn left(&self, attempt: u32) -> String {
        let path = self.directory.termination_log(&self.container, attempt);
        let Ok(below) = path.strip_prefix(self.directory.root()) else { return String::new() };
        let opened = Directory::open(self.directory.root()).and_then(|root| root.file(below));
        let bytes = opened.ok().and_then(|file| read_end(&file, MESSAGE_MAX).ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The last `limit` bytes, or all.
fn read_end(file: &File, limit: u64) -> io::Result<Vec<u8>> {
    let from = file.metadata()?.len().saturating_sub(limit);
    let mut bytes = vec![0; usize::try_from(limit).unwrap_or(usize::MAX)];
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], from + length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// The end of the text of the last lines, each with its newline, as upstream cuts them.
fn last_log_lines(path: &Path) -> String {
    let text = File::open(path).and_then(|file| last_text(&file)).unwrap_or_default();
    let kept = &text[text.len().saturating_sub(LOGS_MAX)..];
    String::from_utf8_lossy(kept).into_owned()
}

/// Looks further back until there is enough: lines have up to 16 KiB, and their stamps come on top.
fn last_text(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    let mut window = WINDOW;
    loop {
        let bytes = read_end(file, window)?;
        let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
        // The first line is cut unless the window shows the whole file.
        let whole = if window >= length { &lines[..] } else { lines.get(1..).unwrap_or_default() };
        let last = &whole[whole.len().saturating_sub(LOG_LINES_MAX)..];
        let text: Vec<u8> =
            last.iter().filter_map(|line| Line::parse(line)).flat_map(|line| line.text()).collect();
        let enough = last.len() == LOG_LINES_MAX || text.len() >= LOGS_MAX;
        if enough || window >= length || window >= WINDOW_MAX {
            return Ok(text);
        }
        window *= 4;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn reader(pods: &Path) -> Reader {
        let directory = PodDirectory::new(pods, "uid");
        Reader { directory, container: "c".into(), from_logs: true }
    }

    #[test]
    fn the_end_of_the_message_is_kept_and_only_a_regular_file_in_its_place_is_read() {
        let pods = tempfile::tempdir().unwrap();
        let reader = reader(pods.path());
        assert_eq!(reader.left(0), "");
        let path = reader.directory.termination_log("c", 0);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, ["a".repeat(1000), "b".repeat(4000)].concat()).unwrap();
        assert_eq!(reader.left(0), ["a".repeat(96), "b".repeat(4000)].concat());
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(reader.left(0).len(), 4096, "however long it is");
        let secret = pods.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        for link in [secret.to_str().unwrap(), "../../../secret"] {
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(link, &path).unwrap();
            assert_eq!(reader.left(0), "");
        }
        fs::remove_file(&path).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        assert_eq!(reader.left(0), "", "nobody waits for a writer");
    }

    fn log(lines: &[(&str, &str)]) -> String {
        let home = tempfile::tempdir().unwrap();
        let text: String = lines
            .iter()
            .map(|(tag, text)| format!("2026-11-30T00:00:00.000000000Z stdout {tag} {text}\n"))
            .collect();
        fs::write(home.path().join("log"), text).unwrap();
        last_log_lines(&home.path().join("log"))
    }

    #[test]
    fn of_logs_the_last_lines_and_of_those_the_last_bytes_are_kept() {
        let numbers: Vec<String> = (1..=100).map(|number| format!("line {number}")).collect();
        let lines: Vec<(&str, &str)> = numbers.iter().map(|text| ("F", text.as_str())).collect();
        let wanted: String = numbers[20..].iter().map(|text| format!("{text}\n")).collect();
        assert_eq!(log(&lines), wanted);
        let fat = "x".repeat(5000);
        assert_eq!(log(&[("F", &fat)]), format!("{}\n", "x".repeat(2047)));
        // Longer than the first look.
        let (long, rest) = ("y".repeat(16 << 10), "z".repeat(16 << 10));
        assert_eq!(log(&[("F", "a"), ("P", &long), ("P", &rest), ("F", "end")]), {
            format!("{}end\n", "z".repeat(2044))
        });
        assert_eq!(log(&[("F", "a"), ("P", "no newline")]), "a\nno newline");
        assert_eq!(log(&[]), "");
    }

    #[test]
    fn what_is_no_line_of_a_log_is_left_out() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("log");
        fs::write(&path, "rubbish\n2026-11-30T00:00:00Z stderr F kept\n2026-11-30T00:00:00Z stdout F cut")
            .unwrap();
        assert_eq!(last_log_lines(&path), "kept\ncut\n");
    }
}
