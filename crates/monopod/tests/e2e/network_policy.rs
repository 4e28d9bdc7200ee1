//! Who reaches whom under NetworkPolicies, by real connections between real Pods.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::harness::{Instance, PATIENCE};

/// Servers that are clients too, in two namespaces, and one on the node's network.
const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: other, labels: {team: other}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "testserver:1", args: ARGS, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: api, labels: {app: api}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "testserver:1", args: ARGS, ports: [{name: http, containerPort: 8082}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "testserver:1", args: ARGS}]
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  hostNetwork: true
  containers: [{name: c, image: "testserver:1", args: [serve, --port, "HOSTPORT"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: other, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "testserver:1", args: ARGS}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: other, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: "testserver:1", args: ARGS, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: next, port: 81, targetPort: 8081}]
---
apiVersion: v1
kind: Service
metadata: {name: api}
spec: {selector: {app: api}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: other}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;
const ARGS: &str = r#"[serve, --port, "8080", --port, "8081", --port, "8082", --udp, "8053", --udp, "8054"]"#;

/// `BLOCK` is the range of the Pods, `EXCEPT` the address of one of them.
const POLICIES: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-in}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: http}]
  - from: [{podSelector: {matchLabels: {app: client}}, namespaceSelector: {matchLabels: {team: other}}}]
    ports: [{port: 8081, endPort: 8082}]
  - ports: [{protocol: UDP, port: 8053}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api-in}
spec:
  podSelector: {matchExpressions: [{key: app, operator: In, values: [api]}]}
  policyTypes: [Ingress]
  ingress: [{from: [{ipBlock: {cidr: BLOCK, except: [EXCEPT/32]}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client-out}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: web}}}, {podSelector: {matchLabels: {app: api}}}]
    ports: [{port: http}, {protocol: UDP, port: 8053}]
  - to: [{podSelector: {matchLabels: {app: web}}, namespaceSelector: {matchLabels: {team: other}}}]
    ports: [{port: 8080}]
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}},
          podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: other}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-from-clients, namespace: other}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}, namespaceSelector: {}}], ports: [{port: 8080}]}]
"#;

/// From, to, and whether that may be, with the reason.
const MATRIX: &str = "
client      web:8080         yes  an allowed peer, by the name of the port
client      web:8081         no   another port
client      web:8082         no   a port that is allowed to the other namespace
client      web:8053/udp     yes  open to all
client      web:8054/udp     no   another port of UDP
client      web:ping         no   no rule is for other protocols
client      svc/web:80       yes  the same through a Service
client      svc/web:81       no   the port behind the Service counts
client      name/web:80      yes  and by name: the server for names is allowed
client      api:8082         yes  the name is another port here
client      api:8080         no   which it is not
client      svc/api:80       yes  and through a Service that goes by the name
client      other/web:8080   yes  allowed by both sides
client      other/web:8081   no   by neither
client      svc/other/web:80 yes  the same through a Service
client      node:web         yes  a node port leads to the allowed Pod
client      node:next        no   and this one to another port
client      host:host        no   the node is no Pod, and nothing allows it
client      other/client:8080 no  nobody allows it
api         web:8080         no   no client
api         web:8081         no   no client
api         web:8053/udp     yes  open to all
api         svc/web:80       no   no client, through a Service either
api         node:web         no   a node port does not hide who asks
api         client:8080      yes  nothing isolates the client for ingress
api         client:8054/udp  yes  nor for UDP
api         other/web:8080   no   only clients
api         other/client:8080 no  denied by default
api         host:host        yes  nothing isolates it for egress
web         svc/web:80       yes  itself, which no policy forbids
web         client:8080      yes  nothing isolates either of them so
web         api:8080         yes  of the block, all ports
web         api:8054/udp     yes  all protocols too
other/client web:8081        yes  the first of the range
other/client web:8082        yes  the last of the range
other/client web:8080        no   only of the same namespace
other/client web:8053/udp    yes  open to all
other/client web:8054/udp    no   another port
other/client svc/web:81      yes  through a Service
other/client svc/web:80      no   through a Service
other/client node:next       yes  by a node port
other/client node:web        no   by a node port
other/client api:8080        no   excepted from the block
other/client api:8082        no   excepted from the block
other/client svc/api:80      no   through a Service either
other/client client:8080     yes  nothing isolates it for ingress
other/client other/web:8080  yes  one of two policies allows it
other/client other/web:8081  no   neither does
other/client svc/other/web:80 yes through a Service
other/client host:host       yes  nothing isolates it for egress
other/web   web:8080         no   no client
other/web   web:8053/udp     yes  open to all
other/web   api:8080         yes  of the block
other/web   api:8053/udp     yes  of the block
other/web   other/client:8080 no  denied by default
other/web   client:8080      yes  nothing isolates it for ingress
host        web:8080         yes  the node reaches its Pods
host        web:8081         yes  whatever policies say
host        other/client:8080 yes in every namespace
host        svc/web:80       yes  through Services too
test        web:8081         yes  so does whoever else runs on it
test        other/web:8054/udp yes by UDP too
test        node:web         yes  and by node ports
";

/// Pods, their addresses, and what else a target may be.
struct World {
    instance: Instance,
    addresses: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        let instance = Instance::start(&["testserver.tar"]);
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        instance.apply(&PODS.replace("ARGS", ARGS).replace("HOSTPORT", &port.to_string()));
        let pods = [("default", "pod/web pod/api pod/client pod/host"), ("other", "pod/web pod/client")];
        for (namespace, pods) in pods {
            let mut words = vec!["wait", "--for=condition=Ready", "--timeout=60s", "-n", namespace];
            words.extend(pods.split(' '));
            instance.kubectl(&words).ok();
        }
        let mut addresses = listed(&instance);
        addresses.insert("host-port".to_owned(), port.to_string());
        for name in ["http", "next"] {
            let path = format!("{{.spec.ports[?(@.name=='{name}')].nodePort}}");
            addresses.insert(format!("node-port-{name}"), instance.field("service/web", &path));
        }
        World { instance, addresses }
    }

    fn address(&self, name: &str) -> &str {
        self.addresses.get(name).unwrap_or_else(|| panic!("{name} in {:?}", self.addresses))
    }

    /// What `testserver reach` takes.
    fn target(&self, text: &str) -> String {
        let (text, protocol) = text.strip_suffix("/udp").map_or((text, "tcp"), |text| (text, "udp"));
        let (name, port) = text.split_once(':').expect("a port");
        match (name, port) {
            ("node", "web") => format!("tcp/{}:{}", self.address("host"), self.address("node-port-http")),
            ("node", "next") => format!("tcp/{}:{}", self.address("host"), self.address("node-port-next")),
            ("host", _) => format!("tcp/{}:{}", self.address("host"), self.address("host-port")),
            (_, "ping") => format!("icmp/{}:0", self.address(name)),
            (name, port) => match name.strip_prefix("name/") {
                Some(name) => format!("{protocol}/{name}.default.svc.cluster.local:{port}"),
                None => format!("{protocol}/{}:{port}", self.address(name)),
            },
        }
    }

    /// Whether each of the targets answers, asked from one Pod.
    fn reach(&self, from: &str, targets: &[String]) -> Vec<bool> {
        if from == "test" {
            return targets.iter().map(|target| reach(target)).collect();
        }
        let (namespace, pod) = from.split_once('/').unwrap_or(("default", from));
        let mut words = vec!["exec", "-n", namespace, pod, "--", "/bin/testserver", "reach"];
        words.extend(targets.iter().map(String::as_str));
        let said = self.instance.kubectl(&words).ok();
        let answers: Vec<bool> = said.lines().map(|line| line.ends_with(" yes")).collect();
        assert_eq!(answers.len(), targets.len(), "{said}");
        answers
    }

    /// Asks all that the matrix names, from all sides at once; the answers are in its order.
    fn ask(&self, rows: &[Row]) -> Vec<bool> {
        let mut by_source: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, row) in rows.iter().enumerate() {
            by_source.entry(row.from).or_default().push(number);
        }
        let mut answers = vec![false; rows.len()];
        std::thread::scope(|scope| {
            let asking: Vec<_> = by_source
                .into_iter()
                .map(|(from, numbers)| {
                    let targets: Vec<String> = numbers.iter().map(|n| self.target(rows[*n].to)).collect();
                    (numbers, scope.spawn(move || self.reach(from, &targets)))
                })
                .collect();
            for (numbers, asked) in asking {
                let said = asked.join().expect("asked");
                numbers.into_iter().zip(said).for_each(|(number, said)| answers[number] = said);
            }
        });
        answers
    }

    /// The rows whose answer is another than the wanted one.
    fn differing(&self, rows: &[Row<'_>], wanted: &[bool]) -> Vec<String> {
        let said = self.ask(rows).into_iter().zip(rows.iter().zip(wanted));
        let wrong = said.filter(|(said, (_, wanted))| said != *wanted);
        wrong.map(|(said, (row, _))| format!("{} -> {}: {said} ({})", row.from, row.to, row.why)).collect()
    }

    /// Waits until policies hold: the proxy says that it has them by what it lets through.
    fn until(&self, from: &str, to: &str, may: bool) {
        let target = [self.target(to)];
        self.instance.eventually(to, || {
            if self.reach(from, &target) == [may] {
                Ok(())
            } else {
                Err(format!("{from} -> {to} is not {may}"))
            }
        });
    }
}

/// The addresses of Pods and Services by their names; those in `default` without it.
fn listed(instance: &Instance) -> BTreeMap<String, String> {
    let pods = "{range .items[*]}{.metadata.namespace}/{.metadata.name} {.status.podIP}{'\\n'}{end}";
    let services =
        "{range .items[*]}svc/{.metadata.namespace}/{.metadata.name} {.spec.clusterIP}{'\\n'}{end}";
    let mut addresses = BTreeMap::new();
    for (kind, path) in [("pods", pods), ("services", services)] {
        let listed = instance.kubectl(&["get", kind, "-A", "-o", &format!("jsonpath={path}")]).ok();
        let pairs = listed.lines().filter_map(|line| line.split_once(' '));
        addresses.extend(pairs.map(|(name, address)| (name.replace("default/", ""), address.to_owned())));
    }
    addresses
}

/// From the node itself.
fn reach(target: &str) -> bool {
    let (protocol, address) = target.split_once('/').expect("a protocol");
    let address: SocketAddr = address.parse().expect("an address");
    let wait = Some(Duration::from_secs(5));
    let ask = || -> std::io::Result<usize> {
        if protocol == "udp" {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(wait)?;
            socket.send_to(b"?", address)?;
            return socket.recv(&mut [0; 64]);
        }
        let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        connection.set_read_timeout(wait)?;
        write!(connection, "GET / HTTP/1.0\r\n\r\n")?;
        connection.read(&mut [0; 16])
    };
    ask().is_ok_and(|read| read > 0)
}

/// A line of the matrix.
struct Row<'a> {
    from: &'a str,
    to: &'a str,
    may: bool,
    why: String,
}

fn rows(matrix: &str) -> Vec<Row<'_>> {
    let row = |line| {
        let words: Vec<&str> = str::split_whitespace(line).collect();
        let [from, to, may, why @ ..] = words.as_slice() else { panic!("{line}") };
        Row { from, to, may: *may == "yes", why: why.join(" ") }
    };
    matrix.lines().filter(|line| !line.is_empty()).map(row).collect()
}

#[test]
fn connections_are_made_where_policies_allow_them() {
    try_the_matrix();
}

/// There Pods of one node reach each other by the node's IP layer alone.
#[test]
fn connections_are_made_where_policies_allow_them_without_br_netfilter() {
    crate::network::in_a_host_of_its_own(|_| try_the_matrix());
}

fn try_the_matrix() {
    let world = World::new();
    let rows = rows(MATRIX);
    let open = vec![true; rows.len()];
    assert_eq!(world.differing(&rows, &open), Vec::<String>::new(), "without a policy all is open");
    let range = world.address("web").rsplitn(3, '.').last().expect("four numbers").to_owned();
    let policies = POLICIES.replace("BLOCK", &format!("{range}.0.0/16"));
    world.instance.apply(&policies.replace("EXCEPT", world.address("other/client")));
    world.until("other/client", "other/web:8081", false);
    let wanted: Vec<bool> = rows.iter().map(|row| row.may).collect();
    let wrong = world.differing(&rows, &wanted);
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", world.instance.log_tail());
    let described = world.instance.kubectl(&["describe", "networkpolicy", "web-in"]).ok();
    assert!(
        described.contains("PodSelector:     app=web") && described.contains("To Port: http/TCP"),
        "{described}"
    );
    world.instance.kubectl(&["delete", "networkpolicy", "-A", "--all"]).ok();
    world.until("other/client", "other/web:8081", true);
    assert_eq!(world.differing(&rows, &open), Vec::<String>::new(), "all is open again");
}

const SERVER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "testserver:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "testserver:1"}]}
"#;

/// Nobody but friends reaches the server, and who is mute reaches nobody.
const FRIENDS: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: friends}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress: [{from: [{podSelector: {matchLabels: {friend: "yes"}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: mute}
spec: {podSelector: {matchLabels: {app: mute}}, policyTypes: [Egress]}
"#;

/// Asks over one connection, from a Pod, until it is dropped.
struct Talk {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Talk {
    fn begin(instance: &Instance, pod: &str, to: &str) -> Self {
        let words = ["exec", pod, "--", "/bin/testserver", "talk", to];
        let mut child =
            instance.kubectl_command(&words).stdout(Stdio::piped()).spawn().expect("kubectl runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let (sender, receiver) = std::sync::mpsc::channel();
        // Ends with the child's output.
        std::thread::spawn(move || lines.try_for_each(|line| sender.send(line)));
        Talk { child, lines: receiver }
    }

    /// Hears on until this is said.
    fn until(&self, wanted: &str) {
        while self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("never {wanted}")) != wanted {}
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Pod whose first act is to ask, and what it heard.
fn asks_at_once(instance: &Instance, name: &str, labels: &str, to: &str) -> String {
    instance.apply(&format!(
        r#"---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {labels}}}
spec: {{restartPolicy: Never, containers: [{{name: c, image: "testserver:1", args: [reach, {to}]}}]}}
"#
    ));
    instance.wait("jsonpath={.status.phase}=Succeeded", &format!("pod/{name}"));
    let said = instance.kubectl(&["logs", name]).ok();
    said.trim().rsplit(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_policy_holds_for_open_connections_and_before_a_pod_begins() {
    let mut instance = Instance::start(&["testserver.tar"]);
    instance.apply(SERVER);
    instance.wait("condition=Ready", "pod/server");
    instance.wait("condition=Ready", "pod/talker");
    let address = format!("{}:8080", instance.field("pod/server", "{.status.podIP}"));
    open_connections_stand_still(&instance, &address);
    // Each of these Pods asks once, and at once.
    let target = format!("tcp/{address}");
    assert_eq!(asks_at_once(&instance, "stranger", "{app: other}", &target), "no");
    assert_eq!(asks_at_once(&instance, "friend", r#"{friend: "yes"}"#, &target), "yes");
    assert_eq!(asks_at_once(&instance, "mute", "{app: mute}", &target), "no");
    instance.crash();
    instance.up();
    assert_eq!(asks_at_once(&instance, "stranger-again", "{app: other}", &target), "no");
    assert_eq!(asks_at_once(&instance, "friend-again", r#"{friend: "yes"}"#, &target), "yes");
    // The rules are back soon after somebody has taken them away.
    let table = format!("monopod-{}", crate::host::instance_id(instance.dir.path()));
    let flushed = std::process::Command::new("nft").args(["flush", "table", "ip", &table]).status();
    assert!(flushed.expect("nft runs").success());
    until_it_says(&instance, &target, "no");
    instance.kubectl(&["delete", "networkpolicy", "--all"]).ok();
    until_it_says(&instance, &target, "yes");
}

/// As long as the permission for them is gone.
fn open_connections_stand_still(instance: &Instance, address: &str) {
    let talk = Talk::begin(instance, "talker", address);
    talk.until("ok");
    instance.apply(FRIENDS);
    talk.until("lost");
    instance.kubectl(&["label", "pod", "talker", "friend=yes"]).ok();
    talk.until("ok");
    instance.kubectl(&["label", "pod", "talker", "friend-"]).ok();
    talk.until("lost");
}

fn until_it_says(instance: &Instance, target: &str, wanted: &str) {
    instance.eventually(wanted, || {
        let said = instance.kubectl(&["exec", "talker", "--", "/bin/testserver", "reach", target]).ok();
        if said.trim().ends_with(&format!(" {wanted}")) { Ok(()) } else { Err(said) }
    });
}
