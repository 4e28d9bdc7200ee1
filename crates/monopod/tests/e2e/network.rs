//! Services, names and ports of the node, with real packets.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Instant;

use sys::namespace::{self, Namespaces};
use sys::netlink::{Link, Route, Veth};

use crate::harness::Instance;

/// A server of which there are several, one that asks, and Services over them.
const WEB: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web, number: "0"}}
spec:
  hostname: web-0
  subdomain: pods
  containers: [{name: main, image: "testserver:1", readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web, number: "1"}}
spec:
  hostname: web-1
  subdomain: pods
  containers: [{name: main, image: "testserver:1", readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: self}
spec: {selector: {number: "0"}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: pods}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: self.default.svc.cluster.local}
"#;

/// Asks from inside a Pod; the answer or what went wrong.
fn fetch(instance: &Instance, pod: &str, url: &str) -> Result<String, String> {
    let said = instance.kubectl(&["exec", pod, "--", "/bin/testserver", "fetch", url]);
    if said.code == 0 { Ok(said.out.trim().to_owned()) } else { Err(said.err) }
}

/// Asks from the node.
fn curl(url: &str) -> Result<String, String> {
    let said = Command::new("curl").args(["-sS", "--max-time", "5", url]).output().expect("curl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) }
}

/// Asks until both servers have answered: the choice is random.
#[track_caller]
fn both_answer(instance: &Instance, what: &str, ask: impl Fn() -> Result<String, String>) {
    let mut seen = std::collections::BTreeSet::new();
    instance.eventually(what, || {
        seen.insert(ask()?);
        if seen.len() == 2 { Ok(()) } else { Err(format!("only {seen:?}")) }
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["hello from web-0", "hello from web-1"]);
}

/// Another address of the node than the loopback's.
fn node_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Only asks the routing table; nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    }
}

#[test]
fn services_lead_to_their_pods_from_everywhere() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(WEB);
    instance.wait("condition=Ready", "pod/web-0");
    instance.wait("condition=Ready", "pod/web-1");
    both_answer(&instance, "by name from a Pod", || fetch(&instance, "web-0", "http://web"));
    let address = instance.field("service/web", "{.spec.clusterIP}");
    both_answer(&instance, "by address from the node", || curl(&format!("http://{address}")));
    let port = instance.field("service/web", "{.spec.ports[0].nodePort}");
    let outer = node_address().expect("the node has an address");
    both_answer(&instance, "node port from the node", || curl(&format!("http://{outer}:{port}")));
    both_answer(&instance, "node port from a Pod", || {
        fetch(&instance, "web-1", &format!("http://{outer}:{port}"))
    });
    // A Pod that its own Service leads back to itself.
    let own = instance.eventually("hairpin", || fetch(&instance, "web-0", "http://self"));
    assert_eq!(own, "hello from web-0");
    // More of them at once than the kernel would send errors to one address.
    for _ in 0..10 {
        let refused = fetch(&instance, "web-0", "http://nobody").expect_err("nobody is there");
        assert!(refused.contains("Connection refused"), "{refused}");
    }
}

/// Who is reached is written by hand, as for a database outside the cluster.
#[test]
fn endpoints_written_by_hand_are_where_their_service_leads() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(WEB);
    instance.wait("condition=Ready", "pod/web-0");
    instance.wait("condition=Ready", "pod/web-1");
    instance
        .apply("---\n{apiVersion: v1, kind: Service, metadata: {name: hand}, spec: {ports: [{port: 80}]}}");
    let lead_to = |pod: &str| {
        let address = instance.field(pod, "{.status.podIP}");
        let manifest = format!(
            "---\n{{apiVersion: v1, kind: Endpoints, metadata: {{name: hand}}, \
             subsets: [{{addresses: [{{ip: {address}}}], ports: [{{port: 8080}}]}}]}}"
        );
        let applied = instance.kubectl_with(&["apply", "-f", "-"], &manifest);
        assert!(!applied.err.contains("not mirrored"), "{}", applied.err);
        applied.ok();
    };
    for number in ["web-0", "web-1"] {
        lead_to(&format!("pod/{number}"));
        instance.eventually(number, || match fetch(&instance, "web-0", "http://hand") {
            Ok(said) if said == format!("hello from {number}") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

#[test]
fn names_are_those_of_kubernetes() {
    let instance = Instance::start(&["testserver.tar", "busybox.tar"]);
    instance.apply(WEB);
    instance.apply(
        r#"---
{apiVersion: v1, kind: Pod, metadata: {name: ask}, spec: {terminationGracePeriodSeconds: 0,
            containers: [{name: c, image: "busybox:1.36", command: [sleep, "3600"]}]}}"#,
    );
    for pod in ["pod/web-0", "pod/web-1", "pod/ask"] {
        instance.wait("condition=Ready", pod);
    }
    let words = ["-n", "kube-system", "get", "service", "kube-dns", "-o", "jsonpath={.spec.clusterIP}"];
    let service = instance.kubectl(&words).ok();
    let resolv = instance.kubectl(&["exec", "ask", "--", "cat", "/etc/resolv.conf"]).ok();
    assert!(resolv.contains(&format!("nameserver {service}\n")), "{resolv}");
    assert!(
        resolv.starts_with("search default.svc.cluster.local svc.cluster.local cluster.local"),
        "{resolv}"
    );
    assert!(resolv.contains("options ndots:5"), "{resolv}");
    let answers = |name: &str, url: &str| {
        instance.eventually(name, || {
            fetch(&instance, "web-1", url).and_then(|said| match said {
                said if said == format!("hello from {name}") => Ok(()),
                said => Err(said),
            })
        });
    };
    answers("web-0", "http://web-0.pods:8080");
    answers("web-1", "http://web-1.pods.default.svc.cluster.local:8080");
    answers("web-0", "http://alias.default");
    let look_up = |name: &str| instance.kubectl(&["exec", "ask", "--", "nslookup", name]);
    let missing = look_up("nosuch.default.svc.cluster.local");
    assert!(missing.out.contains("NXDOMAIN") || missing.err.contains("NXDOMAIN"), "{missing:?}");
    let address = instance.field("service/web", "{.spec.clusterIP}");
    let reverse = look_up(&address).ok();
    assert!(reverse.contains("web.default.svc.cluster.local"), "{reverse}");
    let pods = look_up("pods.default.svc.cluster.local").out;
    for pod in ["pod/web-0", "pod/web-1"] {
        let ip = instance.field(pod, "{.status.podIP}");
        assert!(pods.contains(&ip), "{ip} in {pods}");
    }
    let events = instance.kubectl(&["get", "events", "-o", "name"]).ok();
    let reasons = instance.kubectl(&["get", "events", "-o", "custom-columns=R:.reason"]).ok();
    assert!(!reasons.contains("MissingClusterDNS"), "{events}{reasons}");
}

#[test]
fn a_pod_speaks_to_the_api_as_its_service_account() {
    let instance = Instance::start(&["nginx.tar"]);
    instance.apply(
        r#"---
{apiVersion: v1, kind: Pod, metadata: {name: asks}, spec: {terminationGracePeriodSeconds: 0,
            containers: [{name: c, image: "nginx:1.27", command: [sleep, "3600"]}]}}"#,
    );
    instance.wait("condition=Ready", "pod/asks");
    let review = r#"S=/var/run/secrets/kubernetes.io/serviceaccount
        curl -sS --max-time 10 --cacert $S/ca.crt -H "Authorization: Bearer $(cat $S/token)" -H 'Content-Type: application/json' \
          -d '{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}' \
          https://HOST/apis/authentication.k8s.io/v1/selfsubjectreviews"#;
    for host in ["kubernetes.default.svc", "$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"] {
        let answer = instance.eventually("the API's answer", || {
            let said = instance.kubectl(&["exec", "asks", "--", "sh", "-c", &review.replace("HOST", host)]);
            if said.code == 0 { Ok(said.out) } else { Err(said.err) }
        });
        assert!(answer.contains("system:serviceaccount:default:default"), "{host}: {answer}");
        assert!(answer.contains("authentication.kubernetes.io/pod-name"), "{host}: {answer}");
    }
}

#[test]
fn a_host_port_leads_to_its_pod_and_is_given_once() {
    let instance = Instance::start(&["testserver.tar"]);
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    let pod = |name: &str| {
        format!(
            r#"---
{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1,
                containers: [{{name: c, image: "testserver:1", ports: [{{containerPort: 8080, hostPort: {port}}}]}}]}}}}"#
        )
    };
    instance.apply(&pod("first"));
    instance.wait("condition=Ready", "pod/first");
    for address in [Ipv4Addr::LOCALHOST, node_address().expect("the node has an address")] {
        let said = instance.eventually("the host port", || curl(&format!("http://{address}:{port}")));
        assert_eq!(said, "hello from first", "{address}");
    }
    instance.apply(&pod("second"));
    let why = instance.eventually("the second Pod is refused", || {
        let why = instance.field("pod/second", "{.status.conditions[?(@.type=='PodScheduled')].message}");
        if why.is_empty() { Err("no reason yet".to_owned()) } else { Ok(why) }
    });
    assert!(why.contains("node(s) didn't have free ports for the requested pod ports"), "{why}");
    instance.kubectl(&["delete", "pod", "first"]).ok();
    instance.wait("condition=Ready", "pod/second");
    let said = instance.eventually("the port's next owner", || curl(&format!("http://127.0.0.1:{port}")));
    assert_eq!(said, "hello from second");
}

#[test]
fn a_pod_on_the_nodes_network_serves_there_and_finds_services() {
    let instance = Instance::start(&["testserver.tar"]);
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    instance.apply(&format!(
        r#"---
{{apiVersion: v1, kind: Pod, metadata: {{name: onhost, labels: {{app: onhost}}}}, spec: {{terminationGracePeriodSeconds: 1,
            hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet,
            containers: [{{name: c, image: "testserver:1", args: [serve, --port, "{port}"]}}]}}}}"#
    ));
    instance.apply(&format!(
        r#"---
{{apiVersion: v1, kind: Service, metadata: {{name: onhost}},
            spec: {{selector: {{app: onhost}}, ports: [{{port: 80, targetPort: {port}}}]}}}}"#
    ));
    instance.wait("condition=Ready", "pod/onhost");
    instance.eventually("the node's port", || curl(&format!("http://127.0.0.1:{port}")));
    let by_name = instance.eventually("by name", || fetch(&instance, "onhost", "http://onhost.default"));
    assert!(by_name.starts_with("hello from "), "{by_name}");
}

#[test]
fn two_instances_have_services_side_by_side() {
    let (one, two) = (Instance::start(&["testserver.tar"]), Instance::start(&["testserver.tar"]));
    for instance in [&one, &two] {
        instance.apply(WEB);
        instance.wait("condition=Ready", "pod/web-0");
        instance.wait("condition=Ready", "pod/web-1");
    }
    let addresses: Vec<String> =
        [&one, &two].map(|instance| instance.field("service/web", "{.spec.clusterIP}")).to_vec();
    assert_ne!(addresses[0].split('.').nth(1), addresses[1].split('.').nth(1), "ranges are apart");
    both_answer(&one, "the first's Service", || fetch(&one, "web-0", "http://web"));
    both_answer(&two, "the second's Service", || fetch(&two, "web-0", "http://web"));
    drop(two);
    both_answer(&one, "the first's Service alone", || fetch(&one, "web-0", "http://web"));
}

#[test]
fn a_pod_is_stopped_only_after_its_endpoint_is_withdrawn() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(WEB);
    instance.wait("condition=Ready", "pod/web-0");
    instance.wait("condition=Ready", "pod/web-1");
    let address = instance.field("service/web", "{.spec.clusterIP}");
    both_answer(&instance, "both serve", || curl(&format!("http://{address}")));
    // One after another, each a new connection, while one of the two goes away.
    let mut delete = instance
        .kubectl_command(&["delete", "pod", "web-1"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("kubectl runs");
    let start = Instant::now();
    let mut failed = Vec::new();
    let mut asked = 0;
    while delete.try_wait().expect("waited").is_none() || asked < 20 {
        asked += 1;
        if let Err(error) = curl(&format!("http://{address}")) {
            failed.push((start.elapsed(), error));
        }
    }
    assert!(failed.is_empty(), "{} of {asked} failed: {failed:?}", failed.len());
    assert_eq!(curl(&format!("http://{address}")).as_deref(), Ok("hello from web-0"));
}

/// The rules of IP see bridged packets only where the module `br_netfilter` is loaded, and most hosts do not
/// load it. What it does is a parameter of each network namespace, so the test has one of its own.
#[test]
fn services_and_host_ports_lead_to_pods_of_the_same_node_without_br_netfilter() {
    in_a_host_of_its_own(|outer| {
        let instance = Instance::start(&["testserver.tar", "busybox.tar"]);
        instance.apply(WEB);
        instance.apply(
            r#"---
{apiVersion: v1, kind: Pod, metadata: {name: ask}, spec: {terminationGracePeriodSeconds: 0,
            containers: [{name: c, image: "busybox:1.36", command: [sleep, "3600"]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: ported}, spec: {terminationGracePeriodSeconds: 1,
            containers: [{name: c, image: "testserver:1", ports: [{containerPort: 8080, hostPort: 18080}]}]}}"#,
        );
        for pod in ["pod/web-0", "pod/web-1", "pod/ask", "pod/ported"] {
            instance.wait("condition=Ready", pod);
        }
        let address = instance.field("service/web", "{.spec.clusterIP}");
        both_answer(&instance, "by address from a Pod", || {
            fetch(&instance, "web-0", &format!("http://{address}"))
        });
        both_answer(&instance, "by name from a Pod", || fetch(&instance, "ported", "http://web"));
        let host_port = format!("http://{outer}:18080");
        for asking in ["web-0", "ported"] {
            let said = instance.eventually("a host port", || fetch(&instance, asking, &host_port));
            assert_eq!(said, "hello from ported", "asked by {asking}");
        }
        // Each packet from Pod to Pod leaves the node's bridge as it came, and nobody is told of a shorter way.
        let shell = |script: &str| instance.kubectl(&["exec", "ask", "--", "sh", "-c", script]).ok();
        let request = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {address} 80");
        let said = shell(&format!("for i in 1 2 3 4 5 6 7 8; do {request}; done"));
        assert_eq!(said.matches("hello from web-").count(), 8, "{said}");
        assert_eq!(icmp(&shell("cat /proc/net/snmp"), "InRedirects"), 0);
    });
}

#[test]
fn the_clusters_own_addresses_are_no_services_external_ones() {
    let instance = Instance::start(&["testserver.tar"]);
    instance.apply(WEB);
    instance.wait("condition=Ready", "pod/web-0");
    let api = instance.field("service/kubernetes", "{.spec.clusterIP}");
    instance.apply(&format!(
        r#"---
{{apiVersion: v1, kind: Service, metadata: {{name: a-thief}},
            spec: {{selector: {{app: web}}, externalIPs: ["{api}"], ports: [{{port: 443, targetPort: 8080}}]}}}}"#
    ));
    let why = instance.eventually("the refusal", || {
        let selector = "--field-selector=involvedObject.name=a-thief";
        let said = instance.kubectl(&["get", "events", selector, "-o", "jsonpath={.items[*].message}"]).ok();
        if said.is_empty() { Err("no event yet".to_owned()) } else { Ok(said) }
    });
    assert!(
        why.contains(&format!("external address {api} is ignored: it is of the range of cluster IPs")),
        "{why}"
    );
    let version =
        Command::new("curl").args(["-sSk", "--max-time", "5", &format!("https://{api}/version")]).output();
    let version = String::from_utf8_lossy(&version.expect("curl runs").stdout).into_owned();
    assert!(version.contains("gitVersion") || version.contains("\"kind\": \"Status\""), "{version}");
}

/// A restart of the host's nftables service deletes all tables; who flushes one leaves it without its rules.
#[test]
fn tables_that_others_delete_or_flush_come_back() {
    let instance = Instance::start(&["testserver.tar"]);
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    instance.apply(&format!(
        r#"---
{{apiVersion: v1, kind: Pod, metadata: {{name: ported, labels: {{app: ported}}}}, spec: {{terminationGracePeriodSeconds: 1,
            containers: [{{name: c, image: "testserver:1", ports: [{{containerPort: 8080, hostPort: {port}}}]}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: ported}},
            spec: {{selector: {{app: ported}}, ports: [{{port: 80, targetPort: 8080}}]}}}}"#
    ));
    instance.wait("condition=Ready", "pod/ported");
    let address = instance.field("service/ported", "{.spec.clusterIP}");
    let places = [format!("http://{address}"), format!("http://127.0.0.1:{port}")];
    for place in &places {
        instance.eventually(place, || curl(place));
    }
    let id = crate::host::instance_id(instance.dir.path());
    for act in ["delete", "flush"] {
        for table in [format!("monopod-{id}"), format!("monopod-{id}-ports")] {
            let acted = Command::new("nft").args([act, "table", "ip", &table]).status().expect("nft runs");
            assert!(acted.success(), "{table} was there");
        }
        for place in &places {
            assert_eq!(instance.eventually(place, || curl(place)), "hello from ported", "{act}: {place}");
        }
    }
}

/// The node has 13 addresses here, and the Pods that have finished stay until somebody deletes them.
#[test]
fn finished_pods_take_no_address_from_those_that_come() {
    in_a_host_of_its_own(|_| {
        let ranges = ["--pod-cidr", "10.251.77.0/28", "--service-cidr", "10.252.77.0/24"];
        let mut instance = Instance::start_with(&["busybox.tar"], &ranges);
        let once = |instance: &Instance, round: usize| {
            let names: Vec<String> = (0..9).map(|number| format!("pod/once-{round}-{number}")).collect();
            let manifests = names.iter().map(|name| {
                let name = name.trim_start_matches("pod/");
                format!(
                    r#"---
{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never,
            containers: [{{name: c, image: "busybox:1.36", command: [sh, -c, "echo I am {name}; exit 3"]}}]}}}}
"#
                )
            });
            instance.apply(&manifests.collect::<String>());
            names.iter().for_each(|name| instance.wait("jsonpath={.status.phase}=Failed", name));
        };
        once(&instance, 0);
        once(&instance, 1);
        assert_eq!(instance.stop(), 0);
        instance.up();
        once(&instance, 2);
        assert!(instance.field("pod/once-0-0", "{.status.podIP}").starts_with("10.251.77."));
        assert_eq!(instance.kubectl(&["logs", "once-0-0"]).ok(), "I am once-0-0\n");
        let code = "{.status.containerStatuses[0].state.terminated.exitCode}";
        assert_eq!(instance.field("pod/once-1-1", code), "3");
    });
}

#[test]
fn a_range_of_the_host_is_refused_and_so_is_another_than_that_of_pods_that_live() {
    in_a_host_of_its_own(|address| {
        let mut instance = Instance::start(&[]);
        assert_eq!(instance.stop(), 0);
        let refused = |flag: &str, range: &str| {
            instance.monopod(&["up", "--listen", "127.0.0.1:0", flag, range]).fails()
        };
        let [a, b, c, _] = address.octets();
        let hosts = format!("{a}.{b}.{c}.0/24");
        for flag in ["--pod-cidr", "--service-cidr"] {
            let said = refused(flag, &hosts);
            assert!(
                said.contains(&format!("{flag} {hosts}: ")) && said.contains(" has an address in it"),
                "{said}"
            );
        }
        let said = refused("--pod-cidr", "10.251.78.0/24");
        assert!(said.contains("run `monopod down` before they move to 10.251.78.0/24"), "{said}");
        instance.monopod(&["down"]).ok();
        let moved = Instance::start_with(&[], &["--pod-cidr", "10.251.78.0/24"]);
        assert_eq!(moved.field("node", "{.items[0].spec.podCIDR}"), "10.251.78.0/24");
    });
}

/// Runs in a network namespace that plays a host with one interface, whose address is given, and the
/// parameters that a host without `br_netfilter` has; in a mount namespace with a `/run` of its own too, where
/// instances leave word for each other about the host's parameters.
pub fn in_a_host_of_its_own(test: impl FnOnce(Ipv4Addr) + Send + 'static) {
    let host = std::thread::spawn(move || {
        namespace::unshare(Namespaces::NETWORK | Namespaces::MOUNT).expect("root may");
        let private =
            rustix::mount::MountPropagationFlags::REC | rustix::mount::MountPropagationFlags::PRIVATE;
        rustix::mount::mount_change("/", private).expect("mounts are our own");
        rustix::mount::mount("tmpfs", "/run", "tmpfs", rustix::mount::MountFlags::empty(), c"mode=755")
            .expect("/run is our own");
        let parameter = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if std::path::Path::new(parameter).exists() {
            std::fs::write(parameter, "0").expect("the namespace is ours");
        }
        let links = Link::open().expect("a socket");
        links.set_up(1).expect("loopback is up");
        let own = namespace::open("/proc/thread-self/ns/net").expect("our namespace");
        // Two ends in one namespace: what has a link has a carrier.
        let (name, peer, namespace) = ("eth0", "eth1", own.as_fd());
        let veth = Veth { name, master: 0, peer, namespace, peer_mac: [2, 0, 0, 0, 0, 1], mtu: 0 };
        links.make_veth(&veth).expect("a veth pair");
        links.set_up(links.find(peer).expect("made").index).expect("up");
        let eth0 = links.find(name).expect("made").index;
        let outer = Ipv4Addr::new(192, 0, 2, 7);
        links.add_address(eth0, outer.into(), 24).expect("an address");
        let via = Some([192, 0, 2, 1].into());
        links.add_route(&Route { to: None, via, link: eth0 }).expect("a default route");
        test(outer);
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A counter of /proc/net/snmp.
fn icmp(snmp: &str, name: &str) -> u64 {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let names = lines.next().expect("names").split(' ');
    let values = lines.next().expect("values").split(' ');
    let found = names.zip(values).find(|(candidate, _)| *candidate == name);
    found.expect("the counter is there").1.parse().expect("a number")
}
