//! An instance under test and the kubectl that drives it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::host::{instance_id, processes_of};

/// Nothing waited for here takes longer unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A program named by the environment; the test runner sets it.
pub fn program(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    PathBuf::from(value.unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test e2e`")))
}

/// A number given by the environment.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A generator good enough to choose instants and victims.
pub struct Random(pub u64);

impl Random {
    /// The seed is printed, so that a failure can be repeated: `variable` sets it.
    pub fn of(variable: &str) -> Self {
        let seed = number(variable).filter(|seed| *seed != 0).unwrap_or(0x9e37_79b9_7f4a_7c15);
        println!("{variable}={seed}");
        Random(seed)
    }

    pub fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// A running Monopod with its data directory.
pub struct Instance {
    pub dir: TempDir,
    child: Option<Child>,
    flags: Vec<String>,
    /// What `up` printed when it started last.
    pub said: Vec<String>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Said {
    pub out: String,
    pub err: String,
    pub code: i32,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Said { out: text(output.stdout), err: text(output.stderr), code: output.status.code().unwrap_or(-1) }
    }
}

impl Said {
    /// The standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// The standard error of a command that must have failed.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.code, 0, "should have failed: {}", self.out);
        self.err
    }
}

/// The disk of the machine that tests run on may be as full as it likes. Who tests pressure gives thresholds
/// of its own in a file.
const ROOM: [&str; 2] = ["--eviction-hard", "memory.available<100Mi"];

impl Instance {
    /// Imports the named images and starts the program.
    pub fn start(images: &[&str]) -> Self {
        Self::start_with(images, &[])
    }

    /// The same with more flags for `up`.
    pub fn start_with(images: &[&str], flags: &[&str]) -> Self {
        Self::start_in(data_directory(), images, &[&["--listen", "127.0.0.1:0"], flags].concat())
    }

    /// Starts in a directory of the caller's, with exactly these flags.
    pub fn start_in(dir: TempDir, images: &[&str], flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut instance = Instance { dir, child: None, flags, said: Vec::new() };
        for image in images {
            instance.monopod(&["image", "import", &test_image(image)]).ok();
        }
        instance.up();
        instance
    }

    /// Starts the program on its data directory and waits for its two lines.
    pub fn up(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_file()).expect("a log file");
        let mut child = Command::new(program("MONOPOD"))
            .args(["up", "--log-level", "debug", "--data-dir"])
            .arg(self.dir.path())
            .args(ROOM.iter().filter(|_| !self.flags.iter().any(|flag| flag == ROOM[0])))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        self.child = Some(child);
        let (sender, receiver) = std::sync::mpsc::channel();
        // A thread of its own, so that a program that never says its second line fails the test
        // instead of holding it up.
        std::thread::spawn(move || lines.try_for_each(|line| sender.send(line)));
        self.said = std::iter::from_fn(|| receiver.recv_timeout(PATIENCE).ok()).take(2).collect();
        assert_eq!(self.said.len(), 2, "up said only {:?}; its log:\n{}", self.said, self.log_tail());
    }

    /// `kill -9` of the daemon; its shims and containers go on.
    pub fn crash(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    /// Starts the program and kills it that much later, wherever it is then.
    pub fn crash_starting(&self, later: Duration) {
        self.kill_after(&["up", "--listen", "127.0.0.1:0"], later);
    }

    /// Begins to take the instance down and kills what does it that much later; the daemon is gone then.
    pub fn kill_down_after(&mut self, later: Duration) {
        self.kill_after(&["down"], later);
        if let Some(mut child) = self.child.take() {
            // It was told to stop, or is killed too.
            let _ = child.kill();
            child.wait().expect("reaped");
        }
    }

    fn kill_after(&self, words: &[&str], later: Duration) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.log_file()).expect("a log file");
        let mut child = Command::new(program("MONOPOD"))
            .args(words)
            .arg("--data-dir")
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        // The instant is the test's input, not something waited for.
        std::thread::sleep(later);
        // One that has ended by itself is as good.
        let _ = child.kill();
        child.wait().expect("reaped");
    }

    /// Starts the program, asks it to end as soon as it says its first line, and tells how it ended.
    pub fn stop_starting(&self) -> i32 {
        let mut child = Command::new(program("MONOPOD"))
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        lines.next().expect("a line").expect("text");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        child.wait().expect("reaped").code().unwrap_or(-1)
    }

    /// TERM, and how it ended.
    pub fn stop(&mut self) -> i32 {
        let mut child = self.child.take().expect("running");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        child.wait().expect("reaped").code().unwrap_or(-1)
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// A command of the program for this instance.
    pub fn monopod(&self, words: &[&str]) -> Said {
        let mut command = Command::new(program("MONOPOD"));
        command.args(words).arg("--data-dir").arg(self.dir.path());
        command.output().expect("the program runs").into()
    }

    /// kubectl, in the namespace default.
    pub fn kubectl(&self, words: &[&str]) -> Said {
        self.kubectl_command(words).output().expect("kubectl runs").into()
    }

    /// kubectl with text on its standard input.
    pub fn kubectl_with(&self, words: &[&str], input: &str) -> Said {
        let mut command = self.kubectl_command(words);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("kubectl ends");
        // kubectl may close its input early when it refuses; that is its answer, not ours.
        let _ = writer.join();
        output.into()
    }

    /// kubectl, ready to be changed or spawned.
    pub fn kubectl_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program("KUBECTL"));
        command
            .arg("--kubeconfig")
            .arg(self.dir.path().join("kubeconfig"))
            .args(words)
            .env("KUBECACHEDIR", self.dir.path().join("kubectl-cache"))
            .env("HOME", self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Applies a manifest that must be accepted.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        self.kubectl_with(&["apply", "-f", "-"], manifest).ok();
    }

    /// Waits with `kubectl wait` and shows the Pod when it is in vain.
    #[track_caller]
    pub fn wait(&self, condition: &str, what: &str) {
        let said = self.kubectl(&["wait", &format!("--for={condition}"), what, "--timeout=60s"]);
        if said.code != 0 {
            let describe = self.kubectl(&["describe", what]);
            panic!(
                "{what} never had {condition}: {}{}\n{}\n{}",
                said.out,
                said.err,
                describe.out,
                self.log_tail()
            );
        }
    }

    /// One jsonpath of an object.
    #[track_caller]
    pub fn field(&self, what: &str, path: &str) -> String {
        self.kubectl(&["get", what, "-o", &format!("jsonpath={path}")]).ok()
    }

    /// Tries again until the answer is there, or fails with the last one.
    #[track_caller]
    pub fn eventually<T: std::fmt::Debug>(
        &self,
        what: &str,
        attempt: impl FnMut() -> Result<T, String>,
    ) -> T {
        self.eventually_within(PATIENCE, what, attempt)
    }

    /// The same for what may take longer than others.
    #[track_caller]
    pub fn eventually_within<T: std::fmt::Debug>(
        &self,
        patience: Duration,
        what: &str,
        mut attempt: impl FnMut() -> Result<T, String>,
    ) -> T {
        let start = Instant::now();
        loop {
            match attempt() {
                Ok(value) => return value,
                Err(last) if start.elapsed() > patience => {
                    panic!("{what}: {last}\n{}", self.log_tail())
                }
                // Polls a state that nothing announces; the state decides, not the time.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("monopod.log")
    }

    /// The end of the daemon's log, for failures.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "  | {line}");
            text
        })
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let said = self.monopod(&["down", "--purge"]);
        if let Some(mut child) = self.child.take() {
            // `down` has ended it; should it have failed, nothing of ours may stay.
            let _ = child.kill();
            let _ = child.wait();
        }
        if said.code == 0 {
            return;
        }
        sweep(self.dir.path());
        if !std::thread::panicking() {
            panic!("down failed: {}{}", said.out, said.err);
        }
    }
}

/// A data directory whose name carries this run, so that a later one finds what a killed one left.
pub fn data_directory() -> TempDir {
    static ONCE: Once = Once::new();
    ONCE.call_once(sweep_dead_runs);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary directory")
}

const PREFIX: &str = "monopod-e2e-";

/// Takes down what runs that were killed have left; those that still run are left alone.
fn sweep_dead_runs() {
    let entries = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((run, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        if run.parse::<u32>().is_ok() && !Path::new("/proc").join(run).exists() {
            // Both may find nothing to do; what cannot be removed now is tried again by the next run.
            let mut down = Command::new(program("MONOPOD"));
            let _ = down.args(["down", "--purge", "--data-dir"]).arg(entry.path()).output();
            sweep(&entry.path());
        }
    }
}

/// The last resort when `down` fails: kills what runs in the instance's cgroups, unmounts, deletes.
fn sweep(dir: &Path) {
    if !dir.exists() {
        return;
    }
    let id = instance_id(dir);
    for pid in processes_of(&id) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    unmount_below(dir);
    let _ = sys::beneath::remove_tree(dir);
}

/// Unmounts everything in a directory, the deepest first.
pub fn unmount_below(dir: &Path) {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut points: Vec<&Path> = points.filter(|point| point.starts_with(dir)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in points {
        let _ = Command::new("umount").arg("-l").arg(point).output();
    }
}

/// Path of a test image.
pub fn test_image(name: &str) -> String {
    program("MONOPOD_TEST_IMAGES").join(name).display().to_string()
}

/// A file of this crate's testdata.
pub fn testdata(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}
