//! Informers over a server that answers by a script.

use std::collections::VecDeque;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use tokio::sync::Semaphore;

use super::*;
use crate::transport::{Transport, TransportError};

type Answers = VecDeque<(&'static str, u16, String)>;

/// Answers from a script, each when it is let; a request after its end waits for ever.
struct Script {
    answers: Mutex<Answers>,
    gate: Arc<Semaphore>,
}

impl Transport for Script {
    fn send(&self, request: wire::Request) -> BoxFuture<'static, Result<wire::Response, TransportError>> {
        let next = self.answers.lock().unwrap().pop_front();
        let gate = self.gate.clone();
        async move {
            let Some((expected, code, body)) = next else { return std::future::pending().await };
            gate.acquire().await.unwrap().forget();
            let asked = request.uri().to_string();
            assert!(asked.contains(expected), "{asked} instead of {expected}");
            Ok(http::Response::builder().status(code).body(wire::full(body)).unwrap())
        }
        .boxed()
    }
}

struct World {
    informers: Informers,
    gate: Arc<Semaphore>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

impl World {
    fn new(script: Vec<(&'static str, u16, String)>) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let script = Script { answers: Mutex::new(script.into()), gate: gate.clone() };
        let (mut tasks, shutdown) = (JoinSet::new(), CancellationToken::new());
        let informers = Informers::spawn(Client::new(Arc::new(script)), &mut tasks, shutdown.clone());
        Self { informers, gate, tasks, shutdown }
    }

    /// Lets so many requests be answered, and what comes of it happen.
    async fn answer(&self, count: usize) {
        self.gate.add_permits(count);
        // Longer than any pause: the clock stands still until all others wait.
        tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
    }
}

fn object(name: &str, uid: &str, version: &str) -> String {
    format!(
        r#"{{"metadata":{{"namespace":"a","name":"{name}","uid":"{uid}","resourceVersion":"{version}"}}}}"#
    )
}

fn pod(name: &str, node: &str, version: &str) -> String {
    object(name, name, version)
        .replace("}}", &format!(r#"}},"spec":{{"containers":[],"nodeName":"{node}"}}}}"#))
}

fn list(version: &str, items: &[String]) -> String {
    format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#, items.join(","))
}

fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

/// The changes that are there, as kind and version.
fn told<K: Object>(changes: &mut Changes<K>) -> Vec<String> {
    let version = |object: &K| object.metadata().resource_version.clone().unwrap_or_default();
    let told = std::iter::from_fn(|| changes.try_next()).map(|change| match change {
        Change::Added(object) => format!("+{}", version(&object)),
        Change::Modified { old, new } => format!("{}~{}", version(&old), version(&new)),
        Change::Deleted(object) => format!("-{}", version(&object)),
    });
    told.collect()
}

fn sorted(mut told: Vec<String>) -> Vec<String> {
    told.sort();
    told
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_is_continued_from_the_last_version_seen() {
    let world = World::new(vec![
        ("/configmaps", 200, list("5", &[object("x", "1", "3")])),
        (
            "resourceVersion=5",
            200,
            event("MODIFIED", &object("x", "1", "6")) + &event("BOOKMARK", &object("", "", "9")),
        ),
        ("resourceVersion=9", 200, event("DELETED", &object("x", "1", "10"))),
    ]);
    let informer = world.informers.of::<ConfigMap>();
    let mut changes = informer.subscribe();
    world.answer(1).await;
    assert_eq!(told(&mut changes), ["+3"]);
    world.answer(1).await;
    assert_eq!(told(&mut changes), ["3~6"]);
    world.answer(1).await;
    assert_eq!(told(&mut changes), ["-10"]);
    assert!(informer.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_expired_version_lists_again_and_reports_only_the_difference() {
    let gone = r#"{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired"}"#;
    let world = World::new(vec![
        ("/configmaps", 200, list("5", &[object("x", "1", "3"), object("y", "2", "4")])),
        ("watch=true", 200, event("ERROR", gone)),
        ("/configmaps", 200, list("9", &[object("y", "2", "4"), object("z", "3", "8")])),
    ]);
    let informer = world.informers.of::<ConfigMap>();
    let mut changes = informer.subscribe();
    assert!(!informer.is_synced());
    world.answer(1).await;
    informer.synced().await;
    assert_eq!(sorted(told(&mut changes)), ["+3", "+4"]);
    world.answer(2).await;
    assert_eq!(told(&mut changes), ["-3", "+8"]);
}

/// An object that no ConfigMap can be, yet names itself.
fn broken(name: &str, uid: &str, version: &str) -> String {
    object(name, uid, version).replace("}}", r#"},"data":{"a":1}}"#)
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_passed_over_and_the_others_come() {
    let deep = object("deep", "9", "2")
        .replace("}}", &format!(r#"}},"data":{}{}}}"#, "[".repeat(200), "]".repeat(200)));
    let world = World::new(vec![
        ("/configmaps", 200, list("5", &[object("x", "1", "3"), broken("y", "2", "4"), deep])),
        (
            "resourceVersion=5",
            200,
            event("ADDED", &broken("z", "3", "6")) + &event("ADDED", &object("w", "4", "7")),
        ),
        // The version of an object that was passed over counts.
        ("resourceVersion=7", 200, event("ADDED", &broken("v", "5", "8"))),
        ("resourceVersion=8", 200, event("MODIFIED", &object("y", "2", "9"))),
    ]);
    let informer = world.informers.of::<ConfigMap>();
    let mut changes = informer.subscribe();
    world.answer(4).await;
    assert_eq!(told(&mut changes), ["+3", "+7", "+9"]);
    assert_eq!(informer.list().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_becomes_unreadable_stays_as_it_was_until_it_is_gone() {
    let gone = r#"{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired"}"#;
    let world = World::new(vec![
        ("/configmaps", 200, list("5", &[object("x", "1", "3"), object("y", "2", "4")])),
        (
            "resourceVersion=5",
            200,
            event("MODIFIED", &broken("x", "1", "6"))
                + &event("MODIFIED", &broken("y", "2", "7"))
                + &event("DELETED", &broken("y", "2", "8"))
                + &event("ERROR", gone),
        ),
        ("/configmaps", 200, list("9", &[broken("x", "1", "6")])),
        ("resourceVersion=9", 200, event("ADDED", &broken("x", "another", "10"))),
    ]);
    let informer = world.informers.of::<ConfigMap>();
    let mut changes = informer.subscribe();
    world.answer(1).await;
    assert_eq!(sorted(told(&mut changes)), ["+3", "+4"]);
    // Neither the change nor the second list ends x; the deletion of y and another x do.
    world.answer(2).await;
    assert_eq!(told(&mut changes), ["-4"]);
    world.answer(1).await;
    assert_eq!(told(&mut changes), ["-3"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_deleted_and_made_again_is_two_changes() {
    let world = World::new(vec![
        ("/configmaps", 500, String::new()),
        ("/configmaps", 200, list("5", &[object("x", "1", "3")])),
        ("watch=true", 200, event("MODIFIED", &object("x", "2", "7"))),
    ]);
    let informer = world.informers.of::<ConfigMap>();
    let mut changes = informer.subscribe();
    world.answer(2).await;
    assert_eq!(told(&mut changes), ["+3"]);
    world.answer(1).await;
    assert_eq!(told(&mut changes), ["-3", "+7"]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_was_away_is_told_what_came_of_it_all_and_of_every_end() {
    let events = [
        event("MODIFIED", &object("x", "1", "6")),
        event("MODIFIED", &object("x", "1", "7")),
        // Made and gone without being seen: what hangs on it must still be looked at.
        event("ADDED", &object("y", "2", "8")),
        event("DELETED", &object("y", "2", "9")),
        event("ADDED", &object("z", "3", "10")),
        event("DELETED", &object("z", "3", "11")),
        event("ADDED", &object("z", "4", "12")),
    ];
    let world = World::new(vec![
        ("/configmaps", 200, list("5", &[object("x", "1", "3")])),
        ("watch=true", 200, events.concat()),
    ]);
    let informer = world.informers.of::<ConfigMap>();
    let mut early = informer.subscribe();
    world.answer(1).await;
    assert_eq!(told(&mut early), ["+3"]);
    world.answer(1).await;
    assert_eq!(told(&mut early), ["3~7", "-9", "-11", "+12"]);
    let mut late = informer.subscribe();
    assert_eq!(sorted(told(&mut late)), ["+12", "+7"]);
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_for_a_kind_share_its_objects_and_the_last_ends_it() {
    let world = World::new(vec![
        ("/pods", 200, list("5", &[pod("p", "n1", "3")])),
        ("watch=true", 200, String::new()),
        ("/pods", 200, list("9", &[])),
    ]);
    let (one, other) = (world.informers.of::<Pod>(), world.informers.of::<Pod>());
    world.answer(2).await;
    assert!(Arc::ptr_eq(&one.get("a", "p").unwrap(), &other.get("a", "p").unwrap()));
    drop((one, other));
    world.answer(0).await;
    let again = world.informers.of::<Pod>();
    assert!(!again.is_synced(), "it begins anew");
}

#[tokio::test(start_paused = true)]
async fn an_informer_of_all_serves_a_part_as_the_server_would() {
    let events = event("MODIFIED", &pod("q", "n1", "6")) + &event("DELETED", &pod("r", "n2", "7"));
    let moved = event("MODIFIED", &pod("q", "n2", "8")) + &event("DELETED", &pod("q", "n2", "9"));
    let items = [pod("p", "n1", "3"), pod("q", "", "4"), pod("r", "n2", "5")];
    let world = World::new(vec![
        ("/api/v1/pods", 200, list("5", &items)),
        ("watch=true", 200, events),
        ("watch=true", 200, moved),
    ]);
    let all = world.informers.of::<Pod>();
    let mine = world.informers.part(Part::field(index::PODS_BY_NODE, "n1"));
    let mut changes = mine.subscribe();
    world.answer(1).await;
    assert_eq!(told(&mut changes), ["+3"]);
    assert!(mine.get("a", "p").is_some() && mine.get("a", "r").is_none());
    world.answer(1).await;
    assert_eq!((told(&mut changes), mine.list().len(), all.list().len()), (vec!["+6".to_owned()], 2, 2));
    world.answer(1).await;
    assert_eq!(
        (told(&mut changes), mine.list().len()),
        (vec!["-9".to_owned()], 1),
        "its end is told though it left before"
    );
    assert!(all.by_index(index::PODS_BY_NODE, "n2").is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_an_informer_of_all_the_server_is_asked_for_the_part() {
    let world =
        World::new(vec![("/namespaces/a/configmaps?fieldSelector=metadata.name%3Dx", 200, list("5", &[]))]);
    let one = world.informers.part::<ConfigMap>(Part::object("a", "x"));
    world.answer(1).await;
    assert!(one.is_synced());
}

#[tokio::test(start_paused = true)]
async fn readers_take_what_is_there_and_end_with_the_set() {
    let mut world = World::new(vec![("/configmaps", 200, list("5", &[object("x", "1", "3")]))]);
    let informer = world.informers.of::<ConfigMap>();
    let mut changes = informer.subscribe();
    world.answer(1).await;
    world.shutdown.cancel();
    world.tasks.join_next().await;
    assert!(matches!(changes.next().await, Some(Change::Added(_))));
    assert!(changes.next().await.is_none() && informer.subscribe().next().await.is_some());
}
