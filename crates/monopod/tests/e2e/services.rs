//! What a Service can ask for, each by real connections.

use std::collections::BTreeSet;
use std::process::Command;

use crate::harness::Instance;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "testserver:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "testserver:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: unready, labels: {app: unready}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "testserver:1", readinessProbe: {exec: {command: ["false"]}}}]
"#;

/// Two Pods that serve, and one that is never ready.
fn start() -> Instance {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(PODS);
    for pod in ["pod/web-0", "pod/web-1"] {
        instance.wait("condition=Ready", pod);
    }
    instance.wait("jsonpath={.status.phase}=Running", "pod/unready");
    instance
}

fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// The answer to the node, or why there is none.
fn curl(url: &str) -> Result<String, String> {
    let said = Command::new("curl").args(["-sS", "--max-time", "5", url]).output().expect("curl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) }
}

fn address(instance: &Instance, service: &str) -> String {
    instance.field(&format!("service/{service}"), "{.spec.clusterIP}")
}

fn node_address(instance: &Instance) -> String {
    instance.field("pod/web-0", "{.status.hostIP}")
}

/// Who answers when asked so often; all answers must come.
fn who(url: &str, times: usize) -> BTreeSet<String> {
    (0..times).map(|_| curl(url).expect("an answer").replace("hello from ", "")).collect()
}

fn both() -> BTreeSet<String> {
    BTreeSet::from(["web-0".to_owned(), "web-1".to_owned()])
}

#[test]
fn a_client_stays_with_its_pod_as_long_as_it_comes_back_in_time() {
    let instance = start();
    instance.apply(&service(
        "sticky",
        "{type: NodePort, selector: {app: web}, sessionAffinity: ClientIP, \
          sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}, ports: [{port: 80, targetPort: 8080}]}",
    ));
    instance.apply(&service("loose", "{selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}"));
    let [sticky, loose] = ["sticky", "loose"].map(|name| format!("http://{}", address(&instance, name)));
    instance.eventually("both answer", || {
        curl(&sticky)?;
        let seen = who(&loose, 10);
        if seen == both() { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let one = who(&sticky, 20);
    assert_eq!(one.len(), 1, "{one:?}");
    let node_port = instance.field("service/sticky", "{.spec.ports[0].nodePort}");
    let by_port = who(&format!("http://{}:{node_port}", node_address(&instance)), 10);
    assert_eq!(by_port.len(), 1, "{by_port:?}");
    // It is forgotten a second after it has come last, and then either may answer.
    let mut seen = one;
    instance.eventually("the other one", || {
        std::thread::sleep(std::time::Duration::from_millis(1200));
        seen.extend(who(&sticky, 1));
        if seen == both() { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn a_load_balancer_is_the_node_itself() {
    let instance = start();
    instance.apply(&service(
        "outer",
        "{type: LoadBalancer, selector: {app: web}, externalTrafficPolicy: Local, ports: [{port: 18080, targetPort: 8080}]}",
    ));
    let node = node_address(&instance);
    instance.wait(&format!("jsonpath={{.status.loadBalancer.ingress[0].ip}}={node}"), "service/outer");
    let url = format!("http://{node}:18080");
    instance.eventually("the node's own address", || curl(&url));
    assert_eq!(who(&url, 20), both());
    // Its sender is kept.
    assert_eq!(curl(&format!("{url}/peer")).as_deref(), Ok(node.as_str()));
    let health = instance.field("service/outer", "{.spec.healthCheckNodePort}");
    let health = format!("http://{node}:{health}/");
    let said = instance.eventually("the health check", || curl(&health));
    assert!(said.contains("\"localEndpoints\": 2") && said.contains("\"name\": \"outer\""), "{said}");
    // A port is one Service's.
    instance.apply(&service(
        "late",
        "{type: LoadBalancer, selector: {app: web}, ports: [{port: 18080, targetPort: 8080}]}",
    ));
    instance.eventually("the refusal", || {
        let selector = "--field-selector=involvedObject.name=late";
        let said = instance.kubectl(&["get", "events", selector, "-o", "jsonpath={.items[*].message}"]).ok();
        if said.contains("port 18080/TCP of the node is that of service default/outer") {
            Ok(())
        } else {
            Err(said)
        }
    });
    assert_eq!(instance.field("service/late", "{.status.loadBalancer.ingress}"), "");
    let patch = r#"{"spec": {"loadBalancerSourceRanges": ["198.51.100.0/24"]}}"#;
    instance.kubectl(&["patch", "service", "outer", "-p", patch]).ok();
    instance.eventually("others are kept out", || {
        let said = Command::new("curl").args(["-sS", "--max-time", "1", &url]).output().expect("curl runs");
        if said.status.success() { Err("an answer".to_owned()) } else { Ok(()) }
    });
    instance.kubectl(&["delete", "service", "outer"]).ok();
    instance.wait(&format!("jsonpath={{.status.loadBalancer.ingress[0].ip}}={node}"), "service/late");
    instance.eventually("the next one has the port", || curl(&url));
    assert!(curl(&health).is_err(), "nobody asks there any more");
}

#[test]
fn policies_say_to_which_pods_and_by_which_way() {
    let instance = start();
    let node = node_address(&instance);
    let ports = "ports: [{port: 80, targetPort: 8080}]";
    let manifests = [
        service("cluster", &format!("{{type: NodePort, selector: {{app: web}}, {ports}}}")),
        service(
            "local",
            &format!("{{type: NodePort, selector: {{app: web}}, externalTrafficPolicy: Local, {ports}}}"),
        ),
        service("claimed", &format!("{{selector: {{app: web}}, externalIPs: [203.0.113.9], {ports}}}")),
        service("early", &format!("{{selector: {{app: unready}}, publishNotReadyAddresses: true, {ports}}}")),
        service("patient", &format!("{{selector: {{app: unready}}, {ports}}}")),
        service("near", &format!("{{selector: {{app: web}}, trafficDistribution: PreferSameNode, {ports}}}")),
    ];
    instance.apply(&manifests.concat());
    let node_port = |service: &str| {
        let port = instance.field(&format!("service/{service}"), "{.spec.ports[0].nodePort}");
        format!("http://{node}:{port}/peer")
    };
    let peer = instance.eventually("a local node port", || curl(&node_port("local")));
    assert_eq!(peer, node, "who asks is seen");
    let peer = instance.eventually("a node port", || curl(&node_port("cluster")));
    assert_ne!(peer, node, "answers come back by the node, whoever asks");
    instance.eventually("an external address", || curl("http://203.0.113.9"));
    let early = format!("http://{}", address(&instance, "early"));
    let said = instance.eventually("a Pod that is not ready", || curl(&early));
    assert_eq!(said, "hello from unready");
    let refused = curl(&format!("http://{}", address(&instance, "patient"))).expect_err("nobody is ready");
    assert!(refused.contains("refused") || refused.contains("Couldn't connect"), "{refused}");
    let hints = instance.eventually("hints", || {
        let selector = "-lkubernetes.io/service-name=near";
        let path = "-o=jsonpath={.items[*].endpoints[*].hints.forNodes[*].name}";
        let said = instance.kubectl(&["get", "endpointslices", selector, path]).ok();
        if said.split(' ').count() == 2 { Ok(said) } else { Err(said) }
    });
    let own = instance.field("pod/web-0", "{.spec.nodeName}");
    assert_eq!(hints, format!("{own} {own}"));
    instance.eventually("a hinted Service", || curl(&format!("http://{}", address(&instance, "near"))));
}

/// Endpoints as if there were another node: only what is near is asked.
#[test]
fn what_is_near_is_preferred_or_required() {
    let instance = start();
    let own = instance.field("pod/web-0", "{.spec.nodeName}");
    let pod = |name: &str| instance.field(&format!("pod/{name}"), "{.status.podIP}");
    let (here, there) = (pod("web-0"), pod("web-1"));
    let slice = |service: &str, node: &str, hints: bool| {
        let hint = |node: &str| {
            if hints { format!(", hints: {{forNodes: [{{name: {node}}}]}}") } else { String::new() }
        };
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {service}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
             ports: [{{name: \"\", port: 8080}}]\n\
             endpoints:\n- {{addresses: [{here}], nodeName: {node}{}}}\n- {{addresses: [{there}], nodeName: another{}}}\n",
            hint(node),
            hint("another"),
        )
    };
    let ports = "ports: [{port: 80, targetPort: 8080}]";
    let manifests = [
        service("hinted", &format!("{{{ports}}}")),
        slice("hinted", &own, true),
        service("hinted-away", &format!("{{{ports}}}")),
        slice("hinted-away", "yet-another", true),
        service("inner", &format!("{{internalTrafficPolicy: Local, {ports}}}")),
        slice("inner", &own, false),
        service("away", &format!("{{internalTrafficPolicy: Local, {ports}}}")),
        slice("away", "yet-another", false),
    ];
    instance.apply(&manifests.concat());
    let url = |service: &str| format!("http://{}", address(&instance, service));
    for service in ["hinted", "hinted-away", "inner"] {
        instance.eventually(service, || curl(&url(service)));
    }
    let one = BTreeSet::from(["web-0".to_owned()]);
    assert_eq!(who(&url("hinted"), 20), one);
    assert_eq!(who(&url("inner"), 20), one);
    assert_eq!(who(&url("hinted-away"), 20), both(), "somebody is better than nobody");
    let said =
        Command::new("curl").args(["-sS", "--max-time", "2", &url("away")]).output().expect("curl runs");
    assert!(!said.status.success(), "no Pod of it is here");
}
