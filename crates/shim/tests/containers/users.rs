//! A Pod whose users are not the node's.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use shim::protocol::*;

use crate::fixture::{Sandbox, specification};
use crate::security::bind;

const FIRST: u32 = 1_310_720;

fn apart() -> SandboxSpec {
    SandboxSpec { users: Some(IdRange { first: FIRST, length: 65_536 }), ..specification() }
}

const LOOK: &str = "id; cat /proc/self/uid_map; \
    stat -c '%u:%g %n' / /bin/sh /dev /dev/null /dev/pts/ptmx /v/*; \
    touch /made /v/made && stat -c '%u %n' /made /v/made; \
    grep -E '^Cap(Eff|Bnd):' /proc/self/status; echo x > /proc/self/fd/2; echo err >&2; \
    hostname other && hostname; ip link set lo down && echo down; sleep 1000 & echo $!; wait";

const SEEN: [&str; 14] = [
    "uid=0(root) gid=0(root)",
    "0    1310720      65536",
    "0:0 /\n",
    "0:0 /bin/sh\n",
    "0:0 /dev\n",
    "0:0 /dev/null\n",
    "0:0 /dev/pts/ptmx\n",
    "0:0 /v/of-root\n",
    "1000:1001 /v/of-web\n",
    "0 /made\n",
    "0 /v/made\n",
    "CapEff:\t00000000a82435fb\nCapBnd:\t00000000a82435fb\n",
    "x\nerr\n",
    "other\n",
];

pub(crate) fn root_of_a_pod_apart_is_nobody_on_the_node() {
    let mut sandbox = Sandbox::with(apart());
    let volume = sandbox.home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("of-root"), "").unwrap();
    fs::write(volume.join("of-web"), "").unwrap();
    chown(volume.join("of-web"), Some(1000), Some(1001)).unwrap();
    let mut spec = sandbox.script("one", LOOK);
    spec.mounts.push(bind(&volume, "/v"));
    spec.security.add_capabilities = vec!["NET_ADMIN".into(), "SYS_ADMIN".into()];
    let pid = sandbox.start(spec);
    sandbox.wait_for_log("one", "down");
    must_show(&sandbox.output("one"), &SEEN);
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    assert_eq!(owner(Path::new(&format!("/proc/{pid}/root/made"))), FIRST);
    assert_eq!(owner(&sandbox.home.path().join("one/upper/made")), FIRST, "its layer is its own");
    assert_eq!(owner(&volume.join("made")), 0, "a volume is mapped");
    assert_eq!(owner(&sandbox.home.path().join("image/bin/sh")), 0, "an image is nobody's");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    must_show(&status, &[&format!("Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\n")]);
}

fn must_show(text: &str, all: &[&str]) {
    for wanted in all {
        assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
    }
}

const TRIES: &str = "mknod /tmp/disk b 254 0; echo x > /proc/sys/kernel/core_pattern; mount -t proc p /tmp; \
    mount -t tmpfs t /tmp && echo own mounts; umount /proc/kcore; umount /sys/firmware; \
    mount -o remount,rw,bind /proc/sys; ls -A /sys/firmware | wc -l; \
    echo x > /proc/sys/kernel/domainname; chown 70000 /bin/sh; echo end";

pub(crate) fn nothing_of_the_nodes_root_is_within_reach_of_a_pod_apart() {
    let mut sandbox = Sandbox::with(apart());
    let mut spec = sandbox.script("one", &format!("({TRIES}) 2>&1"));
    spec.security.seccomp = Seccomp::Unconfined;
    spec.security.add_capabilities = vec!["ALL".into()];
    let (_, output) = sandbox.run(spec);
    must_show(&output, &["own mounts\n", "0\n", "end\n", "mknod: /tmp/disk: Operation not permitted"]);
    for refused in ["core_pattern", "/proc/kcore", "/sys/firmware", "/proc/sys", "domainname", "/bin/sh"] {
        let told = output.lines().any(|line| line.contains(refused) && line.contains(": "));
        assert!(told, "nothing was said of {refused}:\n{output}");
    }
}

pub(crate) fn a_user_of_a_pod_apart_has_nothing_of_its_root() {
    let mut sandbox = Sandbox::with(apart());
    let script = "id -u; (echo x > /etc/passwd) && echo written; grep Cap /proc/self/status";
    let mut spec = sandbox.script("one", script);
    spec.user = UserSpec { uid: Some(1000), ..UserSpec::default() };
    let (_, output) = sandbox.run(spec);
    assert!(output.starts_with("1000\n") && !output.contains("written"), "{output}");
    must_show(&output, &["CapEff:\t0000000000000000"]);
    let mut spec = sandbox.script("two", "true");
    spec.user = UserSpec { uid: Some(70_000), ..UserSpec::default() };
    let failure = sandbox.connection.call(Request::Create(Box::new(spec))).unwrap_err();
    let words = "user 70000 is not in the Pod's user namespace, which has 0 to 65535";
    assert_eq!(failure.to_string(), words);
}

/// A Pod with parameters of its own namespaces, and a container with a terminal in it.
fn with_terminal() -> Sandbox {
    let sysctls = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_unprivileged_port_start", "0")];
    let sysctls = sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mut sandbox = Sandbox::with(SandboxSpec { sysctls, ..apart() });
    let mut spec = sandbox.script("one", "cat /proc/sys/kernel/shm_rmid_forced; echo up; read x; sleep 1000");
    (spec.tty, spec.stdin) = (true, true);
    spec.user = UserSpec { uid: Some(1000), gid: Some(1001), ..UserSpec::default() };
    sandbox.start(spec);
    sandbox.wait_for_log("one", "up");
    sandbox
}

pub(crate) fn commands_terminals_and_debuggers_join_a_pod_apart() {
    let mut sandbox = with_terminal();
    assert!(sandbox.output("one").starts_with('1'), "{}", sandbox.output("one"));
    for tty in [false, true] {
        let script = "id -u; stat -c '%u' /proc/self/fd/1; cat /proc/self/uid_map | wc -l";
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let (container, id, env) = ("one".to_owned(), format!("e{tty}"), Vec::new());
        let exec = ExecSpec { container, id, argv, env, tty, stdin: false, stdout: true, stderr: false };
        sandbox.connection.call(Request::Exec(Box::new(exec))).unwrap();
        let mut text = String::new();
        // A terminal's other end ends with an error.
        let _ = std::io::Read::read_to_string(&mut sandbox.take_file(), &mut text);
        assert_eq!(text.replace('\r', ""), "1000\n1000\n1\n", "terminal: {tty}");
    }
    let script = "ps | grep -c '[s]hm_rmid_forced'; (echo x > /proc/sys/kernel/domainname) || echo covered";
    let mut spec = sandbox.script("debugger", script);
    spec.pid = PidMode::Container("one".into());
    let (_, output) = sandbox.run(spec);
    assert!(!output.starts_with('0') && output.contains("covered"), "{output}");
}

pub(crate) fn a_shared_pid_namespace_is_joined_by_a_pod_apart() {
    let mut sandbox = Sandbox::with(SandboxSpec { shared_pid: true, ..apart() });
    let mut spec = sandbox.script("one", "id -u; ps | grep -c paus[e]; kill -9 1; readlink /proc/1/root; mkdir /dev/mqueue/x; touch /dev/mqueue/q && echo queue");
    spec.pid = PidMode::Sandbox;
    spec.security.add_capabilities = vec!["SYS_PTRACE".into()];
    let (_, output) = sandbox.run(spec);
    assert!(output.starts_with("0\n1\n") && output.contains("queue\n"), "{output}");
}

pub(crate) fn proc_can_be_unmasked_in_a_pod_apart() {
    let mut sandbox = Sandbox::with(apart());
    let mut spec = sandbox.script(
        "one",
        "unshare -Urpfm --mount-proc sh -c 'id -u; ls -d /proc/1' 2>&1; \
         echo 5 > /proc/sys/net/ipv4/tcp_fin_timeout && cat /proc/sys/net/ipv4/tcp_fin_timeout; \
         (echo x > /proc/sys/kernel/core_pattern) 2>&1",
    );
    spec.security.unmasked_proc = true;
    spec.security.add_capabilities = vec!["NET_ADMIN".into()];
    spec.security.seccomp = Seccomp::Unconfined;
    let (_, output) = sandbox.run(spec);
    assert!(output.contains("0\n/proc/1\n"), "a container in the container: {output}");
    assert!(output.contains("5\n") && output.contains("denied"), "{output}");
}

pub(crate) fn a_volume_that_cannot_be_mapped_is_refused_by_name() {
    let mut sandbox = Sandbox::with(apart());
    let mut spec = sandbox.script("one", "true");
    spec.mounts.push(bind(Path::new("/proc/sys"), "/v"));
    let failure = sandbox.connection.call(Request::Create(Box::new(spec))).unwrap_err().to_string();
    let words = "error mounting \"/proc/sys\" to rootfs at \"/v\": failed to set MOUNT_ATTR_IDMAP: invalid argument \
        (maybe the filesystem used doesn't support idmap mounts on this kernel?)";
    assert_eq!(failure, words);
}
