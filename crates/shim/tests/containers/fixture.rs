//! A sandbox for a test, and what is needed to look at it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use shim::client::{Connection, Executable, launch};
use shim::protocol::*;
use sys::cgroup::Hierarchy;

/// No event of a test takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static LAST: AtomicU32 = AtomicU32::new(0);

/// A running sandbox. Dropped, it is shut down, also by a test that fails.
pub(crate) struct Sandbox {
    pub(crate) connection: Connection,
    pub(crate) home: tempfile::TempDir,
    pub(crate) pid: i32,
    pub(crate) pause_pid: Option<i32>,
    pub(crate) cgroup: String,
    child: Child,
}

/// An own network namespace without interface, IPC, and a host name.
pub(crate) fn specification() -> SandboxSpec {
    SandboxSpec {
        version: VERSION,
        id: "test".into(),
        network: SandboxNetwork::Own(None),
        ipc: true,
        hostname: Some("pod-name".into()),
        shared_pid: false,
        sysctls: Vec::new(),
        cgroup: None,
        users: None,
    }
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self::with(specification())
    }

    pub(crate) fn with(spec: SandboxSpec) -> Self {
        let home = tempfile::Builder::new().prefix("monopod-shim-").tempdir().unwrap();
        make_root(&home.path().join("image"));
        fs::create_dir(home.path().join("sandbox")).unwrap();
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("monopod-shim-{}-{number}", std::process::id());
        let executable = Executable::guarded(&std::env::current_exe().unwrap()).unwrap();
        let (child, stream) = launch(&executable, &home.path().join("sandbox")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connection = Connection::new(stream);
        let Reply::Hello { pid, pause_pid, .. } = connection.call(Request::Open(spec)).unwrap() else {
            panic!("no hello");
        };
        connection.call(Request::Subscribe).unwrap();
        Sandbox { connection, home, pid, pause_pid, cgroup, child }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.home.path().join("sandbox")
    }

    /// A container of busybox that runs a shell script.
    pub(crate) fn script(&self, id: &str, script: &str) -> ContainerSpec {
        self.program(id, &["sh", "-c", script])
    }

    pub(crate) fn program(&self, id: &str, argv: &[&str]) -> ContainerSpec {
        let layer = |name: &str| self.home.path().join(id).join(name);
        for name in ["upper", "work"] {
            fs::create_dir_all(layer(name)).unwrap();
        }
        let rootfs = Rootfs::Overlay {
            lowers: vec![self.home.path().join("image")],
            upper: layer("upper"),
            work: layer("work"),
        };
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let mut spec = ContainerSpec::new(id, rootfs, argv, format!("{}/{id}", self.cgroup));
        spec.log = Some(LogSpec::new(self.log_path(id)));
        spec
    }

    pub(crate) fn log_path(&self, id: &str) -> PathBuf {
        self.home.path().join("logs").join(id).join("0.log")
    }

    pub(crate) fn log(&self, id: &str) -> String {
        fs::read_to_string(self.log_path(id)).unwrap()
    }

    /// What the container wrote, without the log's own words.
    pub(crate) fn output(&self, id: &str) -> String {
        self.log(id).lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap())).collect()
    }

    pub(crate) fn start(&mut self, spec: ContainerSpec) -> i32 {
        let id = spec.id.clone();
        self.connection.call(Request::Create(Box::new(spec))).unwrap();
        match self.connection.call(Request::Start { id }).unwrap() {
            Reply::Started { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a container's end.
    pub(crate) fn exit(&mut self, wanted: &str) -> Exit {
        loop {
            if let Event::ContainerExited { id, exit } = self.connection.event().unwrap()
                && id == wanted
            {
                return exit;
            }
        }
    }

    /// Runs a script to its end and gives its output.
    pub(crate) fn run(&mut self, spec: ContainerSpec) -> (Exit, String) {
        let id = spec.id.clone();
        self.start(spec);
        let exit = self.exit(&id);
        (exit, self.output(&id))
    }

    pub(crate) fn delete(&mut self, id: &str) {
        self.connection.call(Request::Delete { id: id.into() }).unwrap();
    }

    pub(crate) fn state(&mut self, wanted: &str) -> ContainerState {
        let Reply::State { containers, .. } = self.connection.call(Request::State).unwrap() else {
            panic!("no state");
        };
        containers.into_iter().find(|one| one.id == wanted).unwrap()
    }

    pub(crate) fn take_file(&mut self) -> fs::File {
        let fd: OwnedFd = self.connection.take_fd().expect("a descriptor came along");
        sys::socket::set_nonblocking(&fd, false).unwrap();
        fd.into()
    }

    /// Waits until a file holds what is looked for.
    pub(crate) fn wait_for_log(&self, id: &str, text: &str) {
        wait_until(&format!("{text:?} in the log"), || {
            fs::read_to_string(self.log_path(id)).is_ok_and(|log| log.contains(text))
        });
    }

    pub(crate) fn kill_shim(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn shim_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn reconnect(&mut self) {
        self.connection = Connection::connect(&self.directory()).unwrap();
        self.connection.stream().set_read_timeout(Some(PATIENCE)).unwrap();
        self.connection.call(Request::Subscribe).unwrap();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.connection.call(Request::Shutdown);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let group = Hierarchy::detect().unwrap().group(&self.cgroup);
        group.remove().unwrap();
        let leftover = leftovers(self.home.path(), &self.cgroup);
        if !std::thread::panicking() {
            assert_eq!(leftover, Vec::<String>::new(), "nothing is left behind");
        }
    }
}

/// Mounts, groups and processes that still have to do with a sandbox.
fn leftovers(home: &Path, cgroup: &str) -> Vec<String> {
    let home = home.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<String> =
        mounts.lines().filter(|line| line.contains(home)).map(str::to_owned).collect();
    for tree in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let path = tree.unwrap().path().join(cgroup);
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if command.contains(home) {
            found.push(command.replace('\0', " "));
        }
    }
    found
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A root file system of busybox.
fn make_root(root: &Path) {
    for directory in ["bin", "etc", "tmp", "root", "home/web"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))
        .expect("busybox is installed (Debian's package busybox-static)");
    for applet in [
        "sh", "cat", "echo", "sleep", "ls", "id", "grep", "kill", "head", "tail", "dd", "mount", "mkdir",
        "stty", "hostname", "ps", "seq", "stat", "readlink", "touch", "wc", "true", "env", "ip", "nc",
        "chroot", "mknod", "yes", "printf", "unshare", "pwd",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1001:\nlog:x:2000:web\n").unwrap();
    fs::write(root.join("etc/not-a-program"), "text").unwrap();
    fs::write(root.join("bin/rubbish"), "\x7fNOT").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(root.join("bin/rubbish"), fs::Permissions::from_mode(0o755)).unwrap();
}
