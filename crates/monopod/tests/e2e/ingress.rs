//! Ingresses as their users meet them: applied with kubectl, asked from outside.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Instance, Said, testdata};

/// An instance that serves Ingresses at ports of its own.
pub struct Doors {
    pub instance: Instance,
    pub http: u16,
    pub https: u16,
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port()
}

impl Doors {
    pub fn start(images: &[&str]) -> Self {
        let (http, https) = (free_port(), free_port());
        let [plain, tls] = [http, https].map(|port| format!("127.0.0.1:{port}"));
        let flags = ["--ingress-http", &plain, "--ingress-https", &tls];
        Doors { instance: Instance::start_with(images, &flags), http, https }
    }

    /// curl for a host, led to the instance's own ports; standard output is the body, then the status.
    fn curl(&self, scheme: &str, host: &str, path: &str, more: &[&str]) -> Said {
        let port = if scheme == "https" { self.https } else { self.http };
        let to = format!("{host}:{port}:127.0.0.1");
        let url = format!("{scheme}://{host}:{port}{path}");
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "10", "--resolve", &to, "-w", "%{http_code}"]).args(more).arg(url);
        command.output().expect("curl runs").into()
    }

    /// The first answer with this status.
    #[track_caller]
    fn eventually(&self, status: &str, scheme: &str, host: &str, path: &str, more: &[&str]) -> String {
        self.instance.eventually(&format!("{status} from {scheme}://{host}{path}"), || {
            let said = self.curl(scheme, host, path, more);
            match said.out.strip_suffix(status) {
                Some(body) if said.code == 0 => Ok(body.to_owned()),
                _ => Err(format!("{}{}", said.out, said.err)),
            }
        })
    }

    /// A self-signed certificate in a Secret; the file in which curl finds it.
    fn certificate(&self, namespace: &str, secret: &str, host: &str) -> PathBuf {
        let issued = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("issued");
        let [crt, key] = ["crt", "key"].map(|end| self.instance.dir.path().join(format!("{secret}.{end}")));
        std::fs::write(&crt, issued.cert.pem()).expect("written");
        std::fs::write(&key, issued.signing_key.serialize_pem()).expect("written");
        let (cert, key) = (format!("--cert={}", crt.display()), format!("--key={}", key.display()));
        self.instance.kubectl(&["create", "secret", "tls", secret, "-n", namespace, &cert, &key]).ok();
        crt
    }
}

const WEB: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: "testserver:1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web.example.com
    http:
      paths:
      - {path: /, pathType: Exact, backend: {service: {name: web, port: {name: http}}}}
      - {path: /echo, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /nobody, pathType: Prefix, backend: {service: {name: nosuch, port: {number: 80}}}}
"#;

#[test]
fn an_ingress_leads_from_host_and_path_to_a_service() {
    let doors = Doors::start(&["testserver.tar"]);
    let instance = &doors.instance;
    assert!(
        std::net::TcpStream::connect(("127.0.0.1", doors.http)).is_err(),
        "without an Ingress nothing is open"
    );
    instance.apply(WEB);
    instance.wait("condition=Ready", "pod/web");
    assert_eq!(doors.eventually("200", "http", "web.example.com", "/", &[]), "hello from web\n");
    let echo = doors.eventually("200", "http", "web.example.com", "/echo", &["-d", "said"]);
    assert_eq!(echo, "said");
    doors.eventually("404", "http", "web.example.com", "/other", &[]);
    doors.eventually("404", "http", "other.example.com", "/", &[]);
    doors.eventually("503", "http", "web.example.com", "/nobody", &[]);
    assert_eq!(instance.field("ingress/web", "{.spec.ingressClassName}"), "monopod");
    instance.wait("jsonpath={.status.loadBalancer.ingress[0].ip}=127.0.0.1", "ingress/web");
    let listed = instance.kubectl(&["get", "ingress", "web", "--no-headers"]).ok();
    let columns: Vec<&str> = listed.split_whitespace().collect();
    assert_eq!(columns[..5], ["web", "monopod", "web.example.com", "127.0.0.1", "80"], "{listed}");
    let class = instance.kubectl(&["get", "ingressclass", "--no-headers"]).ok();
    let columns: Vec<&str> = class.split_whitespace().collect();
    assert_eq!(columns[..3], ["monopod", "monopod.io/ingress-controller", "<none>"], "{class}");
    let said = instance.eventually("the events", || {
        let said = instance.kubectl(&["describe", "ingress", "web"]).ok();
        if said.contains("Scheduled for sync") && said.contains("could not find service") {
            Ok(said)
        } else {
            Err(said)
        }
    });
    let pod = instance.field("pod/web", "{.status.podIP}");
    for line in [
        "Ingress Class:    monopod",
        "Address:          127.0.0.1",
        &format!("web:http ({pod}:8080)"),
        "nosuch:80 (<error: services \"nosuch\" not found>)",
        "monopod-ingress-controller",
        "Translation failed: invalid ingress spec: could not find service \"default/nosuch\"",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    instance.kubectl(&["delete", "ingress", "web"]).ok();
    instance.eventually("the port is closed", || {
        match std::net::TcpStream::connect(("127.0.0.1", doors.http)) {
            Ok(_) => Err("open".to_owned()),
            Err(error) => Ok(error),
        }
    });
}

#[test]
fn an_ingress_of_another_class_is_left_alone() {
    let doors = Doors::start(&["testserver.tar"]);
    let instance = &doors.instance;
    let class = "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: other}\n\
                 spec: {controller: example.com/other}\n";
    let other =
        WEB.replace("name: web}\nspec:\n  rules", "name: web}\nspec:\n  ingressClassName: other\n  rules");
    assert_ne!(other, WEB);
    instance.apply(&[&other, class].concat());
    // Seen and served: the one beside it.
    instance.apply(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: ours}\n\
         spec: {defaultBackend: {service: {name: web, port: {number: 80}}}}\n",
    );
    instance.wait("condition=Ready", "pod/web");
    assert_eq!(doors.eventually("200", "http", "any", "/", &[]), "hello from web\n");
    // The rule of the other class would answer 503.
    doors.eventually("404", "http", "web.example.com", "/nobody", &[]);
    instance.wait("jsonpath={.status.loadBalancer.ingress[0].ip}=127.0.0.1", "ingress/ours");
    assert_eq!(instance.field("ingress/web", "{.status.loadBalancer.ingress}"), "");
}

/// The manifest of the post `000_…`, with the Service and the Ingress that its author tells of.
#[test]
fn the_service_pod_is_reached_by_its_name_over_tls_and_http2() {
    let doors = Doors::start(&["testserver.tar"]);
    let instance = &doors.instance;
    // The post's probe waits half a minute for a program that is slow to start; this one is not.
    let manifest =
        testdata("seeds/ad-web-impl.yaml").replace("initialDelaySeconds: 30", "initialDelaySeconds: 0");
    instance.apply(&manifest);
    let crt = doors.certificate("coohua", "ad-web-tls", "ad.example.com");
    instance.apply(
        r#"
apiVersion: v1
kind: Service
metadata: {name: ad-web-impl, namespace: coohua}
spec: {selector: {app: ad-web-impl}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: ad-web-impl, namespace: coohua}
spec:
  tls: [{hosts: [ad.example.com], secretName: ad-web-tls}]
  rules:
  - host: ad.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: ad-web-impl, port: {number: 80}}}}]}
"#,
    );
    let trusts = ["--cacert", crt.to_str().expect("UTF-8")];
    let asked = [&trusts[..], &["-w", "%{http_version} %{http_code}"]].concat();
    let health = doors.eventually("2 200", "https", "ad.example.com", "/actuator/health", &asked);
    assert_eq!(health, "UP\n");
    let asked = [&asked[..], &["--http1.1"]].concat();
    assert_eq!(
        doors.eventually("1.1 200", "https", "ad.example.com", "/", &asked),
        "hello from ad-web-impl\n"
    );
    // Another name is not this certificate's.
    let said = doors.curl("https", "other.example.com", "/", &trusts);
    assert_ne!(said.code, 0, "{}", said.out);
    doors.eventually("404", "https", "other.example.com", "/", &["-k"]);
    let listed = instance.kubectl(&["get", "ingress", "-n", "coohua", "--no-headers"]).ok();
    assert!(listed.contains("80, 443"), "{listed}");
    // A new certificate counts from the next connection on.
    instance.kubectl(&["delete", "secret", "-n", "coohua", "ad-web-tls"]).ok();
    let crt = doors.certificate("coohua", "ad-web-tls", "ad.example.com");
    let trusts = ["--cacert", crt.to_str().expect("UTF-8")];
    doors.eventually("200", "https", "ad.example.com", "/", &trusts);
}

/// Answers each handshake of a WebSocket and then what it is sent; ends with the test.
fn web_socket_server() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || converse(&mut stream));
        }
    });
    port
}

fn converse(stream: &mut (impl Read + Write)) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap_or_default();
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let accept = STANDARD.encode(digest);
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    write!(stream, "{upgrade}Sec-WebSocket-Accept: {accept}\r\n\r\n")?;
    loop {
        let mut some = [0; 256];
        let length = stream.read(&mut some)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&some[..length])?;
    }
}

#[test]
fn a_web_socket_goes_through_an_ingress_to_endpoints_that_somebody_wrote() {
    let doors = Doors::start(&[]);
    let instance = &doors.instance;
    let port = web_socket_server();
    let node = instance.field("nodes", "{.items[0].status.addresses[0].address}");
    instance.apply(&format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: socket}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: socket, labels: {{kubernetes.io/service-name: socket}}}}
addressType: IPv4
ports: [{{name: "", port: {port}}}]
endpoints: [{{addresses: ["{node}"]}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: socket}}
spec: {{defaultBackend: {{service: {{name: socket, port: {{number: 80}}}}}}}}
"#
    ));
    let handshake = b"GET /chat HTTP/1.1\r\nHost: socket\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = instance.eventually("the handshake", || {
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", doors.http)).map_err(|error| error.to_string())?;
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .map_err(|error| error.to_string())?;
        stream.write_all(handshake).map_err(|error| error.to_string())?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).map_err(|error| error.to_string())?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let accepted = head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=");
        if head.starts_with("http/1.1 101 ") && accepted { Ok(stream) } else { Err(head) }
    });
    // A masked frame with "hi", which comes back as it was; twice, with time for both directions.
    for frame in [*b"\x81\x82\x00\x00\x00\x00hi", *b"\x81\x82\x00\x00\x00\x00ho"] {
        stream.write_all(&frame).expect("sent");
        let mut back = [0; 8];
        stream.read_exact(&mut back).expect("an echo");
        assert_eq!(back, frame);
    }
}

#[test]
fn a_port_that_somebody_has_is_told_by_name_and_the_rest_runs() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("bound");
    let https = free_port();
    let flags = ["--ingress-http", &taken.to_string(), "--ingress-https", &format!("127.0.0.1:{https}")];
    let doors =
        Doors { instance: Instance::start_with(&["testserver.tar"], &flags), http: taken.port(), https };
    let instance = &doors.instance;
    instance.apply(WEB);
    instance.wait("condition=Ready", "pod/web");
    assert_eq!(doors.eventually("200", "https", "web.example.com", "/", &["-k"]), "hello from web\n");
    instance.eventually("the event", || {
        let said = instance.kubectl(&["describe", "ingress", "web"]).ok();
        let words = format!("cannot listen on {taken}: Address in use");
        if said.contains(&words) { Ok(()) } else { Err(said) }
    });
    let error = "{.status.loadBalancer.ingress[0].ports[?(@.error)].port}";
    instance.eventually("the status", || {
        let port = instance.field("ingress/web", error);
        if port == taken.port().to_string() { Ok(()) } else { Err(port) }
    });
}
