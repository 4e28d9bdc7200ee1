//! Wrong input of every kind: a clear error each time, and a server that lives on.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Instance, Said, program};

/// curl as the administrator, with the status code on a line of its own at the end.
fn curl(instance: &Instance, path: &str, words: &[&str], body: Option<Vec<u8>>) -> Said {
    let dir = instance.dir.path();
    let kubeconfig = std::fs::read_to_string(dir.join("kubeconfig")).expect("a kubeconfig");
    let field = |name: &str| {
        let line = kubeconfig.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).trim_start_matches(": ").to_owned()
    };
    for (name, file) in [
        ("certificate-authority-data", "ca.pem"),
        ("client-certificate-data", "cert.pem"),
        ("client-key-data", "key.pem"),
    ] {
        std::fs::write(dir.join(file), STANDARD.decode(field(name)).expect("base64")).expect("written");
    }
    let mut command = Command::new("curl");
    command.args(["-s", "--max-time", "30", "-w", "\n%{http_code}"]).current_dir(dir);
    command.args(["--cacert", "ca.pem", "--cert", "cert.pem", "--key", "key.pem"]).args(words);
    if let Some(body) = body {
        std::fs::write(dir.join("body"), body).expect("written");
        command.args(["--data-binary", "@body"]);
    }
    command.arg(format!("{}{path}", field("server"))).output().expect("curl runs").into()
}

/// The status code and the message of the Status.
fn refusal(said: &Said) -> (u16, String) {
    let (body, code) = said.out.rsplit_once('\n').expect("curl prints the code");
    let message = serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|status| Some(status["message"].as_str()?.to_owned()));
    (code.parse().expect("a status code"), message.unwrap_or_else(|| body.to_owned()))
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: [&str; 2] = ["-H", "Content-Type: application/json"];

#[test]
fn broken_bodies_are_refused_and_the_server_lives() {
    let instance = Instance::start(&[]);
    let post = |words: &[&str], body: Vec<u8>| refusal(&curl(&instance, CONFIG_MAPS, words, Some(body)));
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let nested = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a","annotations":{}}}}}"#,
        "{\"a\":".repeat(10_001) + "1" + &"}".repeat(10_001)
    );
    let cases: Vec<(&str, u16, (u16, String))> = vec![
        ("broken JSON", 400, post(&JSON, b"{\"apiVersion\": \"v1\", ".to_vec())),
        ("broken YAML", 400, post(&["-H", "Content-Type: application/yaml"], b"a: [b\nc: }".to_vec())),
        ("empty body", 400, post(&JSON, Vec::new())),
        ("a hundred thousand brackets", 400, post(&JSON, deep)),
        ("ten thousand deep", 400, post(&JSON, nested.into_bytes())),
        ("four MiB", 413, post(&JSON, vec![b' '; 4 << 20])),
        ("unknown media type", 415, post(&["-H", "Content-Type: text/csv"], b"a,b".to_vec())),
        (
            "another kind",
            400,
            post(&JSON, br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#.to_vec()),
        ),
    ];
    for (what, code, (got, message)) in cases {
        assert_eq!(got, code, "{what}: {message}");
        assert!(!message.is_empty(), "{what} is refused without a word");
    }
    // What is not UTF-8 is replaced, as upstream's decoder does, or refused; never stored as it is.
    let invalid = [
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"utf"},"data":{"k":""#.to_vec(),
        vec![0xff, 0xfe],
        br#""}}"#.to_vec(),
    ]
    .concat();
    let (code, _) = post(&JSON, invalid);
    assert!(code == 201 || code == 400, "{code}");
    assert_eq!(instance.kubectl(&["get", "--raw", "/readyz"]).ok(), "ok");
}

#[test]
fn unknown_paths_and_methods_have_their_own_errors() {
    let instance = Instance::start(&[]);
    let get = |path: &str| refusal(&curl(&instance, path, &[], None));
    assert_eq!(get("/no/such/path").0, 404);
    assert_eq!(
        get("/api/v1/namespaces/default/widgets"),
        (404, "the server could not find the requested resource".to_owned())
    );
    assert_eq!(get("/api/v1/namespaces/default/pods/a/b/c/d").0, 404);
    assert_eq!(get("/api/v1/pods?labelSelector=a%3Db%3Dc").0, 400);
    assert_eq!(get("/api/v1/pods?limit=x").0, 400);
    // Upstream's storage refuses a watch's version as an invalid field, not as a bad request.
    assert_eq!(get("/api/v1/pods?watch=1&resourceVersion=abc").0, 422);
    let (code, _) = refusal(&curl(&instance, CONFIG_MAPS, &["-X", "PUT"], Some(b"{}".to_vec())));
    assert_eq!(code, 405);
    let (code, _) = refusal(&curl(&instance, "/api/v1/pods", &["-H", "Accept: text/csv"], None));
    assert_eq!(code, 406);
    assert_eq!(instance.kubectl(&["get", "--raw", "/readyz"]).ok(), "ok");
}

#[test]
fn nobody_without_a_certificate_reads_secrets() {
    let instance = Instance::start(&[]);
    let server = instance.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).ok();
    let ask = |path: &str| {
        let out = Command::new("curl")
            .args(["-sk", "--max-time", "10", &format!("{server}{path}")])
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    assert!(ask("/api/v1/secrets").contains(r#"secrets is forbidden: User \"system:anonymous\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"#));
    assert_eq!(ask("/healthz"), "ok");
}

#[test]
fn two_of_us_on_one_data_directory_do_not_start() {
    let instance = Instance::start(&[]);
    let said = instance.monopod(&["up", "--listen", "127.0.0.1:0"]);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains(&format!("is in use by another monopod (process {})", instance.pid())),
        "{}",
        said.err
    );
    assert_eq!(instance.kubectl(&["get", "--raw", "/readyz"]).ok(), "ok");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = Command::new(program("MONOPOD"))
        .args(["up", "--listen", &address, "--data-dir"])
        .arg(dir.path())
        .output()
        .expect("runs");
    assert_eq!(out.status.code(), Some(1));
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(err.contains(&format!("cannot listen on {address}")) && err.contains("in use"), "{err}");
}

#[test]
fn a_read_only_data_directory_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mount = |words: &[&str]| {
        assert!(Command::new("mount").args(words).arg(dir.path()).status().expect("mount runs").success())
    };
    mount(&["-t", "tmpfs", "-o", "ro", "none"]);
    let out = Command::new(program("MONOPOD"))
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path())
        .output()
        .expect("runs");
    assert!(Command::new("umount").arg(dir.path()).status().expect("umount runs").success());
    assert_eq!(out.status.code(), Some(1));
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(
        err.contains("Read-only file system") && err.contains(&dir.path().display().to_string()),
        "{err}"
    );
}

#[test]
fn wrong_usage_ends_with_two() {
    for words in [&["up", "--nosuch"][..], &["nosuch"], &["up", "--pod-cidr", "10.1.2.3/16"], &["image"]] {
        let out = Command::new(program("MONOPOD")).args(words).output().expect("runs");
        assert_eq!(out.status.code(), Some(2), "{words:?}");
    }
}
