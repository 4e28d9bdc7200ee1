//! Programs that watch the API go on when the daemon was killed under them: nothing is lost, nothing told twice.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::{Change, Client, DeleteOptions, Https, Informers, Part, Patch, PatchKind, kubeconfig};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::harness::{Instance, PATIENCE, data_directory};

/// A watcher comes back to the address that it knows.
fn at_a_fixed_address() -> Instance {
    // Below the ports that the kernel gives to connections: none of them takes it while the daemon is dead.
    let from = 20_000 + u16::try_from(std::process::id() % 2_000).expect("small");
    let free =
        (from..23_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port");
    Instance::start_in(data_directory(), &[], &["--listen", &format!("127.0.0.1:{free}")])
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps?labelSelector=watched%3Dyes";

fn map(name: &str, value: &str) -> String {
    let metadata = json!({"name": name, "labels": {"watched": "yes"}});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}})
        .to_string()
}

/// A watch as its bytes come, a line an event.
struct RawWatch {
    kubectl: Child,
    lines: Receiver<String>,
}

impl RawWatch {
    fn from(instance: &Instance, version: u64, more: &str) -> Self {
        let path = format!("{MAPS}&watch=true&resourceVersion={version}{more}");
        let mut command = instance.kubectl_command(&["get", "--raw", &path]);
        let mut kubectl =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("kubectl starts");
        let mut answer = BufReader::new(kubectl.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let (sender, lines) = channel();
        // A thread of its own, so that a watch that says nothing fails the test instead of holding it up.
        std::thread::spawn(move || answer.try_for_each(|line| sender.send(line)));
        RawWatch { kubectl, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("an event")
    }

    /// The type, the object's name and its version.
    fn event(&self) -> (String, String, u64) {
        let line: Value = serde_json::from_str(&self.line()).expect("JSON");
        let metadata = &line["object"]["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&line["type"]), text(&metadata["name"]), version_of(&line["object"]))
    }

    /// Waits for its end; what came before is told.
    fn rest(self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.recv_timeout(PATIENCE).ok()).collect()
    }
}

impl Drop for RawWatch {
    fn drop(&mut self) {
        // One whose server is gone has ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

fn version_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a version")
}

/// What client-go's reflector reads when it lists.
fn list(instance: &Instance) -> (u64, BTreeMap<String, u64>) {
    let list: Value = serde_json::from_str(&instance.kubectl(&["get", "--raw", MAPS]).ok()).expect("JSON");
    let items = list["items"].as_array().expect("items").iter();
    let name = |item: &Value| item["metadata"]["name"].as_str().expect("a name").to_owned();
    (version_of(&list), items.map(|item| (name(item), version_of(item))).collect())
}

/// A client that streams its lists (WatchList) is told what there is, and where its list ends.
const STREAMED: &str = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

/// The bytes that client-go, and each client made like it, looks for.
fn told_to_list_again(instance: &Instance, last: u64) {
    let line = RawWatch::from(instance, last, "").rest().join("\n");
    let (before, after) = line.split_once(&format!("{last} (")).unwrap_or_else(|| panic!("{line}"));
    assert_eq!(
        before,
        r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: "#
    );
    assert_eq!(
        after.trim_start_matches(|c: char| c.is_ascii_digit()),
        r#")","reason":"Expired","code":410}}"#
    );
}

/// The daemon does not remember over its death what was before, as upstream's watch cache does not. What a
/// client must read then is a line of the stream, never a failed request, or it asks for the same version for ever.
#[test]
fn a_watch_of_before_a_restart_is_told_to_list_again_and_goes_on_from_there() {
    let mut instance = at_a_fixed_address();
    let (version, maps) = list(&instance);
    assert!(maps.is_empty());
    let watch = RawWatch::from(&instance, version, "");
    instance.apply(&map("a", "1"));
    instance.apply(&map("b", "1"));
    instance.apply(&map("a", "2"));
    instance.kubectl(&["delete", "configmap", "b"]).ok();
    let events: Vec<_> = (0..4).map(|_| watch.event()).collect();
    let said: Vec<_> = events.iter().map(|(kind, name, _)| (&**kind, &**name)).collect();
    assert_eq!(said, [("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("DELETED", "b")]);
    assert!(events.is_sorted_by(|one, next| one.2 < next.2) && events[0].2 > version, "{events:?}");
    instance.crash();
    assert_eq!(watch.rest(), [""; 0], "all had been told");
    instance.up();

    let last = events[3].2;
    told_to_list_again(&instance, last);
    let (version, maps) = list(&instance);
    assert_eq!(maps, BTreeMap::from([("a".to_owned(), events[2].2)]), "no version of it is made anew");
    assert!(version > last, "what the dead daemon gave out is not given out again");
    let watch = RawWatch::from(&instance, version, "");
    let streamed = RawWatch::from(&instance, last, STREAMED);
    instance.apply(&map("c", "1"));
    let (kind, name, at) = watch.event();
    assert_eq!((&*kind, &*name, at > version), ("ADDED", "c", true), "nothing of before comes again");
    assert_eq!(streamed.event(), ("ADDED".to_owned(), "a".to_owned(), events[2].2));
    // `c` was there already when it listed, or comes after.
    let kinds: Vec<String> = (0..2).map(|_| streamed.event().0).collect();
    assert!(["ADDED", "BOOKMARK"].iter().all(|kind| kinds.iter().any(|said| said == kind)), "{kinds:?}");
}

/// What a controller was told, in order.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    gone: bool,
    name: String,
    version: u64,
}

/// Keeps a Secret for each ConfigMap, as a controller does: told of a change it makes the world so, again and
/// again until it was answered.
async fn keep_copies(client: Client, informers: Informers, told: Arc<Mutex<Vec<Told>>>) {
    let mut changes = informers.part::<ConfigMap>(Part::namespace("default")).subscribe();
    while let Some(change) = changes.next().await {
        let map = change.object();
        let name = map.metadata.name.clone().unwrap_or_default();
        if map.metadata.labels.as_ref().is_none_or(|labels| !labels.contains_key("watched")) {
            continue;
        }
        let version = map.metadata.resource_version.as_deref().unwrap_or_default();
        let gone = matches!(change, Change::Deleted(_));
        let version = version.parse().expect("a number");
        told.lock().expect("unpoisoned").push(Told { gone, name: name.clone(), version });
        while !copied(&client, &name, (!gone).then_some(map)).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Makes the Secret what the ConfigMap is, and says whether that was answered.
async fn copied(client: &Client, name: &str, map: Option<&Arc<ConfigMap>>) -> bool {
    let Some(map) = map else {
        let deleted = client.delete::<Secret>("default", name, &DeleteOptions::default()).await;
        // One that was not answered may have happened.
        return deleted.map_or_else(|error| error.is_not_found(), |()| true);
    };
    let value = map.data.as_ref().and_then(|data| data.get("value"));
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"value": value}});
    let patch = Patch { field_manager: "copies", force: true, ..Patch::new(PatchKind::Apply, body) };
    client.patch::<Secret>("default", name, &patch).await.is_ok()
}

/// A controller outside of the program, over HTTPS.
struct Controller {
    runtime: tokio::runtime::Runtime,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Controller {
    fn of(instance: &Instance) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
        let text = std::fs::read_to_string(instance.dir.path().join("kubeconfig")).expect("a kubeconfig");
        let access = kubeconfig::parse(&text).expect("a kubeconfig");
        let client = Client::new(Arc::new(Https::new(&access).expect("a client")));
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let inside = runtime.enter();
        let informers = Informers::spawn(client.clone(), &mut tasks, stop.clone());
        tasks.spawn(keep_copies(client, informers, told.clone()));
        drop(inside);
        Controller { runtime, tasks, stop, told }
    }

    /// Ends it, and what it was told of each name.
    fn end(mut self) -> BTreeMap<String, Vec<Told>> {
        self.stop.cancel();
        self.runtime.block_on(async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.expect("no panic");
            }
        });
        let mut by_name = BTreeMap::<String, Vec<Told>>::new();
        for told in std::mem::take(&mut *self.told.lock().expect("unpoisoned")) {
            by_name.entry(told.name.clone()).or_default().push(told);
        }
        by_name
    }
}

/// The Secrets, by name and value.
fn copies_become(instance: &Instance, wanted: &BTreeSet<String>) {
    instance.eventually("the copies", || {
        let template = r#"{{range .items}}{{.metadata.name}} {{.data.value | base64decode}}{{"\n"}}{{end}}"#;
        let secrets = instance.kubectl(&["get", "secrets", "-o", &format!("go-template={template}")]);
        let copies: BTreeSet<String> = secrets.out.lines().map(str::to_owned).collect();
        if copies == *wanted { Ok(()) } else { Err(format!("{copies:?} {}", secrets.err)) }
    });
}

/// Each version once and in order, an end once, and the last of all.
fn told_once(told: &[Told], now: Option<&u64>) {
    // The end of one that went while nobody was told has its last version known.
    let later = |one: &Told, next: &Told| one.version < next.version + u64::from(next.gone);
    assert!(told.is_sorted_by(later), "told twice or backwards: {told:?}");
    let ends = told.iter().filter(|told| told.gone).count();
    let last = told.last().expect("told");
    match now {
        Some(version) => assert_eq!((ends, last.version), (0, *version), "{told:?}"),
        None => assert!(ends == 1 && last.gone, "{told:?}"),
    }
}

#[test]
fn a_controller_goes_on_when_the_daemon_is_killed_and_hears_of_each_change_once() {
    const ROUNDS: u32 = 4;
    let mut instance = at_a_fixed_address();
    let controller = Controller::of(&instance);
    for round in 0..ROUNDS {
        instance.apply(&map("kept", &round.to_string()));
        instance.apply(&map(&format!("of-{round}"), "x"));
        if round > 0 {
            instance.kubectl(&["delete", "configmap", &format!("of-{}", round - 1)]).ok();
        }
        // Acknowledged, and perhaps not told yet: after the restart it must be.
        instance.crash();
        instance.up();
    }
    instance.apply(&map("last", "x"));
    let last_of = format!("of-{}", ROUNDS - 1);
    let wanted: BTreeSet<String> =
        [format!("kept {}", ROUNDS - 1), format!("{last_of} x"), "last x".to_owned()].into();
    copies_become(&instance, &wanted);
    let (_, maps) = list(&instance);
    for (name, told) in controller.end() {
        told_once(&told, maps.get(&name));
    }
}
