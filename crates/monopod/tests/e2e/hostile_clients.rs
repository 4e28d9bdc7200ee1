//! Clients that mean harm, all at once: the daemon answers each, does not grow, and nobody else notices.
//!
//! Everything here is bounded in count: ten thousand connections, a few hundred of each kind of
//! request. What they cost a neighbour in time is measured by `cargo xtask bench hostile`; here
//! it must only be answered, every time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::harness::Instance;

/// How much the daemon may hold more than before, whatever clients do.
const GROWTH_MAX_KIB: u64 = 150 * 1024;
/// A client's own patience: no answer takes longer unless it never comes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A way to the API, and what is shown there.
#[derive(Clone)]
struct Access {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    token: Option<String>,
}

impl Access {
    fn new(instance: &Instance) -> Self {
        let text = std::fs::read_to_string(instance.dir.path().join("kubeconfig")).expect("a kubeconfig");
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
        };
        let pem = STANDARD.decode(field("certificate-authority-data")).expect("base64");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).expect("a certificate")).expect("added");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let address = field("server").trim_start_matches("https://").parse().expect("an address");
        Access { address, tls: Arc::new(config), token: None }
    }

    /// A ServiceAccount that may do everything with ConfigMaps and watch Pods, and no more.
    fn account(&self, instance: &Instance, name: &str) -> Self {
        instance.kubectl(&["create", "serviceaccount", name]).ok();
        let role = ["--verb=*", "--resource=configmaps", "--resource=pods"];
        instance.kubectl(&[&["create", "role", name][..], &role].concat()).ok();
        let subject = format!("--serviceaccount=default:{name}");
        instance.kubectl(&["create", "rolebinding", name, "--role", name, &subject]).ok();
        let token = instance.kubectl(&["create", "token", name]).ok().trim().to_owned();
        Access { token: Some(token), ..self.clone() }
    }

    fn connect(&self) -> std::io::Result<Stream> {
        let socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWERED_WITHIN))?;
        socket.set_write_timeout(Some(ANSWERED_WITHIN))?;
        let host = ServerName::from(self.address.ip());
        let connection = ClientConnection::new(Arc::clone(&self.tls), host).expect("a client");
        Ok(StreamOwned::new(connection, socket))
    }

    fn head(&self, method: &str, path: &str, headers: &str, length: usize) -> String {
        let token = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{token}{headers}Content-Length: {length}\r\n\r\n")
    }

    /// One request on a connection of its own: the code of its answer.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<u16, String> {
        let failed = |error: std::io::Error| format!("{method} {path} {headers:?}: {error}");
        let mut stream = self.connect().map_err(failed)?;
        stream.write_all(self.head(method, path, headers, body.len()).as_bytes()).map_err(failed)?;
        stream.write_all(body).map_err(failed)?;
        stream.flush().map_err(failed)?;
        answer(&mut stream).map_err(failed)
    }
}

/// Reads one answer with a length, and gives its code.
fn answer(stream: &mut Stream) -> std::io::Result<u16> {
    let mut read = Vec::new();
    let mut piece = [0; 8192];
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if read.len() >= end + 4 + length.unwrap_or(0) {
                let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
                return code.ok_or(std::io::ErrorKind::InvalidData.into());
            }
        }
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => read.extend_from_slice(&piece[..length]),
        }
    }
}

/// The daemon's share of memory, KiB.
fn memory(instance: &Instance) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", instance.pid())).expect("its memory");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a share");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// A client like any other, which asks one thing after another on one connection.
struct Neighbour {
    done: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    asking: std::thread::JoinHandle<Result<(), String>>,
}

impl Neighbour {
    fn start(access: Access) -> Self {
        let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count) = (Arc::clone(&done), Arc::clone(&answered));
        let asking = std::thread::spawn(move || {
            let mut stream = access.connect().map_err(|error| error.to_string())?;
            while !until.load(Ordering::SeqCst) {
                let head =
                    access.head("GET", "/api/v1/namespaces/default/configmaps/kube-root-ca.crt", "", 0);
                let asked = stream.write_all(head.as_bytes()).and_then(|()| stream.flush());
                match asked.and_then(|()| answer(&mut stream)) {
                    Ok(200) => count.fetch_add(1, Ordering::SeqCst),
                    other => return Err(format!("{other:?} after {}", count.load(Ordering::SeqCst))),
                };
            }
            Ok(())
        });
        Neighbour { done, answered, asking }
    }

    /// How often it was answered until now; it must always have been.
    fn end(self) -> usize {
        self.done.store(true, Ordering::SeqCst);
        self.asking.join().expect("no panic").expect("every request of a neighbour is answered");
        self.answered.load(Ordering::SeqCst)
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MEDIA: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
    "text/csv",
    "",
];

/// Bodies that mean harm, by name.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let many = |text: &str, times: usize| text.repeat(times).into_bytes();
    let nested = |open: &str, close: &str, deep: usize| [many(open, deep), many(close, deep)].concat();
    let mut packed = flate(&vec![b' '; 8 << 20]);
    packed.extend_from_slice(b"rest");
    vec![
        ("nothing", Vec::new()),
        ("noise", (0..=255).cycle().take(100_000).collect()),
        ("brackets", nested("[", "]", 200_000)),
        ("braces", nested("{\"a\":", "}", 100_000)),
        ("flow of YAML", many("[a, ", 50_000)),
        ("aliases of YAML", b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n".to_vec()),
        ("too much", vec![b'x'; 4 << 20]),
        ("protobuf of nothing", [b"k8s\0".to_vec(), vec![0x0a; 300_000]].concat()),
        ("fields of protobuf", [b"k8s\0".to_vec(), many("\u{8}\u{1}", 500_000)].concat()),
        ("a patch that stacks", format!("[{}]", ["{\"op\":\"copy\",\"from\":\"/metadata\",\"path\":\"/metadata/labels\"}"; 2_000].join(",")).into_bytes()),
        ("a compressed body", packed),
    ]
}

/// A zlib stream, as a client that announces no encoding might send one.
fn flate(plain: &[u8]) -> Vec<u8> {
    // Stored blocks need no compressor.
    let mut out = vec![0x78, 0x01];
    for chunk in plain.chunks(0xffff) {
        let length = u16::try_from(chunk.len()).expect("a block");
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(chunk);
    }
    out
}

/// Sends every body as every media type by every method that takes one.
fn broken_requests(access: &Access) {
    for (name, body) in bodies() {
        for media in MEDIA {
            for (method, path) in [("POST", MAPS), ("PATCH", "/api/v1/namespaces/default/configmaps/target")]
            {
                for encoding in ["", "Content-Encoding: gzip\r\n"] {
                    let headers = format!("Content-Type: {media}\r\n{encoding}");
                    let code = access.ask(method, path, &headers, &body);
                    let code = code.unwrap_or_else(|error| panic!("{name}: {error}"));
                    assert!((400..500).contains(&code), "{name} as {media:?} by {method}: {code}");
                }
            }
        }
    }
}

/// Half a body on each of many connections, and then silence.
fn half_bodies(access: &Access, count: usize) -> Vec<Stream> {
    let half = vec![b' '; 1_000_000];
    let begin = |_| {
        let mut stream = access.connect().ok()?;
        let head = access.head("POST", MAPS, "Content-Type: application/json\r\n", 2 * half.len());
        // One that is told to come back may close while we still send: it has its answer.
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&half));
        sent.and_then(|()| stream.flush()).ok().map(|()| stream)
    };
    (0..count).filter_map(begin).collect()
}

/// The first line of a request on each of many connections.
fn half_heads(access: &Access, count: usize) -> Vec<Stream> {
    let begin = |_| {
        let mut stream = access.connect().ok()?;
        stream.write_all(b"GET /version HTTP/1.1\r\nX-Slow: ").and_then(|()| stream.flush()).ok()?;
        Some(stream)
    };
    (0..count).filter_map(begin).collect()
}

fn watches(access: &Access, count: usize) -> Vec<Stream> {
    let begin = |_| {
        let mut stream = access.connect().ok()?;
        let head = access.head("GET", "/api/v1/namespaces/default/pods?watch=1", "", 0);
        stream.write_all(head.as_bytes()).and_then(|()| stream.flush()).ok().map(|()| stream)
    };
    (0..count).filter_map(begin).collect()
}

#[test]
fn a_flood_of_every_kind_costs_bounded_memory_and_no_neighbour_an_answer() {
    sys::limits::raise_descriptors().expect("descriptors");
    let instance = Instance::start(&[]);
    instance.kubectl(&["create", "configmap", "target", "--from-literal=a=b"]).ok();
    let anonymous = Access::new(&instance);
    let (flood, other) = (anonymous.account(&instance, "flood"), anonymous.account(&instance, "neighbour"));
    let before = memory(&instance);
    let neighbour = Neighbour::start(other.clone());
    let mut most = 0;
    let mut look = |what: &str| {
        let grown = memory(&instance).saturating_sub(before);
        println!("{what}: {} MiB more than before", grown / 1024);
        most = most.max(grown);
    };

    // Ten thousand that say nothing; those that are replaced see an end, which is an answer too.
    let silent: Vec<_> = (0..10_000).filter_map(|_| TcpStream::connect(anonymous.address).ok()).collect();
    look("silent connections");
    let heads = half_heads(&anonymous, 1_000);
    look("half a head each");
    assert_eq!(other.ask("GET", MAPS, "", b"").expect("a newcomer is let in"), 200);
    let halves = half_bodies(&flood, 200);
    look("half a body each");
    assert_eq!(other.ask("GET", MAPS, "", b"").expect("a newcomer is let in"), 200);
    let watching = watches(&flood, 500);
    look("watches");
    drop((silent, heads, halves));
    broken_requests(&flood);
    look("broken requests");
    for _ in 0..300 {
        let code = anonymous.ask("PUT", MAPS, "Content-Type: application/json\r\n", b"{}");
        assert_eq!(code.expect("an early refusal arrives"), 403);
    }
    look("early refusals");
    drop(watching);

    assert!(neighbour.end() > 0, "the neighbour was never answered");
    assert!(most < GROWTH_MAX_KIB, "the daemon grew by {} MiB", most / 1024);
    assert_eq!(instance.kubectl(&["get", "--raw", "/readyz"]).ok(), "ok");
    assert_eq!(instance.kubectl(&["get", "configmap", "target", "-o", "jsonpath={.data.a}"]).ok(), "b");
}

#[test]
fn a_patch_that_nests_deeper_with_every_operation_is_refused_and_the_server_lives() {
    let instance = Instance::start(&[]);
    instance.kubectl(&["create", "configmap", "target", "--from-literal=a=b"]).ok();
    let access = Access::new(&instance).account(&instance, "patcher");
    // Each operation puts a tree of four hundred levels into the deepest place of the last.
    let step = "/a".repeat(400);
    let tree = ["{\"a\":".repeat(400), "{}".to_owned(), "}".repeat(400)].concat();
    let operations: Vec<String> = (0..60)
        .map(|n| {
            let path = step.repeat(n);
            format!("{{\"op\":\"add\",\"path\":\"/metadata/annotations{path}\",\"value\":{tree}}}")
        })
        .collect();
    let body = format!("[{}]", operations.join(","));
    let target = format!("{MAPS}/target");
    let code = access.ask("PATCH", &target, "Content-Type: application/json-patch+json\r\n", body.as_bytes());
    let code = code.expect("an answer");
    assert!((400..500).contains(&code), "{code}");
    assert_eq!(instance.kubectl(&["get", "configmap", "target", "-o", "jsonpath={.data.a}"]).ok(), "b");
}

#[test]
fn no_object_is_taken_in_that_the_programs_own_readers_cannot_read() {
    let instance = Instance::start(&[]);
    let access = Access::new(&instance).account(&instance, "nester");
    let deep = ["{\"f:a\":".repeat(130), "{}".to_owned(), "}".repeat(130)].concat();
    let pod = |name: &str, managed: &str| {
        format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{name}\",\"managedFields\":[{managed}]}},\
             \"spec\":{{\"containers\":[{{\"name\":\"c\",\"image\":\"none.invalid/none\"}}]}}}}"
        )
    };
    let managed = format!(
        "{{\"manager\":\"m\",\"operation\":\"Update\",\"apiVersion\":\"v1\",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":{deep}}}"
    );
    let json = "Content-Type: application/json\r\n";
    let pods = "/api/v1/namespaces/default/pods";
    // Refused or taken in without what is too deep: both are right.
    let code = access.ask("POST", pods, json, pod("deep", &managed).as_bytes()).expect("an answer");
    assert!(code == 201 || (400..500).contains(&code), "{code}");
    let code = access.ask("POST", pods, json, pod("plain", "").as_bytes()).expect("an answer");
    assert_eq!(code, 201);
    instance.eventually("the scheduler still reads the Pods", || {
        let node = instance.kubectl(&["get", "pod", "plain", "-o", "jsonpath={.spec.nodeName}"]).ok();
        if node.is_empty() { Err("not scheduled".to_owned()) } else { Ok(()) }
    });
    let names = instance.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"]).ok();
    assert!(names.contains("plain"), "{names}");
}
