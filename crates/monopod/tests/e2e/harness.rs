//! An instance under test and the kubectl that drives it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Nothing waited for here takes longer unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A program named by the environment; the test runner sets it.
pub fn program(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    PathBuf::from(value.unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask test e2e`")))
}

/// A running Monopod with its data directory.
pub struct Instance {
    pub dir: TempDir,
    child: Option<Child>,
    flags: Vec<String>,
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

impl Instance {
    /// Imports the named images and starts the program.
    pub fn start(images: &[&str]) -> Self {
        Self::start_with(images, &[])
    }

    /// The same with more flags for `up`.
    pub fn start_with(images: &[&str], flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("monopod-e2e-").tempdir().expect("a temporary directory");
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut instance = Instance { dir, child: None, flags };
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
            .args(["up", "--listen", "127.0.0.1:0", "--log-level", "debug", "--data-dir"])
            .arg(self.dir.path())
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let lines: Vec<String> = lines.take(2).map_while(Result::ok).collect();
        self.child = Some(child);
        assert_eq!(lines.len(), 2, "up said only {lines:?}; its log:\n{}", self.log_tail());
    }

    /// `kill -9` of the daemon; its shims and containers go on.
    pub fn crash(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("killed");
        child.wait().expect("reaped");
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
        mut attempt: impl FnMut() -> Result<T, String>,
    ) -> T {
        let start = Instant::now();
        loop {
            match attempt() {
                Ok(value) => return value,
                Err(last) if start.elapsed() > PATIENCE => {
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
        if said.code != 0 && !std::thread::panicking() {
            panic!("down failed: {}{}", said.out, said.err);
        }
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

/// Reads a stream to its end or panics with what was being read.
pub fn read_all(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("readable");
    text
}
