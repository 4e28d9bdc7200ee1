//! `monopod down` leaves the host as it was.

use crate::harness::Instance;
use crate::host::{Traces, instance_id};

const PODS: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  containers:
  - {name: a, image: "busybox:1.36", command: [sleep, "3600"]}
  - {name: b, image: "busybox:1.36", command: [sleep, "3600"], ports: [{containerPort: 80, hostPort: PORT}], volumeMounts: [{name: m, mountPath: /m}]}
  volumes:
  - {name: m, emptyDir: {medium: Memory}}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  hostNetwork: true
  containers:
  - {name: a, image: "busybox:1.36", command: [sleep, "3600"]}
"#;

#[test]
fn down_leaves_nothing_behind() {
    let instance = Instance::start(&["busybox.tar"]);
    let dir = instance.dir.path().to_path_buf();
    let id = instance_id(&dir);
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    instance.apply(&PODS.replace("PORT", &port.to_string()));
    instance.wait("condition=Ready", "pod/plain");
    instance.wait("condition=Ready", "pod/host");
    let during = Traces::of(&id, &dir);
    for kind in ["mount", "link", "cgroup", "process", "nftables"] {
        assert!(
            during.count(kind) > 0,
            "a running instance shows no {kind}: the comparison would prove nothing\n{during:#?}"
        );
    }
    let api = instance.field("endpoints/kubernetes", "{.subsets[0].ports[0].port}");
    let listening = [("127.0.0.1", &*api), ("127.0.0.1", &port.to_string())]
        .map(|(host, port)| (host, port.parse::<u16>().expect("a port")));
    assert!(std::net::TcpStream::connect(listening[0]).is_ok(), "the API listens");
    let said = instance.monopod(&["down"]).ok();
    assert!(said.contains("stopped the daemon"), "{said}");
    let after = Traces::of(&id, &dir);
    assert!(after.is_empty(), "left behind: {after:#?}");
    for place in listening {
        assert!(std::net::TcpStream::connect(place).is_err(), "somebody still listens on {place:?}");
    }
    assert_eq!(instance.monopod(&["down"]).ok(), "", "a second down has nothing to do");
}

#[test]
fn a_signal_while_it_starts_is_an_ordinary_end() {
    let mut instance = Instance::start(&[]);
    assert_eq!(instance.stop(), 0);
    // Its first line comes long before the node is Ready.
    for _ in 0..3 {
        assert_eq!(instance.stop_starting(), 0);
    }
    instance.up();
}
