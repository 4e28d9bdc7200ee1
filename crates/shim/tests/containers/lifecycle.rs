//! A container from its creation to its exit code, and a shim whose daemon dies, is another, or takes its directory away.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use shim::client::ClientError;
use shim::protocol::*;
use sys::namespace::{self, Namespaces};
use sys::netlink::{Link, Route, Veth, mac_of};

use crate::fixture::{Sandbox, specification, wait_until};

pub(crate) fn a_container_runs_and_tells_its_exit_code() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.script("one", "echo $HOME $PATH; pwd; exit 7");
    let (exit, output) = sandbox.run(spec);
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, 0, false));
    assert_eq!(output, "/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/\n");
    let state = sandbox.state("one");
    assert_eq!((state.status, state.pid), (Status::Exited, 0));
    assert!(state.created_at <= state.started_at && state.started_at <= exit.time);
    sandbox.delete("one");
    sandbox.delete("one");
    assert!(!sandbox.directory().join("one.state").exists());
}

pub(crate) fn a_signal_is_told_as_128_and_its_number() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.script("one", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    sandbox.start(spec);
    sandbox.wait_for_log("one", "ready");
    sandbox.connection.call(Request::Signal { id: "one".into(), signal: 15, all: false }).unwrap();
    assert_eq!(sandbox.exit("one").code, 3);
    let spec = sandbox.program("two", &["sleep", "1000"]);
    sandbox.start(spec);
    sandbox.connection.call(Request::Signal { id: "two".into(), signal: 9, all: true }).unwrap();
    let exit = sandbox.exit("two");
    assert_eq!((exit.code, exit.signal), (137, 9));
    sandbox.connection.call(Request::Signal { id: "two".into(), signal: 9, all: false }).unwrap();
}

pub(crate) fn a_created_container_waits_for_start_and_can_be_deleted() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.script("one", "touch /ran");
    let reply = sandbox.connection.call(Request::Create(Box::new(spec.clone()))).unwrap();
    assert!(matches!(reply, Reply::Created { .. }));
    assert_eq!(sandbox.state("one").status, Status::Created);
    let again = sandbox.connection.call(Request::Create(Box::new(spec)));
    assert!(matches!(again, Err(ClientError::Refused(f)) if f.kind == FailureKind::AlreadyExists));
    sandbox.delete("one");
    assert!(!sandbox.home.path().join("one/upper/ran").exists());
    let spec = sandbox.program("two", &["sleep", "1000"]);
    sandbox.start(spec);
    let early = sandbox.connection.call(Request::Delete { id: "two".into() });
    assert!(matches!(early, Err(ClientError::Refused(f)) if f.kind == FailureKind::WrongState));
}

pub(crate) fn programs_that_cannot_be_executed_are_told_in_runcs_words() {
    let mut sandbox = Sandbox::new();
    for (id, program, words) in [
        ("a", "foo", "exec: \"foo\": executable file not found in $PATH"),
        ("b", "/foo", "exec: \"/foo\": stat /foo: no such file or directory"),
        ("c", "/etc/not-a-program", "exec: \"/etc/not-a-program\": permission denied"),
        ("d", "/etc", "exec: \"/etc\": is a directory"),
        ("e", "rubbish", "exec /bin/rubbish: exec format error"),
    ] {
        let spec = sandbox.program(id, &[program]);
        sandbox.connection.call(Request::Create(Box::new(spec))).unwrap();
        let failure = sandbox.connection.call(Request::Start { id: id.into() }).unwrap_err();
        assert!(
            matches!(&failure, ClientError::Refused(f) if f.kind == FailureKind::StartError),
            "{failure:?}"
        );
        assert_eq!(failure.to_string(), words);
        let exit = sandbox.exit(id);
        assert_eq!((exit.code, exit.start_error.as_str()), (128, words));
    }
    let mut spec = sandbox.program("f", &["true"]);
    spec.cwd = "/bin/sh/x".into();
    sandbox.connection.call(Request::Create(Box::new(spec))).unwrap();
    let failure = sandbox.connection.call(Request::Start { id: "f".into() }).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "chdir to cwd (\"/bin/sh/x\") set in config.json failed: not a directory"
    );
}

pub(crate) fn a_failed_creation_leaves_nothing() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.program("one", &["true"]);
    spec.user.image_user = "nobody-there".into();
    let failure = sandbox.connection.call(Request::Create(Box::new(spec.clone()))).unwrap_err();
    assert_eq!(failure.to_string(), "unable to find user nobody-there: no matching entries in passwd file");
    spec.user.image_user.clear();
    spec.mounts.push(Mount {
        destination: "/data".into(),
        source: MountSource::Bind("/no/such/place".into()),
        read_only: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
        mapped: false,
    });
    let failure = sandbox.connection.call(Request::Create(Box::new(spec.clone()))).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "error mounting \"/no/such/place\" to rootfs at \"/data\": bind /no/such/place: no such file or directory"
    );
    spec.mounts.clear();
    spec.security.add_capabilities = vec!["FLY".into()];
    let failure = sandbox.connection.call(Request::Create(Box::new(spec.clone()))).unwrap_err();
    assert_eq!(failure.to_string(), "unknown capability \"FLY\"");
    spec.cgroup = "../../etc".into();
    let failure = sandbox.connection.call(Request::Create(Box::new(spec.clone()))).unwrap_err();
    assert!(matches!(&failure, ClientError::Refused(f) if f.kind == FailureKind::Invalid), "{failure:?}");
    spec.security.add_capabilities.clear();
    spec.cgroup = format!("{}/one", sandbox.cgroup);
    // An overlay's work directory serves once.
    for name in ["upper", "work"] {
        sys::beneath::remove_tree(&sandbox.home.path().join("one").join(name)).unwrap();
        fs::create_dir(sandbox.home.path().join("one").join(name)).unwrap();
    }
    assert_eq!(sandbox.run(spec).0.code, 0, "the same id can be used after failures");
}

pub(crate) fn a_container_that_eats_too_much_memory_is_killed_and_told() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.program("one", &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    spec.resources.memory_limit = 32 << 20;
    sandbox.start(spec);
    let exit = sandbox.exit("one");
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, 9, true));
}

pub(crate) fn a_process_killed_for_memory_is_told_while_the_container_lives_on() {
    let mut sandbox = Sandbox::new();
    let script = "dd if=/dev/zero of=/dev/null bs=200M count=1; echo after $?; sleep 1000";
    let mut spec = sandbox.script("one", script);
    spec.resources.memory_limit = 32 << 20;
    sandbox.start(spec);
    assert_eq!(sandbox.connection.event().unwrap(), Event::ContainerOom { id: "one".into() });
    sandbox.wait_for_log("one", "after 137");
    sandbox.connection.call(Request::Signal { id: "one".into(), signal: 9, all: false }).unwrap();
    assert!(sandbox.exit("one").oom_killed);
}

pub(crate) fn a_container_in_the_nodes_pid_namespace_ends_whole() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.script("one", "sleep 1000 & echo $! $$; sleep 1000 & wait");
    spec.pid = PidMode::Host;
    let pid = sandbox.start(spec);
    sandbox.wait_for_log("one", &format!(" {pid}\n"));
    let child: i32 = sandbox.output("one").split(' ').next().unwrap().parse().unwrap();
    assert!(sys::process::kill(child, 0).is_ok());
    sandbox.connection.call(Request::Signal { id: "one".into(), signal: 9, all: false }).unwrap();
    sandbox.exit("one");
    wait_until("the end of its child", || sys::process::kill(child, 0).is_err());
}

pub(crate) fn a_daemon_that_comes_back_finds_its_containers_and_their_logs() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox
        .script("one", "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo line $i; sleep 0.005; done; exit 5");
    let pid = sandbox.start(spec);
    sandbox.wait_for_log("one", "line 3\n");
    sandbox.connection.stream().shutdown(std::net::Shutdown::Both).unwrap();
    let seen = sandbox.output("one").lines().count();
    let further = format!("line {}\n", seen + 10);
    sandbox.wait_for_log("one", &further);
    sandbox.reconnect();
    let state = sandbox.state("one");
    assert_eq!((state.status, state.pid), (Status::Running, pid));
    fs::write(format!("/proc/{pid}/root/stop"), "").unwrap();
    assert_eq!(sandbox.exit("one").code, 5);
    let numbers: Vec<String> = sandbox.output("one").lines().map(str::to_owned).collect();
    let expected: Vec<String> = (1..=numbers.len()).map(|number| format!("line {number}")).collect();
    assert_eq!(numbers, expected, "no line is missing");
}

/// A connection that says what it is told to, byte by byte.
struct Raw(std::os::unix::net::UnixStream);

impl Raw {
    fn connect(sandbox: &Sandbox) -> Self {
        let stream = std::os::unix::net::UnixStream::connect(sandbox.directory().join("shim.sock")).unwrap();
        stream.set_read_timeout(Some(crate::fixture::PATIENCE)).unwrap();
        Raw(stream)
    }

    fn ask(&mut self, json: &str) -> serde_json::Value {
        use std::io::{Read, Write};
        self.0.write_all(&u32::try_from(json.len()).unwrap().to_be_bytes()).unwrap();
        self.0.write_all(json.as_bytes()).unwrap();
        let mut prefix = [0; 4];
        self.0.read_exact(&mut prefix).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(prefix) as usize];
        self.0.read_exact(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }
}

pub(crate) fn what_a_shim_does_not_know_is_answered() {
    let sandbox = Sandbox::new();
    let mut daemon = Raw::connect(&sandbox);
    let hello = daemon.ask(r#"{"Request":{"id":1,"request":{"Hello":{"version":99,"mood":"good"}}}}"#);
    assert_eq!(hello["Reply"]["result"]["Ok"]["Hello"]["version"], VERSION);
    assert_eq!(hello["Reply"]["result"]["Ok"]["Hello"]["oldest"], OLDEST);
    for request in [r#""Dance""#, r#"{"Dance":{"step":1}}"#, r#"{"Start":{"name":"one"}}"#] {
        let reply = daemon.ask(&format!(r#"{{"Request":{{"id":2,"request":{request}}}}}"#));
        assert_eq!(
            (&reply["Reply"]["id"], &reply["Reply"]["result"]["Err"]["kind"]),
            (&2.into(), &"Unsupported".into()),
            "{reply}"
        );
    }
    let state = daemon.ask(r#"{"Request":{"id":3,"request":"State"}}"#);
    assert!(state["Reply"]["result"]["Ok"]["State"].is_object(), "the connection goes on: {state}");
    let mut old = Raw::connect(&sandbox);
    let refused = old.ask(r#"{"Request":{"id":1,"request":{"Hello":{"version":0}}}}"#);
    assert!(refused["Reply"]["result"]["Err"].is_object(), "{refused}");
}

/// What a daemon of version 1 sends, as it was recorded, in the order of a container's life.
pub(crate) fn a_daemon_of_the_release_before_is_served() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.script("c1", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    sandbox.start(spec);
    sandbox.wait_for_log("c1", "ready");
    let recorded = include_str!("../../testdata/protocol-1");
    let mut daemon = Raw::connect(&sandbox);
    let mut ask = |name: &str| {
        let line = recorded.lines().find(|line| line.contains(&format!("\"request\":{name}")));
        daemon.ask(line.unwrap())["Reply"]["result"].clone()
    };
    assert_eq!(ask("{\"Hello\"")["Ok"]["Hello"]["pid"], sandbox.pid);
    assert_eq!(ask("\"State\"")["Ok"]["State"]["containers"][0]["status"], "Running");
    assert_eq!(ask("{\"Start\"")["Err"]["kind"], "WrongState");
    assert_eq!(ask("{\"Resize\"")["Err"]["kind"], "WrongState");
    for name in ["{\"CloseStdin\"", "{\"ReopenLog\"", "{\"SignalExec\"", "{\"Signal\""] {
        assert_eq!(ask(name)["Ok"], "Done", "{name}");
    }
    // A later request of the same connection, unknown to both: in a word that version 1 has.
    let unknown = daemon.ask(r#"{"Request":{"id":9,"request":"Dance"}}"#);
    assert_eq!(unknown["Reply"]["result"]["Err"]["kind"], "Invalid");
    assert_eq!(sandbox.exit("c1").code, 3);
    let delete = recorded.lines().find(|line| line.contains("\"Delete\"")).unwrap();
    assert_eq!(daemon.ask(delete)["Reply"]["result"]["Ok"], "Done");
}

pub(crate) fn a_dead_shim_takes_its_containers_along_and_still_tells() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.script("ended", "exit 4");
    sandbox.run(spec);
    let spec = sandbox.program("running", &["sleep", "1000"]);
    let pid = sandbox.start(spec);
    sandbox.kill_shim();
    wait_until("the container's end", || sys::process::kill(pid, 0).is_err());
    let states = shim::read_states(&sandbox.directory()).unwrap();
    let told: Vec<_> =
        states.iter().map(|s| (s.id.as_str(), s.status, s.exit.as_ref().map(|e| e.code))).collect();
    assert_eq!(told, [("ended", Status::Exited, Some(4)), ("running", Status::Running, None)]);
}

pub(crate) fn a_sandbox_whose_directory_vanishes_ends() {
    let mut sandbox = Sandbox::new();
    let spec = sandbox.program("one", &["sleep", "1000"]);
    let pid = sandbox.start(spec);
    sys::beneath::remove_tree(&sandbox.directory()).unwrap();
    wait_until("the shim's end", || sandbox.shim_ended());
    assert!(sys::process::kill(pid, 0).is_err());
}

pub(crate) fn containers_share_the_sandboxs_namespaces() {
    let mut spec = specification();
    spec.sysctls =
        vec![("net.core.somaxconn".into(), "77".into()), ("kernel.shm_rmid_forced".into(), "1".into())];
    let mut sandbox = Sandbox::with(spec);
    let look = "hostname; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced; \
                for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; ip addr show lo | grep -c 'inet 127.0.0.1'";
    let spec = sandbox.script("one", look);
    let (_, one) = sandbox.run(spec);
    let spec = sandbox.script("two", look);
    let (_, two) = sandbox.run(spec);
    let (one, two): (Vec<_>, Vec<_>) = (one.lines().collect(), two.lines().collect());
    assert_eq!(one[..3], ["pod-name", "77", "1"]);
    assert_eq!(one[3..6], two[3..6], "network, IPC and host name are shared");
    for (seen, kind) in one[6..8].iter().zip(["pid", "mnt"]) {
        let ours = fs::read_link(format!("/proc/{}/ns/{kind}", sandbox.pid)).unwrap();
        assert_ne!(ours.to_str(), Some(*seen), "its own");
    }
    assert_eq!(one[8], "1", "the loopback is up");
    let net = fs::read_link(format!("/proc/{}/ns/net", sandbox.pid)).unwrap();
    assert_eq!(net.to_str(), Some(one[3]));
}

pub(crate) fn a_shared_pid_namespace_has_the_reaper_as_pid_1() {
    let mut spec = specification();
    spec.shared_pid = true;
    let mut sandbox = Sandbox::with(spec);
    assert!(sandbox.pause_pid.is_some());
    let mut one = sandbox.script("one", "sleep 1000 & sleep 1000");
    one.pid = PidMode::Sandbox;
    sandbox.start(one);
    let script = "cat /proc/1/comm; ps | grep -c 'sleep 1000$'; (sleep 0.01 &); sleep 0.1; \
                  grep -l 'State:.Z' /proc/[0-9]*/status | wc -l";
    let mut two = sandbox.script("two", script);
    two.pid = PidMode::Sandbox;
    let (_, output) = sandbox.run(two);
    assert_eq!(output, "monopod-pause\n2\n0\n");
    sandbox.connection.call(Request::Signal { id: "one".into(), signal: 9, all: false }).unwrap();
    sandbox.exit("one");
    let mut three = sandbox.script("three", "ps | grep -c '[s]leep 1000'");
    three.pid = PidMode::Sandbox;
    assert_eq!(sandbox.run(three).1, "0\n", "the first process's end was the container's");
    let spec = sandbox.program("four", &["sleep", "1000"]);
    sandbox.start(spec);
    let mut five = sandbox.script("five", "cat /proc/1/comm");
    five.pid = PidMode::Container("four".into());
    assert_eq!(sandbox.run(five).1, "sleep\n");
}

pub(crate) fn a_sandbox_has_its_network_when_open_returns() {
    // A namespace that plays the node: nothing of the machine is touched.
    let played = std::thread::spawn(move || {
        let (node, index, mut spec) = played_node(7);
        let SandboxNetwork::Own(Some(interface)) = &mut spec.network else { panic!("its own network") };
        let host_name = interface.host_name.clone();
        let mut sandbox = Sandbox::with(spec);
        assert_eq!(node.find(&host_name).unwrap().master, index);
        let script =
            "ip -4 addr show eth0 | grep -o 'inet [0-9./]*'; ip route; ip neigh; ip -6 addr show eth0";
        let spec = sandbox.script("one", script);
        let (_, output) = sandbox.run(spec);
        let expected = "inet 10.231.7.5/32\n\
                        default via 10.231.7.1 dev eth0 \n\
                        10.231.7.1 dev eth0 scope link \n\
                        10.231.7.1 dev eth0 lladdr 0a:58:0a:e7:07:01 ";
        assert!(output.starts_with(expected) && output.ends_with("PERMANENT\n"), "{output}");
        let spec = sandbox.program("two", &["nc", "-ll", "-p", "8080", "-e", "echo", "hello"]);
        sandbox.start(spec);
        wait_until("an answer over the bridge", || says_hello([10, 231, 7, 5]));
        drop(sandbox);
        wait_until("the interface's end", || node.find(&host_name).is_err());
    });
    played.join().unwrap();
}

/// Pods of releases before had their network on the link, with neighbours that are asked for.
pub(crate) fn a_pod_with_its_network_on_the_link_reaches_one_without_and_is_reached() {
    let played = std::thread::spawn(move || {
        let (node, bridge, spec) = played_node(8);
        let mut sandbox = Sandbox::with(spec);
        let server = sandbox.program("server", &["nc", "-ll", "-p", "8080", "-e", "echo", "hello"]);
        sandbox.start(server);
        let (done, until) = std::sync::mpsc::channel::<()>();
        let (ready, old_is_ready) = std::sync::mpsc::channel();
        let old = std::thread::spawn(move || {
            let listener = become_old_pod(&node, bridge);
            wait_until("an answer across the bridge", || says_hello([10, 231, 8, 5]));
            ready.send(()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"hello back\n").unwrap();
            drop(stream);
            let _ = until.recv();
        });
        old_is_ready.recv().unwrap();
        let client = sandbox.script("client", "nc -w 5 10.231.8.6 8080 </dev/null");
        assert_eq!(sandbox.run(client).1, "hello back\n");
        drop(done);
        old.join().unwrap();
    });
    played.join().unwrap();
}

/// Leaves for a network namespace that plays the node: a bridge with 10.231.N.1, and a specification of a
/// sandbox at 10.231.N.5 on it. Rules of IP do not see what crosses the bridge, as on most hosts.
fn played_node(third: u8) -> (Link, u32, SandboxSpec) {
    namespace::unshare(Namespaces::NETWORK).unwrap();
    if fs::exists("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap() {
        sys::sysctl::set("net.bridge.bridge-nf-call-iptables", "0").unwrap();
    }
    sys::sysctl::set("net.ipv4.ip_forward", "1").unwrap();
    let node = Link::open().unwrap();
    let bridge = format!("mptest{}", std::process::id() % 100_000);
    let index = node.make_bridge(&bridge).unwrap();
    let gateway: IpAddr = [10, 231, third, 1].into();
    node.set_mac(index, mac_of(gateway)).unwrap();
    node.add_address(index, gateway, 24).unwrap();
    node.set_up(index).unwrap();
    let mut spec = specification();
    spec.network = SandboxNetwork::Own(Some(Interface {
        name: "eth0".into(),
        host_name: format!("mpv{}", std::process::id() % 100_000),
        bridge,
        address: [10, 231, third, 5].into(),
        prefix: 32,
        gateway: Some(gateway),
        mtu: 1400,
    }));
    (node, index, spec)
}

/// Leaves for a network namespace with the interface that such a Pod had, and listens there.
fn become_old_pod(node: &Link, bridge: u32) -> std::net::TcpListener {
    namespace::unshare(Namespaces::NETWORK).unwrap();
    let own = namespace::open("/proc/thread-self/ns/net").unwrap();
    let peer_mac = [0x02, 0, 0, 1, 2, 3];
    let (name, peer, namespace) = ("mpvold", "eth0", own.as_fd());
    node.make_veth(&Veth { name, master: bridge, peer, namespace, peer_mac, mtu: 1400 }).unwrap();
    let pod = Link::open().unwrap();
    let eth0 = pod.find("eth0").unwrap().index;
    pod.add_address(eth0, [10, 231, 8, 6].into(), 24).unwrap();
    pod.set_up(eth0).unwrap();
    pod.add_route(&Route { to: None, via: Some([10, 231, 8, 1].into()), link: eth0 }).unwrap();
    std::net::TcpListener::bind("0.0.0.0:8080").unwrap()
}

fn says_hello(address: [u8; 4]) -> bool {
    let mut answer = String::new();
    let address = std::net::SocketAddr::from((address, 8080));
    let stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1));
    stream.is_ok_and(|mut stream| stream.read_to_string(&mut answer).is_ok() && answer == "hello\n")
}

pub(crate) fn limits_are_in_force() {
    let mut sandbox = Sandbox::new();
    let mut spec = sandbox.script("one", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes; ulimit -n; cat /proc/self/oom_score_adj; for i in 1 2 3 4 5 6; do sleep 1 & done; wait");
    spec.resources =
        Resources { memory_limit: 50 << 20, pids_limit: 4, cpu_quota: 50_000, ..Resources::default() };
    spec.rlimits = vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 100, hard: u64::MAX }];
    spec.oom_score_adj = 900;
    let (_, output) = sandbox.run(spec);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..3], ["52428800", "100", "900"]);
    assert!(lines[3..].iter().any(|line| line.contains("can't fork")), "{output}");
    let spec = sandbox.program("two", &["sleep", "1000"]);
    let pid = sandbox.start(spec);
    let resources = Resources { pids_limit: 9, ..Resources::default() };
    sandbox.connection.call(Request::Update { id: "two".into(), resources }).unwrap();
    assert!(fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().contains(&sandbox.cgroup));
}

/// Not a limit but a figure: it is printed for whoever wants to compare.
pub(crate) fn a_life_is_short() {
    let mut sandbox = Sandbox::new();
    let mut times: Vec<Duration> = (0..30)
        .map(|round| {
            let id = format!("c{round}");
            let spec = sandbox.program(&id, &["true"]);
            let begin = Instant::now();
            sandbox.start(spec);
            sandbox.exit(&id);
            sandbox.delete(&id);
            begin.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("  create, start, exit, delete: median {:?}, least {:?}", times[15], times[0]);
}

pub(crate) fn the_shim_is_small() {
    let mut sandbox = Sandbox::new();
    for id in ["one", "two"] {
        let spec = sandbox.script(id, "echo hello; sleep 1000");
        sandbox.start(spec);
        sandbox.wait_for_log(id, "hello");
    }
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", sandbox.pid)).unwrap();
    let of = |key: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    eprintln!("  shim with two containers: PSS {} kB, of it anonymous {} kB", of("Pss:"), of("Pss_Anon:"));
    // This test's executable is neither optimised nor shared with a daemon: only memory of the
    // shim's own is judged.
    assert!(of("Pss_Anon:") < 600, "{rollup}");
}
