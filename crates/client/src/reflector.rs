//! A cache of one kind of object, kept current by list and watch.
//!
//! ```text
//! list ──► replace ──► watch ──► apply ─┬─ EOF: watch again from there
//!   ▲                                   ├─ 410: list again
//!   └────── back-off ◄── error ◄────────┘
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Client, Error, ListOptions, Object, Retry, Unreadable, WatchEvent};

/// What happened to a cached object.
#[derive(Debug)]
pub enum Change<K> {
    /// It appeared, or was there when the subscription began.
    Added(Arc<K>),
    /// It changed.
    Modified {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// It is gone; this is the last state known.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The object as it is now, or was last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Modified { new: object, .. } => object,
        }
    }
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(object) => Self::Added(object.clone()),
            Self::Modified { old, new } => Self::Modified { old: old.clone(), new: new.clone() },
            Self::Deleted(object) => Self::Deleted(object.clone()),
        }
    }
}

/// A shared cache. Cheap to clone; all clones see the same objects, and each
/// object is decoded once however many look at it.
#[derive(Debug)]
pub struct Reflector<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Reflector<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct Shared<K> {
    cache: Mutex<Cache<K>>,
    listed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Cache<K> {
    objects: HashMap<String, Arc<K>>,
    // Unbounded, because a change must neither be lost nor hold up the others;
    // what waits is one pointer per change, and every reader merges by key.
    subscribers: Vec<mpsc::UnboundedSender<Change<K>>>,
}

/// Changes from a point in time on, in order.
#[derive(Debug)]
pub struct Changes<K> {
    receiver: mpsc::UnboundedReceiver<Change<K>>,
}

impl<K> Changes<K> {
    /// The next change; `None` when the reflector has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change<K>> {
        self.receiver.recv().await
    }

    /// A change that is already there.
    pub fn try_next(&mut self) -> Option<Change<K>> {
        self.receiver.try_recv().ok()
    }
}

/// `namespace/name`, or the name alone for cluster-scoped kinds.
pub fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

fn key_of<K: Object>(object: &K) -> String {
    let metadata = object.metadata();
    key(metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

impl<K: Object> Reflector<K> {
    /// Starts to mirror what `which` selects in `namespace` (`""`: everywhere),
    /// as a task of `tasks`, until `shutdown`.
    pub fn spawn(
        client: Client,
        namespace: &str,
        which: ListOptions,
        tasks: &mut JoinSet<()>,
        shutdown: CancellationToken,
    ) -> Self {
        let reflector = Self::detached();
        let mut driver = Driver {
            client,
            namespace: namespace.to_owned(),
            which,
            shared: reflector.shared.clone(),
            version: None,
            failures: 0,
        };
        tasks.spawn(async move {
            // Cancel-safe: a dropped request leaves the cache as it was.
            shutdown.run_until_cancelled(driver.run()).await;
        });
        reflector
    }

    fn detached() -> Self {
        let cache = Mutex::new(Cache { objects: HashMap::new(), subscribers: Vec::new() });
        Self { shared: Arc::new(Shared { cache, listed: watch::Sender::new(false) }) }
    }

    /// Returns once the first list is in the cache.
    pub async fn ready(&self) {
        // An error means that the sender is gone, and we hold it.
        let _ = self.shared.listed.subscribe().wait_for(|listed| *listed).await;
    }

    /// Is the first list in the cache?
    pub fn is_ready(&self) -> bool {
        *self.shared.listed.borrow()
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.shared.lock().objects.get(&key(namespace, name)).cloned()
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.lock().objects.values().cloned().collect()
    }

    /// The objects that `keep` is true for, in no order.
    pub fn filter(&self, keep: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.shared.lock().objects.values().filter(|object| keep(object)).cloned().collect()
    }

    /// What is cached now as [`Change::Added`], then every change.
    pub fn subscribe(&self) -> Changes<K> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut cache = self.shared.lock();
        for object in cache.objects.values() {
            let _ = sender.send(Change::Added(object.clone()));
        }
        cache.subscribers.push(sender);
        Changes { receiver }
    }
}

impl<K> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Cache<K>> {
        self.cache.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<K: Object> Cache<K> {
    fn publish(&mut self, change: &Change<K>) {
        self.subscribers.retain(|subscriber| subscriber.send(change.clone()).is_ok());
    }

    fn put(&mut self, object: K) {
        let new = Arc::new(object);
        match self.objects.insert(key_of(&*new), new.clone()) {
            None => self.publish(&Change::Added(new)),
            Some(old) if old.metadata().resource_version == new.metadata().resource_version => {}
            // The same name, another object: a deletion that was not seen.
            Some(old) if old.metadata().uid != new.metadata().uid => {
                self.publish(&Change::Deleted(old));
                self.publish(&Change::Added(new));
            }
            Some(old) => self.publish(&Change::Modified { old, new }),
        }
    }

    /// Whether this very object is cached, and not another of its name.
    fn is_known(&self, object: &Unreadable) -> bool {
        let known = self.objects.get(&object.to_string());
        known.is_some_and(|known| known.metadata().uid.as_deref() == Some(&*object.uid))
    }

    /// An object that cannot be read was changed or deleted.
    fn pass_over(&mut self, object: &Unreadable) {
        if object.deleted || !self.is_known(object) {
            self.remove(&object.to_string(), None);
        }
    }

    fn remove(&mut self, key: &str, last: Option<K>) {
        if let Some(known) = self.objects.remove(key) {
            self.publish(&Change::Deleted(last.map_or(known, Arc::new)));
        }
    }

    /// Replaces what is cached by what was listed. An object that is there and cannot be read stays as
    /// it was when it could: to take it for gone would end what it stands for.
    fn replace(&mut self, objects: Vec<K>, unreadable: &[Unreadable]) {
        let kept = unreadable.iter().filter(|object| self.is_known(object)).map(Unreadable::to_string);
        let listed: HashSet<String> = objects.iter().map(key_of).chain(kept).collect();
        let gone: Vec<String> = self.objects.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for key in gone {
            self.remove(&key, None);
        }
        for object in objects {
            self.put(object);
        }
    }
}

struct Driver<K> {
    client: Client,
    namespace: String,
    which: ListOptions,
    shared: Arc<Shared<K>>,
    /// Where the next watch begins; `None`: list first.
    version: Option<String>,
    /// Failed attempts in a row.
    failures: u32,
}

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

impl<K: Object> Driver<K> {
    async fn run(&mut self) {
        loop {
            let result = match self.version.clone() {
                None => self.list().await,
                Some(version) => self.follow(&version).await,
            };
            match result {
                Ok(()) => self.failures = 0,
                Err(error) => self.recover(&error).await,
            }
        }
    }

    async fn list(&mut self) -> Result<(), Error> {
        let (list, unreadable) = self.client.list_readable::<K>(&self.namespace, &self.which).await?;
        for (object, error) in &unreadable {
            skipped::<K>(object, error);
        }
        let unreadable: Vec<Unreadable> = unreadable.into_iter().map(|(object, _)| object).collect();
        self.shared.lock().replace(list.items, &unreadable);
        self.version = Some(list.metadata.resource_version.unwrap_or_default());
        self.shared.listed.send_replace(true);
        Ok(())
    }

    async fn follow(&mut self, version: &str) -> Result<(), Error> {
        let mut watch = self.client.watch::<K>(&self.namespace, &self.which, version).await?;
        while let Some(event) = watch.next().await {
            match event {
                Ok(event) => self.apply(event),
                Err(Error::Unreadable { object, source }) => self.skip(&object, &source),
                Err(error) => return Err(error),
            }
            self.failures = 0;
        }
        Ok(())
    }

    fn apply(&mut self, event: WatchEvent<K>) {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = object.metadata().resource_version.clone();
                self.shared.lock().put(object);
                version
            }
            WatchEvent::Deleted(object) => {
                let (key, version) = (key_of(&object), object.metadata().resource_version.clone());
                self.shared.lock().remove(&key, Some(object));
                version
            }
            WatchEvent::Bookmark { resource_version, .. } => Some(resource_version),
        };
        self.version = version.or(self.version.take());
    }

    /// Goes on behind an object that cannot be read.
    fn skip(&mut self, object: &Unreadable, error: &serde_json::Error) {
        skipped::<K>(object, error);
        self.shared.lock().pass_over(object);
        if !object.resource_version.is_empty() {
            self.version = Some(object.resource_version.clone());
        }
    }

    async fn recover(&mut self, error: &Error) {
        if error.is_expired() {
            self.version = None;
        }
        self.failures = self.failures.saturating_add(1);
        let pause = match error.retry() {
            // An object that cannot be decoded must not be asked for in a tight loop.
            Retry::After(pause) => pause.max(backoff(self.failures)),
            Retry::Now | Retry::WaitForChange | Retry::Never => backoff(self.failures),
        };
        // The first failure of a connection is retried soon whatever the kind.
        let pause = if self.failures == 1 { BACKOFF_MIN } else { pause };
        tracing::debug!(kind = K::KIND, error = %chain(error), ?pause, "reflector failed");
        tokio::time::sleep(pause).await;
    }
}

/// Names an object that is passed over: until somebody mends it, nobody acts on it.
fn skipped<K: Object>(object: &Unreadable, error: &serde_json::Error) {
    tracing::warn!(kind = K::KIND, %object, %error, "an object cannot be read and is passed over");
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(12)).min(BACKOFF_MAX)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Transport, TransportError};
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::collections::VecDeque;

    /// Answers from a script; a request after its end waits for ever.
    struct Script(Mutex<VecDeque<(&'static str, u16, String)>>);

    impl Transport for Script {
        fn send(&self, request: wire::Request) -> BoxFuture<'static, Result<wire::Response, TransportError>> {
            let next = self.0.lock().unwrap().pop_front();
            async move {
                let Some((expected, code, body)) = next else { return std::future::pending().await };
                let asked = request.uri().to_string();
                assert!(asked.contains(expected), "{asked} instead of {expected}");
                Ok(http::Response::builder().status(code).body(wire::full(body)).unwrap())
            }
            .boxed()
        }
    }

    fn object(name: &str, uid: &str, version: &str) -> String {
        format!(
            r#"{{"metadata":{{"namespace":"a","name":"{name}","uid":"{uid}","resourceVersion":"{version}"}}}}"#
        )
    }

    fn list(version: &str, items: &[String]) -> String {
        format!(r#"{{"metadata":{{"resourceVersion":"{version}"}},"items":[{}]}}"#, items.join(","))
    }

    fn event(kind: &str, object: &str) -> String {
        format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
    }

    fn start(script: Vec<(&'static str, u16, String)>) -> (Reflector<ConfigMap>, JoinSet<()>) {
        let client = Client::new(Arc::new(Script(Mutex::new(script.into()))));
        let mut tasks = JoinSet::new();
        let options = ListOptions::default();
        (Reflector::spawn(client, "", options, &mut tasks, CancellationToken::new()), tasks)
    }

    async fn collect(changes: &mut Changes<ConfigMap>, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..count {
            seen.push(match changes.next().await.unwrap() {
                Change::Added(new) => format!("+{}", new.metadata.resource_version.as_ref().unwrap()),
                Change::Modified { new, .. } => {
                    format!("~{}", new.metadata.resource_version.as_ref().unwrap())
                }
                Change::Deleted(old) => format!("-{}", old.metadata.resource_version.as_ref().unwrap()),
            });
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_ends_is_continued_from_the_last_version_seen() {
        let (reflector, _tasks) = start(vec![
            ("/configmaps", 200, list("5", &[object("x", "1", "3")])),
            (
                "resourceVersion=5",
                200,
                event("MODIFIED", &object("x", "1", "6")) + &event("BOOKMARK", &object("", "", "9")),
            ),
            ("resourceVersion=9", 200, event("DELETED", &object("x", "1", "10"))),
        ]);
        let mut changes = reflector.subscribe();
        assert_eq!(collect(&mut changes, 3).await, ["+3", "~6", "-10"]);
        assert!(reflector.list().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_version_lists_again_and_reports_only_the_difference() {
        let gone = r#"{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired"}"#;
        let (reflector, _tasks) = start(vec![
            ("/configmaps", 200, list("5", &[object("x", "1", "3"), object("y", "2", "4")])),
            ("watch=true", 200, event("ERROR", gone)),
            ("/configmaps", 200, list("9", &[object("y", "2", "4"), object("z", "3", "8")])),
        ]);
        let mut changes = reflector.subscribe();
        let mut first = collect(&mut changes, 2).await;
        first.sort();
        assert_eq!(first, ["+3", "+4"]);
        assert_eq!(collect(&mut changes, 2).await, ["-3", "+8"]);
    }

    /// An object that no ConfigMap can be, yet names itself.
    fn broken(name: &str, uid: &str, version: &str) -> String {
        object(name, uid, version).replace("}}", r#"},"data":{"a":1}}"#)
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_cannot_be_read_is_passed_over_and_the_others_come() {
        let deep = object("deep", "9", "2")
            .replace("}}", &format!(r#"}},"data":{}{}}}"#, "[".repeat(200), "]".repeat(200)));
        let (reflector, _tasks) = start(vec![
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
        let mut changes = reflector.subscribe();
        assert_eq!(collect(&mut changes, 3).await, ["+3", "+7", "+9"]);
        assert_eq!(reflector.list().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_becomes_unreadable_stays_as_it_was_until_it_is_gone() {
        let gone = r#"{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired"}"#;
        let (reflector, _tasks) = start(vec![
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
        let mut changes = reflector.subscribe();
        let mut first = collect(&mut changes, 2).await;
        first.sort();
        assert_eq!(first, ["+3", "+4"]);
        // Neither the change nor the second list ends x; the deletion of y and another x do.
        assert_eq!(collect(&mut changes, 2).await, ["-4", "-3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_was_deleted_and_made_again_is_two_changes() {
        let (reflector, _tasks) = start(vec![
            ("/configmaps", 500, String::new()),
            ("/configmaps", 200, list("5", &[object("x", "1", "3")])),
            ("watch=true", 200, event("MODIFIED", &object("x", "2", "7"))),
        ]);
        let mut changes = reflector.subscribe();
        assert_eq!(collect(&mut changes, 3).await, ["+3", "-3", "+7"]);
        reflector.ready().await;
    }
}
