//! What has no effect says so: each row of the table of limits, seen through kubectl; and what a node
//! refuses rather than pretend.

use api::limits::{Found, LIMITS, Limit, PAGE, Shown};

use crate::harness::Instance;

/// `kind/name` of a row's example.
fn object(row: &Limit) -> String {
    let example: serde_json::Value = serde_saphyr::from_str(row.example).expect(row.name);
    format!("{}.{}/{}", row.kind, row.group, example["metadata"]["name"].as_str().expect("a name"))
        .replace("./", "/")
}

/// Writes the example and reads kubectl's answer.
fn write(instance: &Instance, row: &Limit) {
    let said = instance.kubectl_with(&["apply", "-f", "-"], row.example);
    let words = format!("{}; see {PAGE}", row.says);
    if row.shown.contains(&Shown::Refused) {
        let err = said.fails();
        assert!(err.contains("forbidden") && err.contains(&words), "{}: {err}", row.name);
        let err = instance.kubectl(&["get", &object(row)]).fails();
        assert!(err.contains("NotFound"), "{} is stored: {err}", row.name);
        return;
    }
    assert_eq!(said.code, 0, "{}: {}", row.name, said.err);
    if row.shown.contains(&Shown::Warning) {
        assert!(said.err.contains("Warning: ") && said.err.contains(&words), "{}: {}", row.name, said.err);
    }
}

/// Waits until the state that the row promises is there.
fn look(instance: &Instance, row: &Limit, way: &Shown) {
    let what = object(row);
    let (path, wanted) = match way {
        Shown::Warning | Shown::Refused => return,
        Shown::Pending(words) => {
            ("{.status.phase} {.status.conditions[?(@.type==\"PodScheduled\")].message}", *words)
        }
        Shown::Failed(reason) => ("{.status.phase} {.status.reason}", *reason),
        Shown::Waiting(reason) => ("{.status.containerStatuses[0].state.waiting.reason}", *reason),
        Shown::Event(_, words) => ("", *words),
    };
    instance.eventually(row.name, || {
        let found = match way {
            Shown::Event(reason, _) => {
                let name = what.rsplit('/').next().unwrap_or_default();
                let selector = format!("involvedObject.name={name},reason={reason}");
                instance.kubectl(&["get", "events", "--field-selector", &selector, "-o", "name"]).ok();
                let path = "jsonpath={.items[*].message}";
                instance.kubectl(&["get", "events", "--field-selector", &selector, "-o", path]).ok()
            }
            _ => instance.field(&what, path),
        };
        let phase = match way {
            Shown::Pending(_) => "Pending",
            Shown::Failed(_) => "Failed",
            _ => "",
        };
        if found.contains(wanted) && found.starts_with(phase) { Ok(()) } else { Err(found) }
    });
}

#[test]
fn every_limit_shows_as_its_row_says() {
    let instance = Instance::start(&["busybox.tar"]);
    for row in LIMITS {
        write(&instance, row);
    }
    for row in LIMITS {
        row.shown.iter().for_each(|way| look(&instance, row, way));
    }
}

#[test]
fn a_change_is_warned_about_as_a_creation_is() {
    let instance = Instance::start(&[]);
    let row = LIMITS.iter().find(|row| row.shown == [Shown::Warning] && matches!(row.found, Found::Always));
    let Some(row) = row else { return };
    write(&instance, row);
    let said = instance.kubectl(&["label", &object(row), "changed=yes"]);
    assert!(said.code == 0 && said.err.contains(row.says), "{}", said.err);
    let said = instance.kubectl_with(&["apply", "--dry-run=server", "-f", "-"], row.example);
    assert!(said.code == 0 && !said.err.contains(row.says), "a dry run keeps nothing: {}", said.err);
}

fn pod(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n{spec}"
    )
}

/// `status.reason` once the Pod has failed.
fn refusal(instance: &Instance, name: &str) -> String {
    let what = format!("pod/{name}");
    instance.wait("jsonpath={.status.phase}=Failed", &what);
    instance.field(&what, "{.status.reason}: {.status.message}")
}

#[test]
fn a_port_of_the_host_is_not_taken_from_who_listens_on_it() {
    let mut instance = Instance::start(&["busybox.tar"]);
    let server = instance.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).ok();
    let api: u16 = server.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let with = |port: u16, protocol: &str, more: &str| {
        format!(
            "  containers:\n  - {{name: c, image: \"busybox:1.36\", command: [sleep, \"3600\"], \
             ports: [{{containerPort: {port}, hostPort: {port}, protocol: {protocol}}}]}}\n{more}"
        )
    };
    let taken = |port: u16, protocol: &str| {
        format!(
            "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: \
             port {port}/{protocol} is in use on the host"
        )
    };
    let (tcp, udp) =
        (listener.local_addr().expect("bound").port(), datagrams.local_addr().expect("bound").port());
    instance.apply(&pod("api", &with(api, "TCP", "")));
    instance.apply(&pod("api-on-host", &with(api, "TCP", "  hostNetwork: true\n")));
    instance.apply(&pod("tcp", &with(tcp, "TCP", "")));
    instance.apply(&pod("udp", &with(udp, "UDP", "")));
    assert_eq!(refusal(&instance, "api"), taken(api, "TCP"));
    assert_eq!(refusal(&instance, "api-on-host"), taken(api, "TCP"));
    assert_eq!(refusal(&instance, "tcp"), taken(tcp, "TCP"));
    assert_eq!(refusal(&instance, "udp"), taken(udp, "UDP"));
    // The port is free now, and it stays the Pod's when the daemon comes back.
    drop(listener);
    instance.apply(&pod("free", &with(tcp, "TCP", "")));
    instance.wait("condition=Ready", "pod/free");
    instance.crash();
    instance.up();
    instance.wait("condition=Ready", "pod/free");
    assert_eq!(instance.field("pod/free", "{.status.phase}"), "Running");
}

#[test]
fn variables_that_double_end_the_container_and_not_the_daemon() {
    let instance = Instance::start(&["busybox.tar"]);
    let doubling: String =
        (1..40).map(|i| format!("    - {{name: A{i}, value: $(A{0})$(A{0})}}\n", i - 1)).collect();
    let spec = format!(
        "  containers:\n  - name: c\n    image: busybox:1.36\n    env:\n    - {{name: A0, value: abcdefghij}}\n{doubling}"
    );
    instance.apply(&pod("doubling", &spec));
    instance.eventually("a container that cannot be configured", || {
        let waiting = "{.status.containerStatuses[0].state.waiting.reason}: {.status.containerStatuses[0].state.waiting.message}";
        let found = instance.field("pod/doubling", waiting);
        let wanted = "CreateContainerConfigError: failed to make the environment: argument list too long";
        if found == wanted { Ok(()) } else { Err(found) }
    });
    assert_eq!(instance.kubectl(&["get", "--raw", "/readyz"]).ok(), "ok");
}

#[test]
fn a_pod_of_a_class_without_a_runtime_does_not_start() {
    let instance = Instance::start(&["busybox.tar"]);
    let class = |name: &str, handler: &str| {
        format!(
            "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {{name: {name}}}\nhandler: {handler}\n"
        )
    };
    instance.kubectl_with(&["apply", "-f", "-"], &class("isolated", "kata")).ok();
    instance.kubectl_with(&["apply", "-f", "-"], &class("plain", "runc")).ok();
    let with = |class: &str| {
        format!(
            "  runtimeClassName: {class}\n  containers: [{{name: c, image: \"busybox:1.36\", command: [sleep, \"3600\"]}}]\n"
        )
    };
    instance.apply(&pod("isolated", &with("isolated")));
    instance.apply(&pod("plain", &with("plain")));
    instance.wait("condition=Ready", "pod/plain");
    instance.eventually("why the Pod does not start", || {
        let selector = "involvedObject.name=isolated,reason=FailedCreatePodSandBox";
        let path = "jsonpath={.items[*].message}";
        let found = instance.kubectl(&["get", "events", "--field-selector", selector, "-o", path]).ok();
        if found.contains("no runtime for \"kata\" is configured") { Ok(()) } else { Err(found) }
    });
    assert_eq!(instance.field("pod/isolated", "{.status.phase}"), "Pending");
}

#[test]
fn a_claim_keeps_within_the_limit_range_of_its_namespace() {
    let instance = Instance::start(&[]);
    instance.apply(
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: limits}\n\
         spec: {limits: [{type: PersistentVolumeClaim, min: {storage: 1Gi}}]}\n",
    );
    let claim = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: small}\n\
        spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}\n";
    let err = instance.kubectl_with(&["apply", "-f", "-"], claim).fails();
    let why = "persistentvolumeclaims \"small\" is forbidden: minimum storage usage per PersistentVolumeClaim is \
               1Gi, but request is 1Mi";
    assert!(err.contains(why), "{err}");
}
