//! Logs, commands in a container, and terminals: nothing is lost and nobody is waited for.

use std::fs;
use std::io::{Read, Write};

use shim::protocol::*;

use crate::fixture::{Sandbox, wait_until};

pub(crate) fn output_goes_to_the_log_in_cri_format() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.script("one", "echo out; echo err >&2; printf tail");
    sandbox.run(spec);
    let log = sandbox.log("one");
    let mut lines: Vec<&str> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P tail"]);
    for line in log.lines() {
        let time = line.split(' ').next().unwrap();
        assert!(time.len() == 30 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    }
    let spec = sandbox.script("two", "head -c 20000 /dev/zero | tr '\\0' x; echo");
    sandbox.run(spec);
    let tags: Vec<(String, usize)> = sandbox
        .log("two")
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.splitn(4, ' ').collect();
            (parts[2].to_owned(), parts[3].len())
        })
        .collect();
    assert!(tags == [("P".to_owned(), 16_384), ("F".to_owned(), 3616)] || tags.is_empty(), "{tags:?}");
}

pub(crate) fn a_log_is_rotated_and_loses_nothing_that_is_kept() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.script("one", "seq 1 20000");
    spec.log = Some(LogSpec { path: sandbox.log_path("one"), max_bytes: 300_000, max_files: 20 });
    sandbox.run(spec);
    let directory = sandbox.log_path("one").parent().unwrap().to_owned();
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The current one sorts first but is the last.
    files.sort();
    files.rotate_left(1);
    assert!(files.len() >= 3, "{files:?}");
    let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let numbers: Vec<u32> =
        text.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=20_000).collect::<Vec<_>>());
    for file in &files {
        assert!(fs::metadata(file).unwrap().len() < 350_000);
    }
}

pub(crate) fn a_full_disk_does_not_stop_the_container() {
    std::thread::spawn(|| {
        // A disk of its own, in mounts of this thread's own.
        sys::namespace::unshare(sys::namespace::Namespaces::MOUNT).unwrap();
        sys::mount::make_all_private().unwrap();
        let mut sandbox = Sandbox::new();
        let logs = sandbox.home.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let options = [("size", "64k")];
        let disk = sys::mount::Detached::new("tmpfs", &options, sys::mount::Attributes::NONE).unwrap();
        disk.attach_at(&logs).unwrap();
        let script = "seq 1 20000; while [ ! -e /go ]; do sleep 0.005; done; echo last; exit 6";
        let spec = sandbox.script("one", script);
        let pid = sandbox.start(spec);
        wait_until("a full disk", || {
            fs::metadata(logs.join("one/0.log")).is_ok_and(|log| log.len() > 32_000)
        });
        fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
        assert_eq!(sandbox.exit("one").code, 6);
        assert_eq!(shim::read_states(&sandbox.directory()).unwrap()[0].exit.as_ref().unwrap().code, 6);
        sandbox.delete("one");
        sys::mount::detach(&logs).unwrap();
    })
    .join()
    .unwrap();
}

pub(crate) fn exec_spec(id: &str, argv: &[&str]) -> ExecSpec {
    ExecSpec {
        container: "one".into(),
        id: id.into(),
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: Vec::new(),
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

pub(crate) fn exec_code(sandbox: &mut Sandbox, wanted: &str) -> i32 {
    loop {
        if let Event::ExecExited { id, code, .. } = sandbox.connection.event().unwrap()
            && id == wanted
        {
            return code;
        }
    }
}

fn text(mut file: fs::File) -> String {
    let mut bytes = Vec::new();
    // A terminal ends with an error.
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn a_command_is_executed_in_a_running_container() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.program("one", &["sleep", "1000"]);
    spec.env = vec!["COLOUR=red".into()];
    spec.user.image_user = "web".into();
    let pid = sandbox.start(spec);
    let script = "cat; echo $COLOUR $HOME $MORE >&2; id -u; cat /proc/1/comm; grep -E 'Seccomp:|CapEff' /proc/self/status; exit 9";
    let mut spec = exec_spec("e1", &["sh", "-c", script]);
    spec.env = vec!["MORE=less".into()];
    sandbox.connection.call(Request::Exec(Box::new(spec))).unwrap();
    let (mut stdin, stdout, stderr) = (sandbox.take_file(), sandbox.take_file(), sandbox.take_file());
    stdin.write_all(b"fed\n").unwrap();
    drop(stdin);
    assert_eq!(text(stdout), "fed\n1000\nsleep\nCapEff:\t0000000000000000\nSeccomp:\t2\n");
    assert_eq!(text(stderr), "red /home/web less\n");
    assert_eq!(exec_code(&mut sandbox, "e1"), 9);
    // It is in the container's cgroup while it runs.
    let spec = exec_spec("e2", &["sleep", "1000"]);
    let Reply::Exec { pid: second } = sandbox.connection.call(Request::Exec(Box::new(spec))).unwrap() else {
        panic!("no exec");
    };
    let group = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(group(pid), group(second));
    sandbox.connection.call(Request::SignalExec { id: "e2".into(), signal: 15 }).unwrap();
    assert_eq!(exec_code(&mut sandbox, "e2"), 143);
    let failure = sandbox.connection.call(Request::Exec(Box::new(exec_spec("e3", &["foo"])))).unwrap_err();
    assert_eq!(failure.to_string(), "exec: \"foo\": executable file not found in $PATH");
}

/// The version 2 tree, with a controller that groups below `cgroup` can be given. What was given at
/// the root is taken back.
struct Unified {
    root: std::path::PathBuf,
    taken_back: Option<String>,
}

impl Unified {
    fn with_controller(cgroup: &str) -> Option<(Self, String)> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let root = std::path::PathBuf::from(line.split(' ').nth(4)?);
        let first = |directory: &std::path::Path| {
            let controllers = fs::read_to_string(directory.join("cgroup.controllers")).ok()?;
            controllers.split_whitespace().next().map(str::to_owned)
        };
        let control = "cgroup.subtree_control";
        let mut unified = Unified { taken_back: None, root: root.clone() };
        if first(&root.join(cgroup)).is_none() {
            let controller = first(&root)?;
            fs::write(root.join(control), format!("+{controller}")).ok()?;
            unified.taken_back = Some(format!("-{controller}"));
        }
        let controller = first(&root.join(cgroup))?;
        fs::write(root.join(cgroup).join(control), format!("+{controller}")).ok()?;
        Some((unified, controller))
    }
}

impl Drop for Unified {
    fn drop(&mut self) {
        if let Some(controller) = &self.taken_back {
            let _ = fs::write(self.root.join("cgroup.subtree_control"), controller);
        }
    }
}

/// As systemd has it, or Docker in a Pod.
pub(crate) fn a_command_runs_in_a_container_with_groups_of_its_own() {
    // Dropped last: what was given to the groups can be taken back when they are gone.
    let unified;
    let mut sandbox = Sandbox::new();
    let spec = sandbox.program("one", &["sleep", "1000"]);
    let pid = sandbox.start(spec);
    let Some((found, controller)) = Unified::with_controller(&sandbox.cgroup) else {
        eprintln!("  skipped: no controller in a version 2 tree");
        return;
    };
    unified = found;
    let group = unified.root.join(&sandbox.cgroup).join("one");
    fs::create_dir(group.join("inner")).unwrap();
    fs::write(group.join("inner/cgroup.procs"), pid.to_string()).unwrap();
    fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    let spec = ExecSpec { stdin: false, stdout: false, stderr: false, ..exec_spec("e1", &["sleep", "1000"]) };
    let Reply::Exec { pid: second } = sandbox.connection.call(Request::Exec(Box::new(spec))).unwrap() else {
        panic!("no exec");
    };
    let group = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(group(pid), group(second));
    assert!(group(second).contains("/one/inner\n"));
    sandbox.connection.call(Request::SignalExec { id: "e1".into(), signal: 9 }).unwrap();
    assert_eq!(exec_code(&mut sandbox, "e1"), 137);
    drop(sandbox);
    drop(unified);
}

pub(crate) fn a_command_with_a_terminal_follows_the_window() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.program("one", &["sleep", "1000"]);
    sandbox.start(spec);
    let mut spec = exec_spec("e1", &["sh", "-c", "read x; stty size; echo $TERM; [ -t 0 ] && echo terminal"]);
    spec.tty = true;
    sandbox.connection.call(Request::Exec(Box::new(spec))).unwrap();
    let mut master = sandbox.take_file();
    sys::pty::resize(&master, 91, 33).unwrap();
    master.write_all(b"go\n").unwrap();
    assert_eq!(text(master), "go\r\n33 91\r\nxterm\r\nterminal\r\n");
    assert_eq!(exec_code(&mut sandbox, "e1"), 0);
}

pub(crate) fn a_container_with_a_terminal_is_attached_to() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.script(
        "one",
        "echo before; read line; stty size; echo got $line; readlink /proc/self/fd/0; ls /dev/console",
    );
    (spec.tty, spec.stdin) = (true, true);
    sandbox.start(spec);
    sandbox.wait_for_log("one", "before");
    sandbox.connection.call(Request::Resize { id: "one".into(), columns: 70, rows: 20 }).unwrap();
    let attach = Request::Attach { id: "one".into(), stdin: true, stdout: true, stderr: true };
    assert_eq!(sandbox.connection.call(attach).unwrap(), Reply::Attached { tty: true });
    let (mut stdin, stdout, _terminal) = (sandbox.take_file(), sandbox.take_file(), sandbox.take_file());
    stdin.write_all(b"words\n").unwrap();
    assert_eq!(text(stdout), "words\r\n20 70\r\ngot words\r\n/dev/pts/0\r\n/dev/console\r\n");
    assert_eq!(sandbox.exit("one").code, 0);
    assert!(sandbox.output("one").contains("got words"), "{}", sandbox.output("one"));
}

pub(crate) fn attached_input_reaches_the_container_and_ends_once() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.script("one", "cat; echo end >&2");
    (spec.stdin, spec.stdin_once) = (true, true);
    sandbox.start(spec);
    let attach = Request::Attach { id: "one".into(), stdin: true, stdout: true, stderr: true };
    assert_eq!(sandbox.connection.call(attach).unwrap(), Reply::Attached { tty: false });
    let (mut stdin, stdout, stderr) = (sandbox.take_file(), sandbox.take_file(), sandbox.take_file());
    stdin.write_all(b"a\nb\n").unwrap();
    drop(stdin);
    assert_eq!((text(stdout), text(stderr)), ("a\nb\n".to_owned(), "end\n".to_owned()));
    assert_eq!(sandbox.exit("one").code, 0);
    let mut spec = sandbox.script("two", "cat");
    spec.stdin = true;
    sandbox.start(spec);
    for word in ["first\n", "second\n"] {
        let attach = Request::Attach { id: "two".into(), stdin: true, stdout: false, stderr: false };
        sandbox.connection.call(attach).unwrap();
        sandbox.take_file().write_all(word.as_bytes()).unwrap();
        sandbox.wait_for_log("two", word.trim());
    }
    sandbox.connection.call(Request::CloseStdin { id: "two".into() }).unwrap();
    assert_eq!(sandbox.exit("two").code, 0);
}

pub(crate) fn an_attached_reader_that_stops_reading_loses_nothing() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.script("one", "while [ ! -e /go ]; do sleep 0.005; done; seq 1 100000");
    let pid = sandbox.start(spec);
    let attach = || Request::Attach { id: "one".into(), stdin: false, stdout: true, stderr: false };
    sandbox.connection.call(attach()).unwrap();
    let slow = sandbox.take_file();
    sandbox.connection.call(attach()).unwrap();
    // One that goes away does no harm.
    drop(sandbox.take_file());
    fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    let numbers: Vec<u32> = {
        // Reads only when the pipe has long been full.
        sandbox.wait_for_log("one", "F 30000\n");
        text(slow).lines().map(|line| line.parse().unwrap()).collect()
    };
    assert_eq!(numbers, (1..=100_000).collect::<Vec<_>>());
    assert_eq!(sandbox.exit("one").code, 0);
    wait_until("the last line", || sandbox.output("one").ends_with("\n100000\n"));
}
