//! Attacks from containers on what becomes a process among theirs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use shim::client::ClientError;
use shim::protocol::*;

use crate::fixture::{Sandbox, specification, wait_until};
use crate::streams::{exec_code, exec_spec};

/// The capabilities of a container with `SYS_PTRACE` added, and of one that asks for nothing.
const ORDINARY: &str = "00000000a80425fb|00000000a80c25fb|0000000000000000";

/// A container that looks at all processes it can see, as fast as it can, through the eyes that
/// `SYS_PTRACE` gives: for a file of the node's below their roots, and for one that may do more
/// than containers may.
fn attacker(sandbox: &Sandbox) -> ContainerSpec {
    let marker = marker(sandbox);
    fs::write(&marker, "").unwrap();
    let marker = marker.display();
    let script = format!(
        r#"(while [ ! -e /stop ]; do
            for seen in /proc/[0-9]*/root{marker}; do [ -e "$seen" ] && echo "files of the node: $seen"; done
        done) &
        echo ready
        while [ ! -e /stop ]; do
            for seen in /proc/[0-9]*/status; do
                while read -r key value; do
                    [ "$key" = CapEff: ] || continue
                    case "$value" in {ORDINARY}) ;; *) echo "capabilities: $seen $value";; esac
                    break
                done < "$seen"
            done 2>/dev/null
        done
        wait"#
    );
    let mut spec = sandbox.script("attacker", &script);
    spec.security.add_capabilities = vec!["SYS_PTRACE".into()];
    spec
}

fn marker(sandbox: &Sandbox) -> PathBuf {
    sandbox.home.path().join("marker")
}

/// What the attacker has seen.
fn seen(sandbox: &mut Sandbox, pid: i32) -> String {
    fs::write(format!("/proc/{pid}/root/stop"), "").unwrap();
    sandbox.exit("attacker");
    sandbox.output("attacker").lines().skip(1).take(20).collect()
}

fn run_command(sandbox: &mut Sandbox, container: &str, id: &str) {
    let spec = ExecSpec { container: container.into(), stdin: false, ..exec_spec(id, &["true"]) };
    sandbox.connection.call(Request::Exec(Box::new(spec))).unwrap();
    drop((sandbox.take_file(), sandbox.take_file()));
    assert_eq!(exec_code(sandbox, id), 0);
}

pub(crate) fn a_command_is_not_seen_while_it_may_do_more_than_its_container() {
    let mut sandbox = Sandbox::new();
    let spec = attacker(&sandbox);
    let pid = sandbox.start(spec);
    sandbox.wait_for_log("attacker", "ready");
    for round in 0..80 {
        run_command(&mut sandbox, "attacker", &format!("e{round}"));
    }
    assert_eq!(seen(&mut sandbox, pid), "");
}

pub(crate) fn a_container_is_born_among_others_with_nothing_of_the_nodes() {
    let mut sandbox = Sandbox::with(SandboxSpec { shared_pid: true, ..specification() });
    let mut spec = attacker(&sandbox);
    spec.pid = PidMode::Sandbox;
    let pid = sandbox.start(spec);
    sandbox.wait_for_log("attacker", "ready");
    let mut victim = sandbox.program("victim", &["sleep", "1000"]);
    victim.pid = PidMode::Sandbox;
    sandbox.start(victim);
    for round in 0..24 {
        let id = format!("c{round}");
        let mut spec = sandbox.program(&id, &["true"]);
        spec.pid = if round % 2 == 0 { PidMode::Sandbox } else { PidMode::Container("attacker".into()) };
        assert_eq!(sandbox.run(spec).0.code, 0);
        sandbox.delete(&id);
        run_command(&mut sandbox, "victim", &format!("e{round}"));
    }
    assert_eq!(seen(&mut sandbox, pid), "");
}

pub(crate) fn a_container_beside_another_has_that_ones_processes() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.program("one", &["sleep", "1000"]);
    let first = sandbox.start(spec);
    let mut spec = sandbox.script(
        "two",
        "cat /proc/1/comm; [ -e /proc/$$ ] && echo itself; ps -o stat,args | grep -c '[s]leep 1000'; \
         (echo x > /proc/sys/kernel/domainname) 2>/dev/null && echo writable; wc -c < /proc/keys; \
         stat -c %T -f /proc; [ -t 0 ] && echo terminal; exit 7",
    );
    (spec.pid, spec.tty) = (PidMode::Container("one".into()), true);
    let created = sandbox.connection.call(Request::Create(Box::new(spec))).unwrap();
    assert!(matches!(created, Reply::Created { .. }), "{created:?}");
    let started = sandbox.connection.call(Request::Start { id: "two".into() }).unwrap();
    let Reply::Started { pid, .. } = started else { panic!("{started:?}") };
    let exit = sandbox.exit("two");
    assert_eq!((exit.code, exit.start_error.as_str()), (7, ""));
    assert_eq!(sandbox.output("two"), "sleep\nitself\n1\n0\nproc\nterminal\n");
    assert!(pid != first);
    let mut spec = sandbox.program("three", &["no-such-program"]);
    spec.pid = PidMode::Container("one".into());
    sandbox.connection.call(Request::Create(Box::new(spec))).unwrap();
    let failure = sandbox.connection.call(Request::Start { id: "three".into() }).unwrap_err();
    assert!(matches!(failure, ClientError::Refused(f) if f.kind == FailureKind::StartError));
    let mut spec = sandbox.program("four", &["sleep", "1000"]);
    spec.pid = PidMode::Container("one".into());
    let pid = sandbox.start(spec);
    sandbox.connection.call(Request::Signal { id: "four".into(), signal: 15, all: false }).unwrap();
    assert_eq!(sandbox.exit("four").signal, 15);
    wait_until("its end", || sys::process::kill(pid, 0).is_err());
}

pub(crate) fn the_first_process_of_a_shared_namespace_has_nothing() {
    let mut sandbox = Sandbox::with(SandboxSpec { shared_pid: true, ..specification() });
    let script = "grep -E '^(Uid|CapPrm|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status; \
         ls -A /proc/1/root/ /proc/1/root/proc; ls /proc/1/fd | grep -v '[012]'; \
         echo x 2>/dev/null > /proc/1/root/file && echo written; kill -9 1; cat /proc/1/comm";
    let mut spec = sandbox.script("one", script);
    spec.pid = PidMode::Sandbox;
    spec.security.add_capabilities = vec!["SYS_PTRACE".into()];
    let (_, output) = sandbox.run(spec);
    let expected = "Uid:\t65535\t65535\t65535\t65535\nCapPrm:\t0000000000000000\nCapBnd:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\n/proc/1/root/:\nproc\n\n/proc/1/root/proc:\nmonopod-pause\n";
    assert_eq!(output, expected);
    // Without the capability not even that is to be seen.
    let mut spec = sandbox.script("two", "ls /proc/1/root/ 2>&1");
    spec.pid = PidMode::Sandbox;
    assert_eq!(sandbox.run(spec).1, "ls: /proc/1/root/: Permission denied\n");
}

pub(crate) fn a_program_has_its_three_streams_and_no_other_descriptor() {
    let mut sandbox = Sandbox::with(SandboxSpec { shared_pid: true, ..specification() });
    let descriptors = |pid: i32| {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    for (id, pid) in [("own", PidMode::Own), ("shared", PidMode::Sandbox), ("one", PidMode::Own)] {
        let mut spec = sandbox.program(id, &["sleep", "1000"]);
        spec.pid = pid;
        let pid = sandbox.start(spec);
        assert_eq!(descriptors(pid), ["0", "1", "2"], "{id}");
        // What is changed through it is not the node's.
        let identity = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino())).unwrap();
        assert_ne!(identity(&format!("/proc/{pid}/fd/0")), identity("/dev/null"), "{id}");
    }
    let spec = ExecSpec { stdin: false, stdout: false, ..exec_spec("e1", &["sleep", "1000"]) };
    let Reply::Exec { pid } = sandbox.connection.call(Request::Exec(Box::new(spec))).unwrap() else {
        panic!("no exec");
    };
    assert_eq!(descriptors(pid), ["0", "1", "2"]);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().to_owned();
    assert_eq!(parent, sandbox.pid.to_string(), "its end is the shim's to take");
}

/// The program of a container that is the shim's own: tries to change its file.
pub(crate) fn attack_executable() -> std::process::ExitCode {
    use rustix::fs::{AtFlags, CWD, Mode, OFlags};
    let exe = "/proc/self/exe";
    let mode = fs::metadata(exe).unwrap().mode();
    // The mode that it has: where this succeeds nothing is harmed.
    eprintln!("mode: {:?}", rustix::fs::chmod(exe, Mode::from_raw_mode(mode & 0o7777)));
    eprintln!("link: {:?}", rustix::fs::linkat(CWD, exe, CWD, "/tmp/exe", AtFlags::SYMLINK_FOLLOW));
    // Running it is enough to keep it from being written; what counts is that the mount does too.
    eprintln!("write: {}", rustix::fs::open(exe, OFlags::WRONLY, Mode::empty()).is_ok());
    let read_only = rustix::fs::statvfs(exe).unwrap().f_flag;
    eprintln!("read-only: {}", read_only.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    std::process::ExitCode::SUCCESS
}

pub(crate) fn the_program_of_the_shim_cannot_be_changed_from_a_container() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.program("one", &["/proc/self/exe", "attack-executable"]);
    let (exit, output) = sandbox.run(spec);
    assert_eq!(exit.code, 0, "{output}");
    let expected = "mode: Err(Os { code: 30, kind: ReadOnlyFilesystem, message: \"Read-only file system\" })\n\
        link: Err(Os { code: 18, kind: CrossesDevices, message: \"Cross-device link\" })\n\
        write: false\nread-only: true\n";
    assert_eq!(output, expected);
    // It is the same file nevertheless: its pages are in memory once for all who run it.
    let inode = fs::metadata(std::env::current_exe().unwrap()).unwrap().ino().to_string();
    let maps = fs::read_to_string(format!("/proc/{}/maps", sandbox.pid)).unwrap();
    assert_eq!(maps.split_whitespace().nth(4), Some(inode.as_str()), "{maps}");
}

pub(crate) fn a_filter_that_forbids_forks_holds_for_commands_too() {
    let mut sandbox = Sandbox::new();
    let profile = sandbox.home.path().join("profile.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
        [{"names": ["clone", "clone3", "fork", "vfork"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(&profile, text).unwrap();
    let mut spec = sandbox.program("one", &["sleep", "1000"]);
    spec.security.seccomp = Seccomp::Localhost(profile);
    sandbox.start(spec);
    let script = "echo $$ > /tmp/ran; (true) && echo forked";
    let spec = ExecSpec { stdin: false, stderr: false, ..exec_spec("e1", &["sh", "-c", script]) };
    sandbox.connection.call(Request::Exec(Box::new(spec))).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut sandbox.take_file(), &mut said).unwrap();
    assert_ne!(exec_code(&mut sandbox, "e1"), 0);
    assert_eq!(said, "", "the command could fork");
    assert!(sandbox.home.path().join("one/upper/tmp/ran").exists(), "it has run");
}

pub(crate) fn a_container_sees_no_cgroups_but_its_own() {
    let mut sandbox = Sandbox::new();
    let script = "grep -c ' /sys/fs/cgroup[^ ]* cgroup' /proc/mounts; \
        busybox find /sys/fs/cgroup -name cgroup.procs | wc -l; \
        for list in $(busybox find /sys/fs/cgroup -name cgroup.procs); do head -n 1 $list; done | busybox sort -u; \
        grep -v ':/$' /proc/self/cgroup | grep -vE '(name=|perf_event|net_cls|hugetlb|misc|rdma)'";
    let spec = sandbox.script("one", script);
    let (_, output) = sandbox.run(spec);
    let lines: Vec<&str> = output.lines().collect();
    let [trees, groups, first] = lines[..] else { panic!("{output}") };
    assert!(trees == groups && trees != "0", "one group in each tree: {output}");
    assert_eq!(first, "1", "and in each it is the container's");
}

pub(crate) fn a_shim_needs_nothing_of_what_users_share() {
    let sandbox = Sandbox::new();
    let open = fs::read_dir(format!("/proc/{}/fd", sandbox.pid)).unwrap();
    let open: Vec<_> = open.map(|entry| fs::read_link(entry.unwrap().path()).unwrap()).collect();
    assert!(!open.iter().any(|file| file.to_string_lossy().contains("inotify")), "{open:?}");
}

pub(crate) fn a_working_directory_outside_is_refused() {
    let mut sandbox = Sandbox::new();
    // No descriptor of the node's leads out; whichever number is tried, nothing outside is reached.
    for number in 3..24 {
        let id = format!("c{number}");
        let mut spec = sandbox.script(&id, "pwd; ls ../../../.. | head -n 3");
        spec.cwd = format!("/proc/self/fd/{number}");
        if sandbox.connection.call(Request::Create(Box::new(spec))).is_err() {
            continue;
        }
        let failure = sandbox.connection.call(Request::Start { id }).unwrap_err();
        assert!(matches!(failure, ClientError::Refused(f) if f.kind == FailureKind::StartError));
    }
}
