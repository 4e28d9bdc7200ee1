//! Typed requests for every kind of object.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::Metadata;
use k8s_openapi::Resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::watch::Read;
use crate::{Error, Transport, TransportError, Unreadable, Watch, lean};

/// Any kind of the API that has ObjectMeta: all of k8s-openapi's top types.
pub trait Object:
    Resource + Metadata<Ty = ObjectMeta> + DeserializeOwned + Serialize + fmt::Debug + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource
        + Metadata<Ty = ObjectMeta>
        + DeserializeOwned
        + Serialize
        + fmt::Debug
        + Send
        + Sync
        + 'static
{
}

/// A client of one API server. Cheap to clone.
///
/// A namespace of `""` means none for cluster-scoped kinds, and all for lists
/// and watches of namespaced ones.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: HeaderValue,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("user_agent", &self.user_agent).finish_non_exhaustive()
    }
}

/// The items of a list, and the version at which they were read.
#[derive(Debug, Deserialize)]
pub struct List<K> {
    /// resourceVersion and the continue token.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new")]
    pub items: Vec<K>,
}

/// Which objects, and in which portions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `app=web,tier!=db`; empty: all.
    pub label_selector: String,
    /// `spec.nodeName=n1`; empty: all.
    pub field_selector: String,
    /// At most so many in one answer; 0: no limit.
    pub limit: u32,
    /// The continue token of the answer before.
    pub continue_token: String,
    /// Empty: the newest; `"0"`: any; else not older than this.
    pub resource_version: String,
}

impl ListOptions {
    fn query(&self) -> Query {
        let limit = if self.limit == 0 { String::new() } else { self.limit.to_string() };
        Query::default()
            .with("labelSelector", &self.label_selector)
            .with("fieldSelector", &self.field_selector)
            .with("limit", &limit)
            .with("continue", &self.continue_token)
            .with("resourceVersion", &self.resource_version)
    }
}

/// How a patch is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Kubernetes' own, by merge keys.
    Strategic,
    /// Server-side apply; needs a field manager.
    Apply,
}

/// A change to an object without its resourceVersion (unless the body has one).
#[derive(Debug, Clone)]
pub struct Patch<'a> {
    /// How to read the body.
    pub kind: PatchKind,
    /// The patch document.
    pub body: Value,
    /// `status`, for example; empty: the object itself.
    pub subresource: &'a str,
    /// Who owns the fields; empty: taken from the user agent by the server.
    pub field_manager: &'a str,
    /// Take fields over from other managers (apply only).
    pub force: bool,
}

impl Patch<'_> {
    /// A patch of `kind` on the object itself.
    pub fn new(kind: PatchKind, body: Value) -> Self {
        Self { kind, body, subresource: "", field_manager: "", force: false }
    }

    /// A patch of `kind` on the object's status.
    pub fn status(kind: PatchKind, body: Value) -> Self {
        Self { subresource: "status", ..Self::new(kind, body) }
    }

    fn content_type(&self) -> &'static str {
        match self.kind {
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
            PatchKind::Apply => "application/apply-patch+yaml",
        }
    }
}

/// What happens to the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without an owner.
    Orphan,
    /// The garbage collector deletes them afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds a Pod gets to end; absent: what its spec says.
    pub grace_period_seconds: Option<i64>,
    /// Only if the object is still this one.
    pub uid: Option<String>,
    /// Only if the object is still at this version.
    pub resource_version: Option<String>,
    /// What becomes of dependents; absent: the kind's default.
    pub propagation: Option<Propagation>,
}

impl DeleteOptions {
    /// At once, without a grace period.
    pub fn now() -> Self {
        Self { grace_period_seconds: Some(0), ..Self::default() }
    }

    /// Only the object with this UID.
    pub fn of_uid(uid: &str) -> Self {
        Self { uid: Some(uid.to_owned()), ..Self::default() }
    }

    fn body(&self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(uid) = &self.uid {
            body["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(version) = &self.resource_version {
            body["preconditions"]["resourceVersion"] = version.as_str().into();
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = format!("{propagation:?}").into();
        }
        body
    }
}

impl Client {
    /// A client whose requests go by `transport`.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, user_agent: HeaderValue::from_static("monopod") }
    }

    /// The same connection under another name: the first part of the user agent
    /// is the default field manager of what it writes.
    pub fn named(&self, user_agent: &'static str) -> Self {
        Self { transport: self.transport.clone(), user_agent: HeaderValue::from_static(user_agent) }
    }

    /// Reads one object.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K, Error> {
        self.json(Method::GET, path::<K>(namespace, name, ""), "", Bytes::new()).await
    }

    /// Reads many objects.
    pub async fn list<K: Object>(&self, namespace: &str, options: &ListOptions) -> Result<List<K>, Error> {
        let path = options.query().on(path::<K>(namespace, "", ""));
        self.json(Method::GET, path, "", Bytes::new()).await
    }

    /// As [`Client::list`], but lean, and objects that cannot be read do not spoil the others: they
    /// come apart, with the reason.
    pub(crate) async fn list_readable<K: Object>(
        &self,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<(List<K>, Vec<(Unreadable, serde_json::Error)>), Error> {
        let path = options.query().on(path::<K>(namespace, "", ""));
        let answer = self.raw(Method::GET, &path, "", Bytes::new()).await?;
        let decode = |source| Error::Decode { path, source };
        let raw = serde_json::from_slice::<List<&RawValue>>(&answer).map_err(decode)?;
        let mut list = List { metadata: raw.metadata, items: Vec::with_capacity(raw.items.len()) };
        let mut unreadable = Vec::new();
        for item in raw.items {
            match lean::decode::<K>(item.get().as_bytes()) {
                Ok(object) => list.items.push(object),
                Err(source) => unreadable.push((Unreadable::of(item.get()), source)),
            }
        }
        Ok((list, unreadable))
    }

    /// Creates an object and returns it as stored.
    pub async fn create<K: Object>(&self, namespace: &str, object: &K) -> Result<K, Error> {
        let path = path::<K>(namespace, "", "");
        let body = encode(&path, object)?;
        self.json(Method::POST, path, JSON, body).await
    }

    /// Posts to a subresource, `binding` or `eviction` for example.
    pub async fn create_subresource<K: Object, B: Serialize>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &B,
    ) -> Result<(), Error> {
        let path = path::<K>(namespace, name, subresource);
        let body = encode(&path, body)?;
        self.raw(Method::POST, &path, JSON, body).await.map(drop)
    }

    /// Replaces an object; fails with a conflict when it was changed meanwhile.
    pub async fn replace<K: Object>(&self, object: &K) -> Result<K, Error> {
        self.put(object, "").await
    }

    /// Replaces an object's status.
    pub async fn replace_status<K: Object>(&self, object: &K) -> Result<K, Error> {
        self.put(object, "status").await
    }

    /// Replaces by way of any subresource, `finalize` for example.
    pub async fn replace_subresource<K: Object>(&self, object: &K, subresource: &str) -> Result<K, Error> {
        self.put(object, subresource).await
    }

    async fn put<K: Object>(&self, object: &K, subresource: &str) -> Result<K, Error> {
        let metadata = object.metadata();
        let (namespace, name) = (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref());
        let path = path::<K>(namespace, name.unwrap_or_default(), subresource);
        let body = encode(&path, object)?;
        self.json(Method::PUT, path, JSON, body).await
    }

    /// Patches an object and returns it as stored.
    pub async fn patch<K: Object>(&self, namespace: &str, name: &str, patch: &Patch<'_>) -> Result<K, Error> {
        let force = if patch.force { "true" } else { "" };
        let query = Query::default().with("fieldManager", patch.field_manager).with("force", force);
        let path = query.on(path::<K>(namespace, name, patch.subresource));
        let body = encode(&path, &patch.body)?;
        self.json(Method::PATCH, path, patch.content_type(), body).await
    }

    /// Deletes an object, or begins to.
    pub async fn delete<K: Object>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let path = path::<K>(namespace, name, "");
        let body = encode(&path, &options.body())?;
        self.raw(Method::DELETE, &path, JSON, body).await.map(drop)
    }

    /// Deletes every object that the list options select.
    pub async fn delete_collection<K: Object>(
        &self,
        namespace: &str,
        which: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let path = which.query().on(path::<K>(namespace, "", ""));
        let body = encode(&path, &options.body())?;
        self.raw(Method::DELETE, &path, JSON, body).await.map(drop)
    }

    /// Changes after `resource_version`, lean, with bookmarks, until the server ends
    /// the watch.
    pub async fn watch<K: Object>(
        &self,
        namespace: &str,
        which: &ListOptions,
        resource_version: &str,
    ) -> Result<Watch<K>, Error> {
        let which = ListOptions { resource_version: resource_version.into(), limit: 0, ..which.clone() };
        let query = which.query().with("watch", "true").with("allowWatchBookmarks", "true");
        self.follow(query.on(path::<K>(namespace, "", "")), lean::decode).await
    }

    /// A watch of whatever a path with its query names, read as `T`: for kinds that are
    /// not known when the program is built, and for those who want a part of the objects.
    pub async fn watch_path<T: DeserializeOwned>(&self, path: String) -> Result<Watch<T>, Error> {
        self.follow(path, |json| serde_json::from_slice(json)).await
    }

    async fn follow<T>(&self, path: String, read: Read<T>) -> Result<Watch<T>, Error> {
        let response = self.send(Method::GET, &path, "", Bytes::new()).await?;
        if response.status().is_success() {
            return Ok(Watch::new(path, response.into_body(), read));
        }
        let code = response.status();
        let body = collect(&Method::GET, &path, response).await?;
        Err(Error::from_answer(code, &body))
    }

    /// Any request: for kinds that are known only by discovery, and for paths
    /// that are no objects. An answer that is an error comes back as one.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Bytes, Error> {
        let response = self.send(method.clone(), path, content_type, body).await?;
        let code = response.status();
        let body = collect(&method, path, response).await?;
        if code.is_success() || code == StatusCode::NOT_MODIFIED {
            Ok(body)
        } else {
            Err(Error::from_answer(code, &body))
        }
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        content_type: &str,
        body: Bytes,
    ) -> Result<T, Error> {
        let answer = self.raw(method, &path, content_type, body).await?;
        serde_json::from_slice(&answer).map_err(|source| Error::Decode { path, source })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<wire::Response, Error> {
        let mut builder = http::Request::builder()
            .method(method.clone())
            .uri(path)
            .header(http::header::ACCEPT, JSON)
            .header(http::header::USER_AGENT, self.user_agent.clone());
        if !content_type.is_empty() {
            builder = builder.header(http::header::CONTENT_TYPE, content_type);
        }
        let request = builder
            .body(wire::full(body))
            .map_err(|error| Error::Request { path: path.into(), reason: error.to_string() })?;
        let sent = self.transport.send(request).await;
        sent.map_err(|source| Error::Transport { method, path: path.into(), source })
    }
}

const JSON: &str = "application/json";

async fn collect(method: &Method, path: &str, response: wire::Response) -> Result<Bytes, Error> {
    let collected = response.into_body().collect().await;
    collected.map(|body| body.to_bytes()).map_err(|source| Error::Transport {
        method: method.clone(),
        path: path.into(),
        source: TransportError::Broken(source),
    })
}

fn encode<T: Serialize>(path: &str, object: &T) -> Result<Bytes, Error> {
    let encoded = serde_json::to_vec(object);
    encoded.map(Bytes::from).map_err(|error| Error::Request { path: path.into(), reason: error.to_string() })
}

/// `/api/v1/namespaces/<ns>/<plural>/<name>/<subresource>`; empty parts are left out.
fn path<K: Resource>(namespace: &str, name: &str, subresource: &str) -> String {
    let mut path = object_path(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT, namespace, name);
    if !subresource.is_empty() {
        path.push('/');
        escape(subresource, &mut path);
    }
    path
}

/// The path of an object, or of a collection when `name` is empty.
pub fn object_path(group: &str, version: &str, plural: &str, namespace: &str, name: &str) -> String {
    let mut path = match group {
        "" => format!("/api/{version}"),
        group => format!("/apis/{group}/{version}"),
    };
    if !namespace.is_empty() {
        path.push_str("/namespaces/");
        escape(namespace, &mut path);
    }
    for part in [plural, name] {
        if !part.is_empty() {
            path.push('/');
            escape(part, &mut path);
        }
    }
    path
}

#[derive(Default)]
struct Query(String);

impl Query {
    /// Adds a parameter unless its value is empty.
    fn with(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            self.0.push(if self.0.is_empty() { '?' } else { '&' });
            self.0.push_str(name);
            self.0.push('=');
            escape(value, &mut self.0);
        }
        self
    }

    fn on(self, mut path: String) -> String {
        path.push_str(&self.0);
        path
    }
}

/// Percent-encodes what is not unreserved (RFC 3986); colons stay, as names of
/// users and nodes are full of them.
fn escape(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                into.push(char::from(byte))
            }
            _ => into.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{Namespace, Pod};

    #[test]
    fn paths_are_those_of_the_api() {
        assert_eq!(path::<Pod>("default", "web", "status"), "/api/v1/namespaces/default/pods/web/status");
        assert_eq!(path::<Pod>("", "", ""), "/api/v1/pods");
        assert_eq!(path::<Namespace>("", "a", "finalize"), "/api/v1/namespaces/a/finalize");
        assert_eq!(path::<Deployment>("a", "", ""), "/apis/apps/v1/namespaces/a/deployments");
    }

    #[test]
    fn selectors_and_hostile_names_are_escaped() {
        let options =
            ListOptions { label_selector: "a=b,c in (d)".into(), limit: 5, ..ListOptions::default() };
        assert_eq!(options.query().on("/x".into()), "/x?labelSelector=a%3Db%2Cc%20in%20%28d%29&limit=5");
        assert_eq!(path::<Pod>("default", "../nodes", ""), "/api/v1/namespaces/default/pods/..%2Fnodes");
    }

    #[test]
    fn delete_options_carry_only_what_was_asked() {
        assert_eq!(
            DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::of_uid("u") }.body(),
            json!({"kind": "DeleteOptions", "apiVersion": "v1",
                   "preconditions": {"uid": "u"}, "propagationPolicy": "Foreground"})
        );
    }
}
