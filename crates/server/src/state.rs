//! What every request shares: the store, the configuration, randomness.

use std::fmt;
use std::sync::Arc;

use api::kinds::{self, Kind};
use api::meta::Object as _;
use api::names;
use api::status::Status;
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;
use store::{Delete, Durability, Entry, Error, Expect, Put, Store};
use tokio_util::task::TaskTracker;

use crate::auth::{Auth, KeyError, Settings, TokenKey};
use crate::config::Config;
use crate::decoded::Collections;
use crate::inflight::InFlight;
use crate::metrics::Measurements;
use crate::object;
use crate::registry::Registry;
use crate::service::Allocator;
use crate::subresource::eviction::{self, Budgets};

/// Shared by all requests.
pub(crate) struct State {
    /// The store.
    pub(crate) store: Arc<dyn Store>,
    /// What the server was told at its start.
    pub(crate) config: Config,
    /// Who asks, and may they.
    pub(crate) auth: Auth,
    /// What clients hold at once.
    pub(crate) in_flight: InFlight,
    /// The writes on their way, which outlive the requests they came by.
    pub(crate) writes: TaskTracker,
    /// What is asked for as a whole at each write of something else.
    pub(crate) collections: Collections,
    /// The disruption budgets.
    pub(crate) budgets: Budgets,
    /// What Services hold.
    pub(crate) services: Allocator,
    /// What is served.
    pub(crate) registry: Registry,
    /// What the nodes said they use.
    pub(crate) measurements: Measurements,
    random: SystemRandom,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("config", &self.config).finish_non_exhaustive()
    }
}

/// An object that is to be written, with what it must replace.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    /// The resource in its stored version.
    pub(crate) resource: &'a Kind,
    /// The object in its stored version.
    pub(crate) object: &'a Value,
    /// What it replaces; `None` for a new object.
    pub(crate) old: Option<&'a Entry>,
}

impl State {
    /// The state of a server on this store.
    pub(crate) fn new(store: Arc<dyn Store>, config: Config) -> Result<Self, KeyError> {
        let settings = Settings {
            key: TokenKey::from_pkcs8(&config.service_account_key)?,
            issuer: config.issuer.clone(),
            public_url: format!("https://{}", config.advertise),
            anonymous: config.anonymous,
        };
        let auth = Auth::new(settings, Arc::clone(&store));
        Ok(Self {
            collections: Collections::new(Arc::clone(&store)),
            budgets: eviction::budgets_of(Arc::clone(&store)),
            services: Allocator::new(Arc::clone(&store)),
            registry: Registry::new(config.advertise.to_string()),
            measurements: Measurements::default(),
            in_flight: InFlight::new(config.limits),
            writes: TaskTracker::new(),
            store,
            config,
            auth,
            random: SystemRandom::new(),
        })
    }

    /// Random bytes.
    pub(crate) fn random<const N: usize>(&self) -> Result<[u8; N], Status> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).map_err(|_| Status::internal("the system has no random numbers"))?;
        Ok(bytes)
    }

    /// A number from 0 up to 1, to spread things in time.
    pub(crate) fn random_fraction(&self) -> f64 {
        let [byte] = self.random::<1>().unwrap_or([128]);
        f64::from(byte) / 256.0
    }

    /// A new uid.
    pub(crate) fn uid(&self) -> Result<String, Status> {
        Ok(names::uuid_v4(self.random()?))
    }

    /// The latest state of a key.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, Status> {
        self.store.get(key).await.map_err(store_failed)
    }

    /// The latest state of an object, read.
    pub(crate) async fn find(
        &self,
        resource: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let entry = self.get(&object::key(resource, namespace, name)).await?;
        entry.map(|entry| object::read(&entry.value)).transpose()
    }

    /// Writes an object. A conflict is answered as the store says it, for the
    /// caller to try again or to explain.
    pub(crate) async fn write(&self, draft: Draft<'_>) -> Result<Arc<Entry>, Error> {
        let meta = draft.object.meta();
        let expect = draft.old.map_or(Expect::Absent, |old| Expect::Revision(old.revision));
        let put = Put {
            key: object::key(draft.resource, meta.namespace(), meta.name()),
            value: object::encode(draft.resource, draft.object),
            expect: Some(expect),
            durability: durability(&draft),
        };
        self.store.put(put).await
    }

    /// Removes an object.
    pub(crate) async fn remove(&self, resource: &Kind, entry: &Entry) -> Result<Arc<Entry>, Error> {
        let durability = match resource.durability {
            kinds::Durability::Within(time) => Durability::Within(time),
            _ => Durability::Now,
        };
        let expect = Expect::Revision(entry.revision);
        self.store.delete(Delete { key: Arc::clone(&entry.key), expect, durability }).await
    }
}

fn durability(draft: &Draft<'_>) -> Durability {
    match (draft.resource.durability, draft.old) {
        (kinds::Durability::Within(time), _) => Durability::Within(time),
        (kinds::Durability::Renewals(time, is_renewal), Some(old))
            if object::read(&old.value).is_ok_and(|old| is_renewal(&old, draft.object)) =>
        {
            Durability::Within(time)
        }
        _ => Durability::Now,
    }
}

/// The time as objects carry it: whole seconds.
pub(crate) fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// A failure of the store in words for the client.
pub(crate) fn store_failed(err: Error) -> Status {
    match err {
        Error::Compacted { requested, oldest } => Status::too_old_resource_version(requested, oldest),
        Error::Future { requested, current } => Status::too_large_resource_version(requested, current),
        Error::Lagged => Status::resource_version_expired(),
        Error::Closed => Status::service_unavailable("the server is shutting down"),
        err => Status::internal(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds() {
        let time: Timestamp = "2026-11-21T09:00:00.75Z".parse().expect("a time");
        assert_eq!(seconds(time), "2026-11-21T09:00:00Z");
    }
}
