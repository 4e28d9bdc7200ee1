//! The ConfigMaps and Secrets that Pods of this node name, each watched while somebody uses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use client::{Change, Client, ListOptions, Object, Reflector};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// All watched objects of the node.
#[derive(Debug)]
pub(crate) struct Watches {
    client: Client,
    config_maps: Kind<ConfigMap>,
    secrets: Kind<Secret>,
}

type Kind<K> = Mutex<HashMap<(String, String), Weak<Watched<K>>>>;

/// One object that is watched for as long as this is held.
#[derive(Debug)]
pub(crate) struct Watched<K> {
    name: String,
    namespace: String,
    reflector: Reflector<K>,
    changed: broadcast::Sender<()>,
    stop: CancellationToken,
    // Ends with the last holder; the reflector and the forwarder live in it.
    _tasks: JoinSet<()>,
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Something held whose changes can be heard.
pub(crate) trait Held: Send + Sync {
    /// A receiver that wakes at each change from now on.
    fn changes(&self) -> broadcast::Receiver<()>;
}

impl<K: Object> Held for Watched<K> {
    fn changes(&self) -> broadcast::Receiver<()> {
        self.changed.subscribe()
    }
}

impl<K: Object> Watched<K> {
    fn spawn(client: &Client, namespace: &str, name: &str) -> Self {
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        let which = ListOptions { field_selector: format!("metadata.name={name}"), ..ListOptions::default() };
        let reflector = Reflector::spawn(client.clone(), namespace, which, &mut tasks, stop.clone());
        // One is enough: a listener reads the whole anew whatever it missed.
        let (changed, _) = broadcast::channel(1);
        let mut changes = reflector.subscribe();
        let sender = changed.clone();
        tasks.spawn(async move {
            while let Some(change) = changes.next().await {
                if !matches!(change, Change::Modified { ref old, ref new } if same_version(&**old, &**new)) {
                    let _ = sender.send(());
                }
            }
        });
        Self { name: name.into(), namespace: namespace.into(), reflector, changed, stop, _tasks: tasks }
    }

    /// The object as it is now; `None`: there is none.
    pub(crate) async fn get(&self) -> Option<Arc<K>> {
        self.reflector.ready().await;
        self.reflector.get(&self.namespace, &self.name)
    }
}

fn same_version<K: Object>(old: &K, new: &K) -> bool {
    old.metadata().resource_version == new.metadata().resource_version
}

impl Watches {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, config_maps: Mutex::default(), secrets: Mutex::default() }
    }

    /// Watches a ConfigMap.
    pub(crate) fn config_map(&self, namespace: &str, name: &str) -> Arc<Watched<ConfigMap>> {
        hold(&self.config_maps, &self.client, namespace, name)
    }

    /// Watches a Secret.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Arc<Watched<Secret>> {
        hold(&self.secrets, &self.client, namespace, name)
    }
}

fn hold<K: Object>(kind: &Kind<K>, client: &Client, namespace: &str, name: &str) -> Arc<Watched<K>> {
    let mut all = kind.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let key = (namespace.to_string(), name.to_string());
    if let Some(held) = all.get(&key).and_then(Weak::upgrade) {
        return held;
    }
    all.retain(|_, weak| weak.strong_count() > 0);
    let held = Arc::new(Watched::spawn(client, namespace, name));
    all.insert(key, Arc::downgrade(&held));
    held
}
