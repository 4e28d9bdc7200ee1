//! Manifests from courses and posts, as they were written, with plain `kubectl apply`.

use std::path::Path;

use crate::archives::Registry;
use crate::harness::{Instance, test_image, testdata};

#[test]
fn the_service_pod_with_its_config_map_and_claim_becomes_ready() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(&testdata("seeds/ad-web-impl.yaml"));
    let k = |words: &[&str]| instance.kubectl(&[&["-n", "coohua"], words].concat());
    k(&["wait", "--for=condition=Ready", "pod/ad-web-impl", "--timeout=90s"]).ok();
    assert_eq!(k(&["get", "pvc", "ad-web-impl-prod", "-o", "jsonpath={.status.phase}"]).ok(), "Bound");
    assert_eq!(
        k(&["exec", "ad-web-impl", "--", "sh", "-c", "echo $appid $denv; touch /data/x && echo written"])
            .ok(),
        "ad.web pro\nwritten\n"
    );
    let resources = k(&[
        "get",
        "pod",
        "ad-web-impl",
        "-o",
        "jsonpath={.spec.containers[0].resources.limits} {.status.qosClass}",
    ])
    .ok();
    assert_eq!(resources, r#"{"cpu":"4","memory":"6Gi"} Burstable"#);
}

#[test]
fn the_full_pod_of_the_course_runs() {
    // imagePullPolicy Always: a registry on the loopback stands for the one the manifest means.
    let registry = Registry::open();
    registry.push(Path::new(&test_image("nginx.tar")), "library/nginx", "latest");
    let mirror = format!("docker.io=http://127.0.0.1:{}", registry.port);
    let instance = Instance::start_with(&["busybox.tar"], &["--registry-mirror", &mirror]);
    instance.apply(&testdata("seeds/nginx-full.yaml"));
    instance.wait("jsonpath={.status.containerStatuses[0].state.running}", "pod/nginx");
    assert_eq!(
        instance.kubectl(&["logs", "nginx", "-c", "init-container"]).ok(),
        "I am InitContainer for init some configuration\n"
    );
    assert_eq!(
        instance.kubectl(&["exec", "nginx", "-c", "nginx", "--", "ls", "-d", "/data"]).ok(),
        "/data\n"
    );
    // The html folder is an empty volume: nginx answers 403 and the readiness probe says so, as it does in a cluster.
    let unhealthy = instance.eventually("the readiness probe's event", || {
        let events = instance
            .kubectl(&[
                "get",
                "events",
                "--field-selector",
                "reason=Unhealthy",
                "-o",
                "jsonpath={.items[*].message}",
            ])
            .ok();
        if events.is_empty() { Err("no event".to_owned()) } else { Ok(events) }
    });
    assert!(
        unhealthy.contains("Readiness probe failed: HTTP probe failed with statuscode: 403"),
        "{unhealthy}"
    );
}

#[test]
fn the_pod_with_a_pre_stop_curl_takes_its_time_to_stop() {
    let instance = Instance::start(&["nginx.tar"]);
    // The original waits 30 s; here it waits until it has been looked at.
    let manifest = testdata("seeds/abcdocker.yaml")
        .replace("image: nginx", "image: nginx\n    imagePullPolicy: Never")
        .replace("sleep 30", "until test -e /seen; do sleep 0.05; done");
    instance.apply(&manifest);
    instance.wait("condition=Ready", "pod/abcdocker");
    instance.kubectl(&["delete", "pod", "abcdocker", "--wait=false"]).ok();
    assert!(instance.kubectl(&["get", "pod", "abcdocker"]).out.contains("Terminating"));
    // The hook waits, and nginx has heard nothing yet.
    let asked = [
        "exec",
        "abcdocker",
        "--",
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://127.0.0.1",
    ];
    assert_eq!(instance.kubectl(&asked).ok(), "200");
    instance.kubectl(&["exec", "abcdocker", "--", "bash", "-c", ": > /seen"]).ok();
    instance.wait("delete", "pod/abcdocker");
}

#[test]
fn the_web_archive_is_copied_by_the_init_container_and_served_on_the_host_port() {
    let instance = Instance::start(&["sample.tar", "tomcat.tar"]);
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    instance.apply(&testdata("seeds/javaweb-2.yaml").replace("hostPort: 8001", &format!("hostPort: {port}")));
    instance.wait("condition=Ready", "pod/javaweb-2");
    assert_eq!(
        instance
            .kubectl(&[
                "exec",
                "javaweb-2",
                "-c",
                "tomcat",
                "--",
                "ls",
                "/root/apache-tomcat-7.0.42-v2/webapps"
            ])
            .ok(),
        "sample.war\n"
    );
    let answer = std::process::Command::new("curl")
        .args(["-s", "--max-time", "5", &format!("http://127.0.0.1:{port}/")])
        .output()
        .expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "hello from javaweb-2\n");
}

#[test]
fn the_template_filled_in_runs() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(&testdata("seeds/template-filled.yaml"));
    instance.wait("condition=Ready", "pod/filled");
    let dump = "cat /creds/user; echo; cat /settings/colour; echo; pwd; echo $GREETING; touch /host/x 2>&1 | tail -c 22";
    let said = instance.kubectl(&["exec", "filled", "--", "sh", "-c", dump]).ok();
    assert_eq!(said, "admin\ngreen\n/tmp\nhello\nRead-only file system\n");
}

#[test]
fn a_label_on_the_node_decides_where_a_pod_goes() {
    let instance = Instance::start(&["busybox.tar"]);
    instance.apply(
        r#"apiVersion: v1
kind: Pod
metadata: {name: test, labels: {run: test}}
spec:
  nodeSelector: {env: test}
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "busybox:1.36", imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}
"#,
    );
    instance
        .wait("jsonpath={.status.conditions[?(@.type=='PodScheduled')].reason}=Unschedulable", "pod/test");
    let message = instance.field("pod/test", "{.status.conditions[?(@.type=='PodScheduled')].message}");
    assert_eq!(
        message,
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    let node = instance.field("nodes", "{.items[0].metadata.name}");
    instance.kubectl(&["label", "node", &node, "env=test"]).ok();
    instance.wait("condition=Ready", "pod/test");
}

#[test]
fn broken_manifests_are_refused_in_upstreams_words() {
    let instance = Instance::start(&[]);
    let refuse = |name: &str| instance.kubectl_with(&["apply", "-f", "-"], &testdata(name)).fails();
    assert_eq!(
        refuse("seeds/javaweb-2-broken.yaml"),
        "Error from server (BadRequest): error when creating \"STDIN\": Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.ports\"\n"
    );
    let syntax = refuse("seeds/selenium-broken.yaml");
    assert!(
        syntax.starts_with("error: error parsing STDIN: error converting YAML to JSON: yaml: line "),
        "{syntax}"
    );
    assert_eq!(
        refuse("seeds/template-misspelt.yaml"),
        "Error from server (BadRequest): error when creating \"STDIN\": Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containers[0].livenessProbe.securityContext\", unknown field \"spec.volumes[0].secret.items[0].keys\"\n"
    );
}
