//! What the release before this one said and wrote down, and that this one understands it.
//!
//! `testdata/protocol-1` was recorded from that release, one JSON text of a frame a line, and is
//! never changed: a shim that was started by it lives on, with its Pod, under every later daemon.
//! A new field needs a default, a new request a version (`Request::since`).

use serde_json::Value;
use shim::codec::Decoder;
use shim::protocol::*;

/// One of each message, every field filled.
fn samples() -> Vec<Message> {
    let requests = requests().into_iter().zip(1..).map(|(request, id)| Message::Request { id, request });
    let results = replies().into_iter().map(Ok).chain(failures().into_iter().map(Err));
    let results = results.zip(1..).map(|(result, id)| Message::Reply { id, result });
    requests.chain(results).chain(events().into_iter().map(Message::Event)).collect()
}

fn requests() -> Vec<Request> {
    let id = || "c1".to_owned();
    vec![
        Request::Open(sandbox()),
        Request::Open(SandboxSpec {
            network: SandboxNetwork::Host,
            hostname: None,
            cgroup: None,
            ..sandbox()
        }),
        Request::Hello { version: 1 },
        Request::Subscribe,
        Request::State,
        Request::Create(Box::new(container())),
        Request::Create(Box::new(ContainerSpec::new(
            "c2",
            Rootfs::Directory("/root".into()),
            Vec::new(),
            "g",
        ))),
        Request::Start { id: id() },
        Request::Signal { id: id(), signal: 15, all: true },
        Request::Exec(Box::new(exec())),
        Request::SignalExec { id: "e1".into(), signal: 9 },
        Request::Attach { id: id(), stdin: true, stdout: true, stderr: false },
        Request::Resize { id: id(), columns: 80, rows: 25 },
        Request::CloseStdin { id: id() },
        Request::Update { id: id(), resources: resources() },
        Request::ReopenLog { id: id() },
        Request::Delete { id: id() },
        Request::Shutdown,
    ]
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Hello { version: 1, pid: 4242, pause_pid: Some(4243), oldest: 1 },
        Reply::State { containers: states(), execs: vec![exec_state()] },
        Reply::Created { pid: 4244, user: user() },
        Reply::Started { pid: 4244, started_at: 1_795_251_600_000_000_001 },
        Reply::Exec { pid: 4245 },
        Reply::Attached { tty: true },
        Reply::Done,
    ]
}

fn failures() -> Vec<Failure> {
    let kinds = [
        FailureKind::NotFound,
        FailureKind::AlreadyExists,
        FailureKind::WrongState,
        FailureKind::StartError,
        FailureKind::Invalid,
        FailureKind::Host,
    ];
    kinds.into_iter().map(|kind| Failure { kind, message: "no".into() }).collect()
}

fn events() -> Vec<Event> {
    vec![
        Event::ContainerExited { id: "c1".into(), exit: exit() },
        Event::ContainerOom { id: "c1".into() },
        Event::ExecExited { id: "e1".into(), container: "c1".into(), code: 3, time: 7 },
    ]
}

fn sandbox() -> SandboxSpec {
    SandboxSpec {
        version: 1,
        id: "s1".into(),
        network: SandboxNetwork::Own(Some(Interface {
            name: "eth0".into(),
            host_name: "v0".into(),
            bridge: "mp0".into(),
            address: [10, 42, 0, 5].into(),
            prefix: 24,
            gateway: Some([10, 42, 0, 1].into()),
            mtu: 1400,
        })),
        ipc: true,
        hostname: Some("pod".into()),
        shared_pid: true,
        sysctls: vec![("net.core.somaxconn".into(), "77".into())],
        cgroup: Some("monopod/shims".into()),
        users: None,
    }
}

fn container() -> ContainerSpec {
    let overlay =
        Rootfs::Overlay { lowers: vec!["/l1".into(), "/l0".into()], upper: "/u".into(), work: "/w".into() };
    let mut spec = ContainerSpec::new("c1", overlay, vec!["sh".into(), "-c".into()], "kubepods/c1");
    spec.readonly_rootfs = true;
    spec.mounts = mounts();
    spec.env = vec!["A=1".into()];
    spec.cwd = "/work".into();
    spec.user = UserSpec {
        uid: Some(1),
        gid: Some(2),
        image_user: "web:log".into(),
        groups: vec![3],
        strict_groups: true,
    };
    spec.security = Security {
        privileged: true,
        no_new_privileges: true,
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["ALL".into()],
        seccomp: Seccomp::Localhost("/profile.json".into()),
        unmasked_proc: true,
    };
    spec.devices = vec![Device {
        host_path: "/dev/fuse".into(),
        container_path: "/dev/fuse".into(),
        permissions: "rwm".into(),
    }];
    (spec.tty, spec.stdin, spec.stdin_once) = (true, true, true);
    spec.log = Some(LogSpec { path: "/log/0.log".into(), max_bytes: 10, max_files: 2 });
    spec.resources = resources();
    spec.oom_score_adj = 900;
    spec.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 1, hard: 2 }];
    spec.pid = PidMode::Container("c0".into());
    spec
}

fn mounts() -> Vec<Mount> {
    let mount = |source, propagation| Mount {
        destination: "/data".into(),
        source,
        read_only: true,
        recursive_read_only: true,
        propagation,
        mapped: false,
    };
    vec![
        mount(MountSource::Bind("/host".into()), Propagation::HostToContainer),
        mount(MountSource::Bind("/host".into()), Propagation::Bidirectional),
        mount(MountSource::Tmpfs { size: 1, mode: 0o1777 }, Propagation::Private),
    ]
}

fn resources() -> Resources {
    Resources {
        cpu_shares: 2,
        cpu_quota: 3,
        cpu_period: 4,
        memory_limit: 5,
        pids_limit: 6,
        cpuset_cpus: "0-1".into(),
        cpuset_mems: "0".into(),
        ..Resources::default()
    }
}

fn exec() -> ExecSpec {
    ExecSpec {
        container: "c1".into(),
        id: "e1".into(),
        argv: vec!["true".into()],
        env: vec!["B=2".into()],
        tty: true,
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

fn user() -> ResolvedUser {
    ResolvedUser { uid: 1000, gid: 1001, groups: vec![1001, 2000] }
}

fn exit() -> Exit {
    Exit { code: 137, signal: 9, oom_killed: true, time: 9, start_error: "exec: \"x\"".into() }
}

fn states() -> Vec<ContainerState> {
    let state = |status, exit| ContainerState {
        id: "c1".into(),
        status,
        pid: 4244,
        user: user(),
        created_at: 1,
        started_at: 2,
        exit,
    };
    let living = [Status::Creating, Status::Created, Status::Starting, Status::Running];
    living
        .into_iter()
        .map(|status| state(status, None))
        .chain([state(Status::Exited, Some(exit()))])
        .collect()
}

fn exec_state() -> ExecState {
    ExecState { id: "e1".into(), container: "c1".into(), pid: 4245 }
}

const RECORDED: &str = include_str!("../testdata/protocol-1");

#[test]
fn what_the_release_before_has_said_is_understood() {
    let mut decoder = Decoder::default();
    for line in RECORDED.lines() {
        decoder.push(&u32::try_from(line.len()).unwrap().to_be_bytes());
        decoder.push(line.as_bytes());
    }
    for sample in samples() {
        assert_eq!(decoder.next_message().unwrap().unwrap().unwrap(), sample);
    }
    assert!(decoder.next_message().unwrap().is_none(), "a sample of each recorded message");
}

/// That release reads what it knows and passes over the rest: so everything it knows must be there,
/// as it was.
#[test]
fn what_is_said_now_is_understood_by_the_release_before() {
    for (sample, line) in samples().iter().zip(RECORDED.lines()) {
        let recorded: Value = serde_json::from_str(line).unwrap();
        let frame = shim::codec::encode(sample).unwrap();
        let now: Value = serde_json::from_slice(&frame[4..]).unwrap();
        assert!(holds(&now, &recorded), "{now} does not hold {recorded}");
    }
}

/// True when all of `part` is in `whole`; objects may have more.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|own| holds(own, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| holds(whole, part))
        }
        _ => whole == part,
    }
}

#[test]
fn no_request_of_the_release_before_is_kept_from_its_shims() {
    for request in requests() {
        assert_eq!(request.since(), 1, "{request:?}");
    }
    assert_eq!(common_version(1, 1), Some(1));
    assert_eq!(common_version(VERSION + 7, OLDEST), Some(VERSION));
    assert_eq!(common_version(VERSION + 7, VERSION + 1), None, "it has forgotten ours");
    assert_eq!(common_version(OLDEST - 1, 0), None, "we have forgotten its");
}

#[test]
fn what_a_shim_of_the_release_before_has_left_is_read() {
    let home = tempfile::tempdir().unwrap();
    let block = format!("{:1024}", include_str!("../testdata/state-1").trim());
    std::fs::write(home.path().join("c1.state"), block).unwrap();
    assert_eq!(shim::read_states(home.path()).unwrap(), [states().remove(4)]);
}
