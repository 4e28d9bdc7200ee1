//! The tests.

use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::time::{Duration, Instant};

use runtime::{
    AttachOptions, ContainerState, Error, Event, ExecOptions, Measured, NamespaceMode, PortMapping,
    Resources, Runtime, SecurityContext,
};

use super::setting::{Setting, Test, container};

/// Names and functions, in the order they run.
pub(crate) const ALL: &[(&str, Test)] = &[
    ("two_containers_share_address_and_loopback", |s| boxed(two_containers_share_address_and_loopback(s))),
    ("ends_are_told_with_code_and_reason", |s| boxed(ends_are_told_with_code_and_reason(s))),
    ("output_is_in_the_log_in_cri_format", |s| boxed(output_is_in_the_log_in_cri_format(s))),
    ("a_program_that_cannot_start_is_named", |s| boxed(a_program_that_cannot_start_is_named(s))),
    ("a_container_is_asked_to_stop_before_it_is_killed", |s| {
        boxed(a_container_is_asked_to_stop_before_it_is_killed(s))
    }),
    ("commands_run_in_containers_with_limits_of_time", |s| {
        boxed(commands_run_in_containers_with_limits_of_time(s))
    }),
    ("a_long_output_of_a_command_is_cut_while_it_is_read", |s| {
        boxed(a_long_output_of_a_command_is_cut_while_it_is_read(s))
    }),
    ("a_pod_leaves_process_numbers_to_others", |s| boxed(a_pod_leaves_process_numbers_to_others(s))),
    ("a_host_port_leads_to_the_pod_from_everywhere", |s| {
        boxed(a_host_port_leads_to_the_pod_from_everywhere(s))
    }),
    ("ports_of_the_loopback_can_be_reached", |s| boxed(ports_of_the_loopback_can_be_reached(s))),
    ("a_second_runtime_adopts_what_runs", |s| boxed(a_second_runtime_adopts_what_runs(s))),
    ("a_lost_connection_is_made_again_and_nothing_is_missed", |s| {
        boxed(a_lost_connection_is_made_again_and_nothing_is_missed(s))
    }),
    ("a_shim_that_does_not_answer_keeps_its_pod", |s| boxed(a_shim_that_does_not_answer_keeps_its_pod(s))),
    ("a_pod_without_its_shims_answer_can_be_stopped", |s| {
        boxed(a_pod_without_its_shims_answer_can_be_stopped(s))
    }),
    ("a_killed_shim_is_told_and_cleaned_up", |s| boxed(a_killed_shim_is_told_and_cleaned_up(s))),
    ("memory_limits_kill_and_say_so", |s| boxed(memory_limits_kill_and_say_so(s))),
    ("shared_memory_and_processes_are_shared_when_asked", |s| {
        boxed(shared_memory_and_processes_are_shared_when_asked(s))
    }),
    ("what_exists_is_made_once_and_what_is_gone_is_gone", |s| {
        boxed(what_exists_is_made_once_and_what_is_gone_is_gone(s))
    }),
    ("those_who_attach_join_the_streams", |s| boxed(those_who_attach_join_the_streams(s))),
    ("the_nodes_network_can_be_used", |s| boxed(the_nodes_network_can_be_used(s))),
    ("what_died_with_the_daemon_is_known_and_removed", |s| {
        boxed(super::deaths::what_died_with_the_daemon_is_known_and_removed(s))
    }),
    ("what_a_dead_sandbox_left_is_removed_around_the_one_that_followed", |s| {
        boxed(super::deaths::what_a_dead_sandbox_left_is_removed_around_the_one_that_followed(s))
    }),
    ("a_sandbox_whose_file_is_damaged_is_removed_and_made_anew", |s| {
        boxed(super::deaths::a_sandbox_whose_file_is_damaged_is_removed_and_made_anew(s))
    }),
    ("a_daemon_that_dies_at_any_step_is_followed_by_one_that_goes_on", |s| {
        boxed(super::deaths::a_daemon_that_dies_at_any_step_is_followed_by_one_that_goes_on(s))
    }),
    ("the_group_of_burstable_pods_weighs_what_they_ask_for_in_sum", |s| {
        boxed(super::groups::the_group_of_burstable_pods_weighs_what_they_ask_for_in_sum(s))
    }),
    ("nobody_shows_the_node_or_a_pod_another_way", |s| {
        boxed(super::links::nobody_shows_the_node_or_a_pod_another_way(s))
    }),
    ("a_pull_ends_with_the_last_who_waits_for_it", |s| {
        boxed(super::pulls::a_pull_ends_with_the_last_who_waits_for_it(s))
    }),
    ("a_burst_of_pulls_is_taken_in_turns", |s| boxed(super::pulls::a_burst_of_pulls_is_taken_in_turns(s))),
    ("ten_pods_start_at_once", |s| boxed(ten_pods_start_at_once(s))),
];

fn boxed(test: impl Future<Output = ()> + 'static) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(test)
}

async fn two_containers_share_address_and_loopback(setting: Setting) {
    let node = setting.node().await;
    let sandbox = node.run(node.sandbox("share")).await;
    let server = node.start(&sandbox, "server", "exec httpd -f -p 8080 -h /www").await;
    let client = node.start(&sandbox, "client", "exec sleep 1000").await;
    let script = "until wget -qO- http://127.0.0.1:8080/hello >/dev/null 2>&1; do :; done; wget -qO- http://127.0.0.1:8080/hello";
    let got = node.exec(&client, script).await.unwrap();
    assert_eq!((got.exit_code, got.stdout.as_slice()), (0, &b"hello\n"[..]));
    let got = node.exec(&server, "hostname; ip -4 -o addr show eth0; echo $FROM $HOSTNAME").await.unwrap();
    let text = String::from_utf8(got.stdout).unwrap();
    assert!(text.starts_with("pod-share\n"), "{text}");
    assert!(text.contains(&format!("inet {}/32", sandbox.ips[0])), "{text}");
    assert!(text.ends_with("image pod-share\n"), "{text}");
    // The node reaches the Pod, and another Pod does.
    let mut stream = TcpStream::connect((sandbox.ips[0], 8080)).unwrap();
    stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello\n"), "{answer}");
    let other = node.run(node.sandbox("other")).await;
    let neighbour = node.start(&other, "c", "exec sleep 1000").await;
    let got =
        node.exec(&neighbour, &format!("wget -qO- http://{}:8080/hello", sandbox.ips[0])).await.unwrap();
    assert_eq!(got.stdout, b"hello\n", "{}", String::from_utf8_lossy(&got.stderr));
    let stats = node.native.stats(Measured::All).await.unwrap();
    assert!(stats.len() == 3 && stats.iter().all(|s| s.memory_working_set > 0 && s.pids > 0), "{stats:?}");
}

async fn ends_are_told_with_code_and_reason(setting: Setting) {
    let mut node = setting.node().await;
    let sandbox = node.run(node.sandbox("ends")).await;
    for (name, script, code, reason) in [("good", "exit 0", 0, "Completed"), ("bad", "exit 7", 7, "Error")] {
        let id = node.start(&sandbox, name, script).await;
        let status = node.ended(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
        assert!(status.started_at.is_some() && status.finished_at >= status.started_at, "{status:?}");
    }
}

async fn output_is_in_the_log_in_cri_format(setting: Setting) {
    let mut node = setting.node().await;
    let sandbox = node.run(node.sandbox("log")).await;
    let id = node.start(&sandbox, "c", "echo out; echo err >&2; echo -n partial").await;
    let status = node.ended(&id).await;
    let log = std::fs::read_to_string(&status.log_path).unwrap();
    let mut lines: Vec<(&str, &str)> = log.lines().filter_map(|l| l.split_once(' ')).collect();
    lines.sort_by_key(|(_, rest)| *rest);
    let rests: Vec<&str> = lines.iter().map(|(_, rest)| *rest).collect();
    assert_eq!(rests, ["stderr F err", "stdout F out", "stdout P partial"]);
    assert!(lines[0].0.parse::<jiff::Timestamp>().is_ok(), "{log}");
}

async fn a_program_that_cannot_start_is_named(setting: Setting) {
    let node = setting.node().await;
    let sandbox = node.run(node.sandbox("start")).await;
    for (program, words) in [
        ("no-such-program", "exec: \"no-such-program\": executable file not found in $PATH"),
        ("/no/such", "exec: \"/no/such\": stat /no/such: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        let mut config = container("c", &[program]);
        config.attempt = u32::try_from(program.len()).unwrap();
        let error = match node.native.create_container(&sandbox.id, config).await {
            Ok(id) => node.native.start_container(&id).await.unwrap_err(),
            Err(error) => error,
        };
        assert!(matches!(&error, Error::Start { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

async fn a_container_is_asked_to_stop_before_it_is_killed(setting: Setting) {
    let mut node = setting.node().await;
    let sandbox = node.run(node.sandbox("stop")).await;
    let polite = node
        .start(&sandbox, "polite", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
        .await;
    wait_for_log(&node.status(&polite).await.log_path, "up").await;
    node.native.stop_container(&polite, Duration::from_secs(20)).await.unwrap();
    assert_eq!(node.ended(&polite).await.exit_code, 3);
    let deaf = node.start(&sandbox, "deaf", "trap '' TERM; echo up; while :; do sleep 0.05; done").await;
    wait_for_log(&node.status(&deaf).await.log_path, "up").await;
    let began = Instant::now();
    node.native.stop_container(&deaf, Duration::from_millis(300)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300));
    let status = node.status(&deaf).await;
    assert_eq!((status.state, status.exit_code), (ContainerState::Exited, 137));
    node.native.stop_container(&deaf, Duration::ZERO).await.unwrap();
}

/// Waits until a line is in a log; the log is the only sign a shell script can give.
async fn wait_for_log(path: &std::path::Path, text: &str) {
    let began = Instant::now();
    while !std::fs::read_to_string(path).is_ok_and(|log| log.contains(text)) {
        assert!(began.elapsed() < Duration::from_secs(20), "{text:?} does not come");
        tokio::task::yield_now().await;
    }
}

async fn commands_run_in_containers_with_limits_of_time(setting: Setting) {
    let node = setting.node().await;
    let sandbox = node.run(node.sandbox("exec")).await;
    let mut config = container("c", &["sleep", "1000"]);
    config.security = SecurityContext { run_as_user: Some(1000), ..Default::default() };
    let id = node.create(&sandbox, config).await;
    assert!(matches!(node.exec(&id, "true").await, Err(Error::NotRunning { .. })));
    node.native.start_container(&id).await.unwrap();
    let got = node.exec(&id, "id -u; echo oops >&2; exit 5").await.unwrap();
    assert_eq!(
        (got.exit_code, got.stdout.as_slice(), got.stderr.as_slice()),
        (5, &b"1000\n"[..], &b"oops\n"[..])
    );
    let slow = ["sleep", "1000"].map(str::to_owned).to_vec();
    let error = node.native.exec_sync(&id, slow, Some(Duration::from_millis(200))).await.unwrap_err();
    assert_eq!(error.to_string(), "command \"sleep 1000\" timed out");
    let missing = node.native.exec_sync(&id, vec!["nope".into()], None).await.unwrap_err();
    assert!(missing.to_string().contains("exec: \"nope\": executable file not found in $PATH"), "{missing}");
    let options =
        ExecOptions { command: vec!["cat".into()], stdin: true, stdout: true, ..Default::default() };
    let streams = node.native.exec(&id, options).await.unwrap();
    let mut stdin = std::fs::File::from(streams.stdin.unwrap());
    stdin.write_all(b"through").unwrap();
    drop(stdin);
    assert_eq!(streams.exit.await.unwrap(), 0);
    let mut said = String::new();
    std::fs::File::from(streams.stdout.unwrap()).read_to_string(&mut said).unwrap();
    assert_eq!(said, "through");
}

async fn a_host_port_leads_to_the_pod_from_everywhere(setting: Setting) {
    let node = setting.node().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config = node.sandbox("port");
    let mapping =
        PortMapping { protocol: "TCP".into(), container_port: 8080, host_port: free, host_ip: String::new() };
    config.port_mappings = vec![mapping];
    let sandbox = node.run(config).await;
    let server = node.start(&sandbox, "server", "exec httpd -f -p 8080 -h /www").await;
    node.exec(&server, "until wget -qO- http://127.0.0.1:8080/hello >/dev/null 2>&1; do :; done")
        .await
        .unwrap();
    let get = |address: (std::net::IpAddr, u16)| {
        let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(5)).unwrap();
        stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let gateway = gateway(sandbox.ips[0]);
    assert!(get(("127.0.0.1".parse().unwrap(), free)).ends_with("hello\n"));
    assert!(get((gateway, free)).ends_with("hello\n"));
    // The Pod itself, by the node's address: the answer must come back the same way.
    let got = node.exec(&server, &format!("wget -qO- http://{gateway}:{free}/hello")).await.unwrap();
    assert_eq!(got.stdout, b"hello\n", "{}", String::from_utf8_lossy(&got.stderr));
    node.native.stop_sandbox(&sandbox.id).await.unwrap();
    assert!(
        TcpStream::connect_timeout(&(std::net::Ipv4Addr::LOCALHOST, free).into(), Duration::from_secs(5))
            .is_err()
    );
}

async fn a_long_output_of_a_command_is_cut_while_it_is_read(setting: Setting) {
    let node = setting.node().await;
    let sandbox = node.run(node.sandbox("long")).await;
    let id = node.start(&sandbox, "c", "exec sleep 1000").await;
    let got =
        node.exec(&id, "dd if=/dev/zero bs=1M count=8 2>/dev/null; echo end >&2; exit 3").await.unwrap();
    assert_eq!((got.exit_code, got.stdout.len(), got.stdout.capacity() < 64 << 10), (3, 10 << 10, true));
    assert_eq!(got.stderr, b"end\n");
}

async fn a_pod_leaves_process_numbers_to_others(setting: Setting) {
    let node = setting.node().await;
    let sandbox = node.run(node.sandbox("many")).await;
    node.start(&sandbox, "c", "exec sleep 1000").await;
    let limit = |group: &str| -> u64 {
        let path = format!("monopod-{}/{group}/pids.max", setting.instance);
        let places = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|tree| format!("{tree}/{path}"));
        let text = places.iter().find_map(|place| std::fs::read_to_string(place).ok()).expect("a limit");
        text.trim().parse().expect("a number, not \"max\"")
    };
    let kernel = ["pid_max", "threads-max"].map(|name| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        text.trim().parse::<u64>().unwrap()
    });
    let (pods, one) = (limit("kubepods"), limit("kubepods/burstable/podmany"));
    assert!(pods < kernel[0].min(kernel[1]) && one < pods, "{kernel:?} {pods} {one}");
}

fn gateway(pod: std::net::IpAddr) -> std::net::IpAddr {
    let std::net::IpAddr::V4(pod) = pod else { panic!("IPv4 only") };
    let [a, b, c, _] = pod.octets();
    std::net::IpAddr::from([a, b, c, 1])
}

async fn ports_of_the_loopback_can_be_reached(setting: Setting) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let node = setting.node().await;
    let sandbox = node.run(node.sandbox("forward")).await;
    let server = node.start(&sandbox, "server", "exec httpd -f -p 127.0.0.1:8080 -h /www").await;
    node.exec(&server, "until wget -qO- http://127.0.0.1:8080/hello >/dev/null 2>&1; do :; done")
        .await
        .unwrap();
    let mut stream = node.native.port_forward(&sandbox.id, 8080).await.unwrap();
    stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello\n"), "{answer}");
    let error = node.native.port_forward(&sandbox.id, 81).await.unwrap_err().to_string();
    assert!(error.contains("dial tcp4 127.0.0.1:81: connect: connection refused"), "{error}");
}

async fn a_second_runtime_adopts_what_runs(setting: Setting) {
    let first = setting.node().await;
    let sandbox = first.run(first.sandbox("adopt")).await;
    let running =
        first.start(&sandbox, "running", "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done").await;
    wait_for_log(&first.status(&running).await.log_path, "up").await;
    let before = first.status(&running).await;
    let short =
        first.start(&sandbox, "short", "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 9").await;
    drop(first);

    let path = format!("/proc/{}/root/dev/shm/go", before.pid.unwrap());
    std::fs::write(path, b"").unwrap();
    let mut second = setting.node().await;
    let found = second.native.sandboxes().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].id, &found[0].ips, found[0].ready), (&sandbox.id, &sandbox.ips, true));
    let after = second.status(&running).await;
    assert_eq!(
        (after.pid, after.started_at, after.state),
        (before.pid, before.started_at, ContainerState::Running)
    );
    let ended = match second.status(&short).await {
        status if status.state == ContainerState::Exited => status,
        _ => second.ended(&short).await,
    };
    assert_eq!(ended.exit_code, 9);
    let other = second.run(second.sandbox("other")).await;
    assert_ne!(other.ips, sandbox.ips);
    second.native.stop_container(&running, Duration::from_secs(20)).await.unwrap();
    assert_eq!(second.status(&running).await.exit_code, 4);
    second.native.remove_sandbox(&sandbox.id).await.unwrap();
    assert!(matches!(second.native.container_status(&short).await, Err(Error::NotFound { .. })));
    assert!(second.native.images().leases().unwrap().is_empty());
}

/// Ends all connections of a shim, as its own end would, and lets it live.
fn cut_connections(shim: rustix::process::Pid) {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let process = pidfd_open(shim, PidfdFlags::empty()).unwrap();
    for entry in std::fs::read_dir(format!("/proc/{shim}/fd")).unwrap() {
        let entry = entry.unwrap();
        let is_socket =
            std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        if !is_socket {
            continue;
        }
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).unwrap();
        if !rustix::net::sockopt::socket_acceptconn(&socket).unwrap() {
            rustix::net::shutdown(&socket, rustix::net::Shutdown::Both).unwrap();
        }
    }
}

async fn a_lost_connection_is_made_again_and_nothing_is_missed(setting: Setting) {
    let mut node = setting.node().await;
    let sandbox = node.run(node.sandbox("cut")).await;
    let id = node.start(&sandbox, "c", "exec sleep 1000").await;
    let waiting = "while [ ! -e /dev/shm/go ]; do sleep 0.01; done; exit 9";
    let short = node.start(&sandbox, "short", waiting).await;
    let before = node.status(&id).await;
    let shim = parent(before.pid.unwrap());
    // Stopped, so that the end comes while there is no connection.
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).unwrap();
    cut_connections(shim);
    std::fs::write(format!("/proc/{}/root/dev/shm/go", before.pid.unwrap()), b"").unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::CONT).unwrap();
    assert_eq!(node.ended(&short).await.exit_code, 9);
    let after = node.status(&id).await;
    assert_eq!((after.state, after.pid), (ContainerState::Running, before.pid));
    assert!(node.native.sandboxes().await.unwrap()[0].ready);
    for round in 0..5 {
        cut_connections(shim);
        let said = until_executed(&node, &id, "echo here").await;
        assert_eq!(said, b"here\n", "round {round}");
    }
    node.native.stop_sandbox(&sandbox.id).await.unwrap();
    assert!(!node.native.sandboxes().await.unwrap()[0].ready);
}

/// What a command says, as soon as one can be run.
async fn until_executed(node: &super::setting::Node, id: &str, script: &str) -> Vec<u8> {
    let executed = async {
        loop {
            match node.exec(id, script).await {
                Ok(output) => return output.stdout,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), executed).await.expect("a command is executed")
}

async fn a_shim_that_does_not_answer_keeps_its_pod(setting: Setting) {
    let first = setting.node().await;
    let sandbox = first.run(first.sandbox("silent")).await;
    let id = first.start(&sandbox, "c", "exec sleep 1000").await;
    let before = first.status(&id).await;
    let shim = parent(before.pid.unwrap());
    drop(first);
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).unwrap();
    let second = setting.node().await;
    let found = second.native.sandboxes().await.unwrap();
    assert_eq!((found.len(), found[0].ready), (1, true));
    let status = second.status(&id).await;
    assert_eq!((status.state, status.pid), (ContainerState::Running, before.pid));
    rustix::process::kill_process(shim, rustix::process::Signal::CONT).unwrap();
    assert_eq!(until_executed(&second, &id, "echo back").await, b"back\n");
    assert_eq!(second.status(&id).await.pid, before.pid);
}

async fn a_pod_without_its_shims_answer_can_be_stopped(setting: Setting) {
    let mut node = setting.node().await;
    let sandbox = node.run(node.sandbox("stuck")).await;
    let id = node.start(&sandbox, "c", "exec sleep 1000").await;
    let shim = parent(node.status(&id).await.pid.unwrap());
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).unwrap();
    let error = node.native.stop_sandbox(&sandbox.id).await.unwrap_err().to_string();
    assert!(error.contains("its shim did not end"), "{error}");
    node.ended_somehow(&id).await;
    node.native.remove_sandbox(&sandbox.id).await.unwrap();
}

async fn a_killed_shim_is_told_and_cleaned_up(setting: Setting) {
    let mut node = setting.node().await;
    let sandbox = node.run(node.sandbox("lost")).await;
    let id = node.start(&sandbox, "c", "exec sleep 1000").await;
    let pid = node.status(&id).await.pid.unwrap();
    kill_parent(pid);
    let mut told = Vec::new();
    while let Some(event) = node.events.recv().await {
        told.push(event.clone());
        if matches!(event, Event::SandboxDied { .. }) {
            break;
        }
    }
    assert!(
        matches!(&told[0], Event::ContainerExited { container_id, .. } if *container_id == id),
        "{told:?}"
    );
    let status = node.status(&id).await;
    assert_eq!((status.state, status.reason.as_str()), (ContainerState::Unknown, "Unknown"));
    assert!(!node.native.sandboxes().await.unwrap()[0].ready);
    node.native.stop_sandbox(&sandbox.id).await.unwrap();
    // Without its shim it is init's to reap, which may take its time.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "the container outlives its sandbox: {state}");
    // The same Pod again, as the node does.
    let mut config = node.sandbox("lost");
    config.pod.attempt = 1;
    let again = node.run(config).await;
    assert!(again.ready && again.id != sandbox.id);
}

pub(super) fn ports_table(setting: &Setting) -> String {
    format!("monopod-{}-ports", setting.instance)
}

/// The parent of a container's first process is its shim.
pub(super) fn kill_parent(pid: u32) {
    rustix::process::kill_process(parent(pid), rustix::process::Signal::KILL).unwrap();
}

fn parent(pid: u32) -> rustix::process::Pid {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let shim: i32 = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    rustix::process::Pid::from_raw(shim).unwrap()
}

async fn memory_limits_kill_and_say_so(setting: Setting) {
    let mut node = setting.node().await;
    let sandbox = node.run(node.sandbox("oom")).await;
    let mut config = container("c", &["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1; exit $?"]);
    config.command = ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"].map(str::to_owned).to_vec();
    config.resources = Resources { memory_limit: 16 << 20, ..Default::default() };
    let id = node.create(&sandbox, config).await;
    node.native.start_container(&id).await.unwrap();
    let status = node.ended(&id).await;
    assert_eq!((status.exit_code, status.oom_killed, status.reason.as_str()), (137, true, "OOMKilled"));
}

async fn shared_memory_and_processes_are_shared_when_asked(setting: Setting) {
    let node = setting.node().await;
    let mut config = node.sandbox("shared");
    config.pid = NamespaceMode::Pod;
    let sandbox = node.run(config).await;
    let one = node.start(&sandbox, "one", "echo there > /dev/shm/note; exec sleep 1234").await;
    let two = node.start(&sandbox, "two", "exec sleep 1000").await;
    node.exec(&one, "until [ -s /dev/shm/note ]; do :; done").await.unwrap();
    let got = node.exec(&two, "cat /dev/shm/note; ps").await.unwrap();
    let text = String::from_utf8(got.stdout).unwrap();
    assert!(text.starts_with("there\n") && text.contains("sleep 1234"), "{text}");
}

async fn what_exists_is_made_once_and_what_is_gone_is_gone(setting: Setting) {
    let node = setting.node().await;
    let sandbox = node.run(node.sandbox("twice")).await;
    assert_eq!(node.run(node.sandbox("twice")).await.id, sandbox.id);
    let id = node.create(&sandbox, container("c", &["sleep", "1000"])).await;
    assert_eq!(node.create(&sandbox, container("c", &["sleep", "1000"])).await, id);
    node.native.start_container(&id).await.unwrap();
    node.native.start_container(&id).await.unwrap();
    assert!(node.native.images().remove("busybox:1").is_err(), "the image is in use");
    for _ in 0..2 {
        node.native.remove_container(&id).await.unwrap();
        node.native.stop_container(&id, Duration::ZERO).await.unwrap();
    }
    for _ in 0..2 {
        node.native.stop_sandbox(&sandbox.id).await.unwrap();
    }
    for _ in 0..2 {
        node.native.remove_sandbox(&sandbox.id).await.unwrap();
    }
    assert!(node.native.sandboxes().await.unwrap().is_empty());
    node.native.remove_image("busybox:1").await.unwrap();
    node.native.remove_image("busybox:1").await.unwrap();
}

async fn those_who_attach_join_the_streams(setting: Setting) {
    let mut node = setting.node().await;
    let sandbox = node.run(node.sandbox("attach")).await;
    let mut config = container("c", &["sh", "-c", "read line; echo got $line; exit 6"]);
    config.stdin = true;
    let id = node.create(&sandbox, config).await;
    node.native.start_container(&id).await.unwrap();
    let all = AttachOptions { stdin: true, stdout: true, stderr: true };
    let streams = node.native.attach(&id, all).await.unwrap();
    std::fs::File::from(streams.stdin.unwrap()).write_all(b"words\n").unwrap();
    assert_eq!(streams.exit.await.unwrap(), 6);
    let mut said = String::new();
    std::fs::File::from(streams.stdout.unwrap()).read_to_string(&mut said).unwrap();
    assert_eq!(said, "got words\n");
    assert!(matches!(node.native.attach(&id, all).await, Err(Error::NotRunning { .. })));
    assert_eq!(node.ended(&id).await.exit_code, 6);

    let id = node.start(&sandbox, "tty", "exec sleep 1000").await;
    let command = ["sh", "-c", "[ -t 0 ] && [ -t 1 ] && exit 8"].map(str::to_owned).to_vec();
    let options = ExecOptions { command, tty: true, stdin: true, stdout: true, stderr: false };
    let streams = node.native.exec(&id, options).await.unwrap();
    assert!(streams.terminal.is_some() && streams.stderr.is_none());
    assert_eq!(streams.exit.await.unwrap(), 8);
}

async fn the_nodes_network_can_be_used(setting: Setting) {
    let node = setting.node().await;
    let mut config = node.sandbox("node");
    config.network = NamespaceMode::Node;
    config.pid = NamespaceMode::Node;
    let sandbox = node.run(config).await;
    assert!(sandbox.ips.is_empty());
    let id = node.start(&sandbox, "c", "exec sleep 1000").await;
    let pid = node.status(&id).await.pid.unwrap();
    for kind in ["net", "pid"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_eq!(of(&pid.to_string()), of("self"), "{kind}");
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    node.native.port_forward(&sandbox.id, listener.local_addr().unwrap().port()).await.unwrap();
}

async fn ten_pods_start_at_once(setting: Setting) {
    let node = setting.node().await;
    let began = Instant::now();
    let pods = (0..10).map(|n| {
        let node = &node;
        async move {
            let sandbox = node.run(node.sandbox(&format!("many-{n}"))).await;
            node.start(&sandbox, "c", "exec sleep 1000").await;
            sandbox.ips[0]
        }
    });
    let mut addresses = futures_util::future::join_all(pods).await;
    eprintln!("ten Pods run after {:?}", began.elapsed());
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 10);
}
