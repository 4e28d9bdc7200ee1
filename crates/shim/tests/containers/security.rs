//! What a container may not do, tried from within one.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use shim::protocol::*;
use sys::capability::Capabilities;

use crate::fixture::Sandbox;

pub(crate) fn bind(source: &Path, destination: &str) -> Mount {
    Mount {
        destination: destination.into(),
        source: MountSource::Bind(source.into()),
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
        mapped: false,
    }
}

const LOOK: &str = "grep -E '^(CapEff|CapBnd|CapInh|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status; \
    wc -c < /proc/keys; ls -A /sys/firmware | wc -l; \
    (echo x > /proc/sys/kernel/domainname) 2>/dev/null && echo writable proc; \
    (mkdir /sys/fs/cgroup/memory/x) 2>/dev/null && echo writable cgroup; \
    cat /dev/null; head -c 1 /dev/zero | wc -c; unshare -m true 2>&1 | head -n 1";

pub(crate) fn an_ordinary_container_has_the_default_restrictions() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.script("one", LOOK);
    spec.security.no_new_privileges = true;
    let (_, output) = sandbox.run(spec);
    let expected = "CapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n0\n0\n1\n\
        unshare: unshare(0x20000): Operation not permitted\n";
    assert_eq!(output, expected);
    let spec = sandbox.script("two", "grep NoNewPrivs /proc/self/status; ls -A /dev | wc -l; mknod /tmp/disk b 254 0 && cat /tmp/disk 2>&1; touch /etc/written && echo written");
    let (_, output) = sandbox.run(spec);
    assert_eq!(output, "NoNewPrivs:\t0\n15\ncat: can't open '/tmp/disk': Operation not permitted\nwritten\n");
    let mut spec = sandbox.script("three", "grep CapEff /proc/self/status");
    spec.security.drop_capabilities = vec!["ALL".into()];
    spec.security.add_capabilities = vec!["NET_BIND_SERVICE".into()];
    assert_eq!(sandbox.run(spec).1, "CapEff:\t0000000000000400\n");
    let mut spec = sandbox.script("four", "touch /written; touch /dev/shm/x && echo shared memory");
    spec.readonly_rootfs = true;
    assert_eq!(sandbox.run(spec).1, "touch: /written: Read-only file system\nshared memory\n");
}

pub(crate) fn a_privileged_container_has_none() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.script("one", LOOK);
    spec.security.privileged = true;
    let (_, output) = sandbox.run(spec);
    let all = Capabilities::of_this_machine().bits();
    assert!(output.contains(&format!("CapEff:\t{all:016x}\n")), "{output}");
    assert!(output.contains("Seccomp:\t0\n"), "{output}");
    assert!(output.contains("writable proc\nwritable cgroup\n"), "{output}");
    assert!(!output.contains("not permitted"), "{output}");
    let mut spec = sandbox.script("two", "ls /dev | grep -cE '^(vda|kvm|loop-control|fuse)$'");
    spec.security.privileged = true;
    assert_ne!(sandbox.run(spec).1, "0\n", "devices of the node are there");
}

pub(crate) fn a_user_is_found_in_the_images_files() {
    let mut sandbox = Sandbox::new();
    let mut spec =
        sandbox.script("one", "id; echo $HOME; echo works > /proc/self/fd/1; grep CapEff /proc/self/status");
    spec.user = UserSpec { image_user: "web".into(), groups: vec![77], ..UserSpec::default() };
    let reply = sandbox.connection.call(Request::Create(Box::new(spec))).unwrap();
    let Reply::Created { user, .. } = reply else { panic!("{reply:?}") };
    assert_eq!((user.uid, user.gid, user.groups), (1000, 1001, vec![1001, 2000, 77]));
    sandbox.connection.call(Request::Start { id: "one".into() }).unwrap();
    sandbox.exit("one");
    assert_eq!(
        sandbox.output("one"),
        "uid=1000(web) gid=1001(web) groups=77,1001(web),2000(log)\n/home/web\nworks\nCapEff:\t0000000000000000\n"
    );
}

pub(crate) fn a_profile_of_the_node_is_applied() {
    let mut sandbox = Sandbox::new();
    let profile = sandbox.home.path().join("profile.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    fs::write(&profile, text).unwrap();
    let mut spec = sandbox.script("one", "mkdir /x; echo $?");
    spec.security.seccomp = Seccomp::Localhost(profile.clone());
    assert_eq!(sandbox.run(spec).1, "mkdir: can't create directory '/x': No space left on device\n1\n");
    fs::write(&profile, "not json").unwrap();
    let mut spec = sandbox.script("two", "true");
    spec.security.seccomp = Seccomp::Localhost(profile);
    let failure = sandbox.connection.call(Request::Create(Box::new(spec))).unwrap_err().to_string();
    assert!(
        failure.starts_with("cannot load seccomp profile \"/") && failure.contains("expected"),
        "{failure}"
    );
    let mut spec = sandbox.script("three", "grep Seccomp: /proc/self/status");
    spec.security.seccomp = Seccomp::Unconfined;
    assert_eq!(sandbox.run(spec).1, "Seccomp:\t0\n");
}

/// A 32-bit program of these instructions and nothing else.
fn program_of_32_bits(code: &[u8]) -> Vec<u8> {
    const AT: u32 = 0x0804_8000;
    let words = |list: &[u32]| list.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let size = 84 + code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for a 386, entered behind the headers; one segment, all of the file.
    file.extend(words(&[0x0003_0002, 1, AT + 84, 52, 0, 0, 0x0020_0034, 1, 0]));
    file.extend(words(&[1, 0, AT, AT, size, size, 5, 0x1000]));
    file.extend(code);
    file
}

pub(crate) fn a_32_bit_program_runs_and_is_held_by_the_default_profile() {
    let mut sandbox = Sandbox::new();
    let image = sandbox.home.path().join("image/bin");
    // mov eax, NUMBER; int 0x80; neg eax; mov ebx, eax; mov eax, 1 (exit); int 0x80
    for (name, number, code) in [("getpid", 20_u32, 255), ("mount", 21, 1), ("unknown", 500, 38)] {
        let mut instructions = vec![0xb8];
        instructions.extend(number.to_le_bytes());
        instructions.extend([0xcd, 0x80, 0xf7, 0xd8, 0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80]);
        let path = image.join(name);
        fs::write(&path, program_of_32_bits(&instructions)).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let spec = sandbox.program(name, &[name]);
        let (exit, _) = sandbox.run(spec);
        assert_eq!((exit.code, exit.start_error.as_str()), (code, ""), "{name}");
    }
}

pub(crate) fn mounts_have_their_attributes() {
    let mut sandbox = Sandbox::new();
    let data = sandbox.home.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "content\n").unwrap();
    let mut spec = sandbox.script(
        "one",
        "cat /data/file /deep/er/file; (echo x > /ro/new) 2>&1; echo new > /data/new; touch /mem/x; stat -c %a /mem; cd /work/place && pwd; ls /dev/shm",
    );
    spec.mounts = vec![bind(&data, "/data"), bind(&data.join("file"), "/deep/er/file")];
    spec.mounts.push(Mount { read_only: true, recursive_read_only: true, ..bind(&data, "/ro") });
    spec.mounts
        .push(Mount { source: MountSource::Tmpfs { size: 1 << 20, mode: 0o1777 }, ..bind(&data, "/mem") });
    spec.mounts.push(bind(&data, "/dev/shm"));
    spec.cwd = "/work/place".into();
    let (exit, output) = sandbox.run(spec);
    assert_eq!(
        (exit.code, output.as_str()),
        (
            0,
            "content\ncontent\nsh: can't create /ro/new: Read-only file system\n1777\n/work/place\nfile\nnew\n"
        )
    );
    assert_eq!(fs::read_to_string(data.join("new")).unwrap(), "new\n");
    let mut spec = sandbox.script("two", "true");
    spec.mounts = vec![bind(&data, "/etc/passwd")];
    let failure = sandbox.connection.call(Request::Create(Box::new(spec))).unwrap_err().to_string();
    assert!(
        failure.contains("Are you trying to mount a directory onto a file (or vice-versa)?"),
        "{failure}"
    );
}

pub(crate) fn mounts_travel_as_far_as_they_may() {
    use sys::mount::{Attributes, Detached, Propagation as Kind};
    std::thread::spawn(|| {
        sys::namespace::unshare(sys::namespace::Namespaces::MOUNT).unwrap();
        sys::mount::make_all_private().unwrap();
        let home = tempfile::tempdir().unwrap();
        let volume = || Detached::new("tmpfs", &[], Attributes::NONE).unwrap();
        let shared = volume();
        shared.propagate(Kind::Shared).unwrap();
        shared.attach_at(home.path()).unwrap();
        let mut sandbox = Sandbox::new();
        for name in ["private", "slave", "shared"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        let script = "echo ready; while [ ! -e /go ]; do sleep 0.005; done; \
                      for d in private slave shared; do ls /$d/late; done; \
                      mkdir /slave/own /shared/in; mount -t tmpfs none /slave/own; mount -t tmpfs none /shared/in; \
                      touch /slave/own/made /shared/in/made; sleep 1000";
        let mut spec = sandbox.script("one", script);
        spec.security.privileged = true;
        for (name, propagation) in [
            ("private", Propagation::Private),
            ("slave", Propagation::HostToContainer),
            ("shared", Propagation::Bidirectional),
        ] {
            spec.mounts.push(Mount { propagation, ..bind(home.path(), &format!("/{name}")) });
        }
        let pid = sandbox.start(spec);
        sandbox.wait_for_log("one", "ready");
        fs::create_dir(home.path().join("late")).unwrap();
        volume().attach_at(&home.path().join("late")).unwrap();
        fs::write(home.path().join("late/file"), "").unwrap();
        fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
        crate::fixture::wait_until("the container's mount", || home.path().join("in/made").exists());
        assert_eq!(sandbox.output("one"), "ready\nfile\nfile\n", "not in the private one");
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(mounts.contains("/in ") && !mounts.contains("/own "), "{mounts}");
        drop(sandbox);
        for path in ["in", "late", ""] {
            sys::mount::detach(&home.path().join(path)).unwrap();
        }
    })
    .join()
    .unwrap();
}

pub(crate) fn links_of_an_image_do_not_lead_out() {
    let mut sandbox = Sandbox::new();
    let outside = sandbox.home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let image = sandbox.home.path().join("image");
    symlink(&outside, image.join("absolute")).unwrap();
    symlink("../../../../../..".to_owned() + outside.to_str().unwrap(), image.join("climbing")).unwrap();
    symlink("/proc/self/fd/5", image.join("magic")).unwrap();
    let source = sandbox.home.path().join("source");
    fs::write(&source, "content\n").unwrap();
    let mut spec = sandbox.script("one", "cat /absolute/a /climbing/b");
    spec.mounts = vec![bind(&source, "/absolute/a"), bind(&source, "/climbing/b")];
    assert_eq!(sandbox.run(spec).1, "content\ncontent\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing was made outside");
    let mut spec = sandbox.script("two", "true");
    spec.mounts = vec![bind(&source, "/magic/c")];
    let failure = sandbox.connection.call(Request::Create(Box::new(spec))).unwrap_err().to_string();
    assert!(failure.contains("/magic/c"), "{failure}");
}
