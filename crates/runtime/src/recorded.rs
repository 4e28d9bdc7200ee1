//! Records that the release before this one has written, and that this one must read: what they
//! say runs, runs. `testdata/release-1` is never changed; a new field needs a default.

use std::net::Ipv4Addr;

use crate::container::ContainerRecord;
use crate::interface::{
    ContainerConfig, DnsConfig, Mount, NamespaceMode, PodIdentity, PortMapping, Propagation, QosClass,
    Resources, SandboxConfig, Seccomp, SecurityContext,
};
use crate::sandbox::SandboxRecord;

fn sandbox() -> SandboxRecord {
    SandboxRecord {
        id: "a1".into(),
        config: SandboxConfig {
            users: None,
            pod: PodIdentity { name: "web".into(), namespace: "default".into(), uid: "u".into(), attempt: 1 },
            hostname: "web".into(),
            log_directory: "/var/log/pods/u".into(),
            dns: Some(DnsConfig {
                servers: vec!["10.43.0.10".into()],
                searches: vec!["svc".into()],
                options: vec!["ndots:5".into()],
            }),
            port_mappings: vec![PortMapping {
                protocol: "TCP".into(),
                container_port: 80,
                host_port: 8080,
                host_ip: "127.0.0.1".into(),
            }],
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Node,
            qos: QosClass::Burstable,
            resources: resources(),
            cpu_request: Default::default(),
            sysctls: [("net.core.somaxconn".to_owned(), "7".to_owned())].into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            annotations: [("note".to_owned(), "x".to_owned())].into(),
        },
        addresses: vec![Ipv4Addr::new(10, 42, 0, 5).into()],
        released: false,
        created_at: 1_795_251_600_000_000_001,
    }
}

fn container() -> ContainerRecord {
    ContainerRecord {
        id: "c1".into(),
        sandbox: "a1".into(),
        config: ContainerConfig {
            name: "main".into(),
            attempt: 2,
            image: "sha256:0".into(),
            command: vec!["sh".into()],
            args: vec!["-c".into()],
            working_dir: "/work".into(),
            env: vec![("A".into(), "1".into())],
            devices: Vec::new(),
            stop_signal: String::new(),
            mounts: vec![Mount {
                mapped: false,
                host_path: "/h".into(),
                container_path: "/c".into(),
                read_only: true,
                recursive_read_only: true,
                propagation: Propagation::HostToContainer,
            }],
            log_path: "main/2.log".into(),
            stdin: true,
            stdin_once: true,
            tty: true,
            resources: resources(),
            security: security(),
            pid: Some(NamespaceMode::Target("c0".into())),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            annotations: [("c".to_owned(), "d".to_owned())].into(),
        },
        image_name: "docker.io/library/busybox:1".into(),
        image_id: "sha256:0".into(),
        stop_signal: "SIGQUIT".into(),
        log_path: "/var/log/pods/u/main/2.log".into(),
        created_at: 5,
    }
}

fn resources() -> Resources {
    Resources {
        cpu_shares: 2,
        cpu_quota: 3,
        cpu_period: 4,
        memory_limit: 5,
        pids_limit: 6,
        oom_score_adj: 7,
        cpuset_cpus: "0".into(),
    }
}

fn security() -> SecurityContext {
    SecurityContext {
        run_as_user: Some(1),
        run_as_group: Some(2),
        supplemental_groups: vec![3],
        strict_groups: true,
        privileged: true,
        readonly_rootfs: true,
        no_new_privileges: true,
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["ALL".into()],
        seccomp: Seccomp::Localhost("/p.json".into()),
        unmasked_proc: true,
    }
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

#[test]
fn the_records_of_the_release_before_are_read() {
    let read: SandboxRecord =
        serde_json::from_str(include_str!("../testdata/release-1/sandbox.json")).unwrap();
    assert_eq!(text(&read), text(&sandbox()));
    let read: ContainerRecord =
        serde_json::from_str(include_str!("../testdata/release-1/container.json")).unwrap();
    assert_eq!(text(&read), text(&container()));
}
