//! The audit log: who asked for what, and what was answered, as upstream's `audit.k8s.io/v1` Events, a line
//! each.
//!
//! ```text
//! request ─ Policy::level ─ Metadata ─ Event ─ queue ─ thread ─ file, rotated
//!                        └─ None: nothing
//! ```
//!
//! Upstream's stage ResponseComplete is written (ResponseStarted for what lasts); bodies never are: a policy
//! that asks for them is refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use http::request::Parts;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use telemetry::{Counter, Family};

use crate::auth::{Impersonator, User};
use crate::path::{Route, Target};
use crate::state::State;

/// Lines that may wait for the disk. Upstream blocks or drops by its mode; nobody waits for a log here.
const QUEUE: usize = 10_000;

pub(crate) static WRITTEN: Family<Counter> = Family::new(
    "apiserver_audit_event_total",
    "Counter of audit events generated and sent to the audit backend.",
    &[],
);
pub(crate) static LOST: Family<Counter> = Family::new(
    "apiserver_audit_error_total",
    "Counter of audit events that failed to be audited properly.",
    &["plugin"],
);

/// Upstream's defaults are none; a log that fills the disk would stop what it watches.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Bytes of a file.
    pub max_bytes: u64,
    /// Files beside the one that is written.
    pub max_backups: usize,
}

/// Why a policy is not used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is no policy.
    #[error("it is no audit.k8s.io/v1 Policy")]
    Syntax(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It asks for something that is not done.
    #[error("rule {rule}: {what} is not supported; Metadata and None are")]
    Unsupported {
        /// Which rule, from 1.
        rule: usize,
        /// What it asks for.
        what: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyFile {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "a policy may have them, and they mean nothing here")]
    metadata: Value,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "objects are not written, so there is nothing to leave out of them")]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: String,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs", default)]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<String>,
    #[serde(default)]
    #[expect(dead_code, reason = "objects are not written, so there is nothing to leave out of them")]
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// Which requests are written.
#[derive(Debug, Clone)]
pub struct Policy(Vec<Rule>);

/// What a policy looks at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    pub(crate) verb: String,
    pub(crate) path: String,
    /// Absent for paths that are no resource.
    pub(crate) object: Option<ObjectOf>,
}

/// The object of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct ObjectOf {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Policy {
    /// Everything, which is what one wants who gives no policy.
    pub fn all() -> Self {
        Self(vec![Rule {
            level: "Metadata".to_owned(),
            users: Vec::new(),
            user_groups: Vec::new(),
            verbs: Vec::new(),
            resources: Vec::new(),
            namespaces: Vec::new(),
            non_resource_urls: Vec::new(),
            omit_stages: Vec::new(),
            omit_managed_fields: None,
        }])
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// It is none, or asks for what is not done.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let file: PolicyFile =
            serde_saphyr::from_str(text).map_err(|error| PolicyError::Syntax(error.into()))?;
        if (file.api_version.as_str(), file.kind.as_str()) != ("audit.k8s.io/v1", "Policy") {
            let why = format!("apiVersion {:?}, kind {:?}", file.api_version, file.kind);
            return Err(PolicyError::Syntax(why.into()));
        }
        for (at, rule) in file.rules.iter().enumerate() {
            let unsupported = |what: String| Err(PolicyError::Unsupported { rule: at + 1, what });
            if !matches!(rule.level.as_str(), "None" | "Metadata") {
                return unsupported(format!("level {}", rule.level));
            }
            let stages = file.omit_stages.iter().chain(&rule.omit_stages);
            // There is one line a request, which that would leave out.
            if let Some(stage) = stages.into_iter().find(|stage| *stage == "ResponseComplete") {
                return unsupported(format!("omitStages {stage}"));
            }
        }
        Ok(Self(file.rules))
    }

    /// Whether a request is written: by the first rule that it matches, as upstream.
    pub(crate) fn writes(&self, asked: &Asked) -> bool {
        let rule = self.0.iter().find(|rule| rule.matches(asked));
        rule.is_some_and(|rule| rule.level == "Metadata")
    }
}

impl Rule {
    /// Upstream's `ruleMatches`: user, group and verb first; then either resources or paths, for a rule that names
    /// one of the two is not about the other.
    fn matches(&self, asked: &Asked) -> bool {
        let has = |list: &[String], one: &str| list.is_empty() || list.iter().any(|of| of == one);
        let in_groups =
            self.user_groups.is_empty() || asked.groups.iter().any(|one| self.user_groups.contains(one));
        if !has(&self.users, &asked.user) || !in_groups || !has(&self.verbs, &asked.verb) {
            return false;
        }
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        match &asked.object {
            Some(object) if of_resources => {
                let here = has(&self.namespaces, &object.namespace);
                here && (self.resources.is_empty() || self.resources.iter().any(|one| one.matches(object)))
            }
            None if !self.non_resource_urls.is_empty() => {
                self.non_resource_urls.iter().any(|url| url_matches(url, &asked.path))
            }
            // A rule of the other kind says nothing of this request.
            _ => !of_resources && self.non_resource_urls.is_empty(),
        }
    }
}

impl Resources {
    /// Upstream's `ruleMatchesResource`: `pods` is not its subresources, `pods/*` is all of them and the Pods too,
    /// `*/scale` is one subresource of everything, and `*` is all. A group always has to fit; core's is empty.
    fn matches(&self, object: &ObjectOf) -> bool {
        let full = match object.subresource.as_str() {
            "" => object.resource.clone(),
            subresource => format!("{}/{subresource}", object.resource),
        };
        let one = |wanted: &String| {
            wanted == "*"
                || *wanted == full
                || wanted.strip_suffix("/*").is_some_and(|resource| resource == object.resource)
                || wanted.strip_prefix("*/").is_some_and(|sub| !sub.is_empty() && sub == object.subresource)
        };
        self.group == object.group
            && (self.resources.is_empty() || self.resources.iter().any(one))
            && (self.resource_names.is_empty() || self.resource_names.contains(&object.name))
    }
}

/// A star at the end stands for any rest, as in upstream's policies; elsewhere it is a character.
fn url_matches(wanted: &str, path: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => wanted == path,
    }
}

/// The log of a server.
#[derive(Debug)]
pub struct Audit {
    policy: Policy,
    lines: SyncSender<Vec<u8>>,
}

impl Audit {
    /// Opens the file and starts the thread that writes it; the thread ends with the last clone of this.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: &Path, policy: Policy, rotation: Rotation) -> io::Result<Self> {
        let mut log = Log::open(path, rotation)?;
        let (lines, queue) = sync_channel(QUEUE);
        std::thread::Builder::new().name("audit".into()).spawn(move || log.run(&queue))?;
        Ok(Self { policy, lines })
    }

    /// Whether the request is to be written.
    pub(crate) fn wants(&self, asked: &Asked) -> bool {
        self.policy.writes(asked)
    }

    /// Writes a line, never waiting for the disk.
    pub(crate) fn write(&self, event: &Value) {
        let mut line = event.to_string().into_bytes();
        line.push(b'\n');
        match self.lines.try_send(line) {
            Ok(()) => WRITTEN.at(&[]).inc(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => LOST.at(&["log"]).inc(),
        }
    }
}

/// A request whose answer will be written.
pub(crate) struct Watched {
    audit: Arc<Audit>,
    asked: Asked,
    as_user: Option<User>,
    id: String,
    uri: String,
    agent: String,
    source: Option<String>,
    received: Timestamp,
    lasts: bool,
}

impl Watched {
    /// `None` when the policy does not want it.
    pub(crate) fn begin(state: &State, parts: &Parts, user: &User, route: &Route) -> Option<Self> {
        let audit = state.config.audit.clone()?;
        let impersonator = parts.extensions.get::<Impersonator>().map(|Impersonator(user)| user);
        let author = impersonator.unwrap_or(user);
        let (verb, object) = match route {
            Route::Resource(target) => (target.verb.to_owned(), Some(ObjectOf::of(target))),
            Route::Other => (parts.method.as_str().to_ascii_lowercase(), None),
        };
        let asked = Asked {
            user: author.name.clone(),
            groups: author.groups.clone(),
            verb,
            path: parts.uri.path().to_owned(),
            object,
        };
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        audit.wants(&asked).then(|| Self {
            audit,
            asked,
            as_user: impersonator.is_some().then(|| user.clone()),
            // A client may number its requests itself, as upstream lets it.
            id: header("audit-id").map(str::to_owned).or_else(|| state.uid().ok()).unwrap_or_default(),
            uri: parts.uri.to_string(),
            agent: header("user-agent").unwrap_or_default().to_owned(),
            source: parts.extensions.get::<wire::Peer>().map(|peer| peer.0.ip().to_string()),
            received: Timestamp::now(),
            lasts: matches!(route, Route::Resource(target) if target.is_long_running()),
        })
    }

    /// Writes what came of it.
    pub(crate) fn end(self, response: &wire::Response) {
        let answered = Answered {
            id: &self.id,
            received: self.received,
            now: Timestamp::now(),
            code: response.status().as_u16(),
            lasts: self.lasts,
            agent: &self.agent,
            source: self.source.clone(),
            as_user: self.as_user.as_ref(),
            uri: self.uri.clone(),
        };
        self.audit.write(&event(&self.asked, &answered));
    }
}

impl ObjectOf {
    /// Copied, for the request goes on to those who answer it.
    fn of(target: &Target) -> Self {
        Self {
            group: target.group.to_string(),
            version: target.version.to_string(),
            resource: target.resource.to_string(),
            subresource: target.subresource.to_string(),
            namespace: target.namespace.to_string(),
            name: target.name.to_string(),
        }
    }
}

/// What is known at the end of a request.
#[derive(Debug)]
pub(crate) struct Answered<'a> {
    pub(crate) id: &'a str,
    pub(crate) received: Timestamp,
    pub(crate) now: Timestamp,
    pub(crate) code: u16,
    /// It lasts: what is known is that it has begun.
    pub(crate) lasts: bool,
    pub(crate) agent: &'a str,
    pub(crate) source: Option<String>,
    /// For whom the user spoke, if for another.
    pub(crate) as_user: Option<&'a User>,
    pub(crate) uri: String,
}

/// The Event of upstream's form.
pub(crate) fn event(asked: &Asked, answered: &Answered<'_>) -> Value {
    let time = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let stage = if answered.lasts { "ResponseStarted" } else { "ResponseComplete" };
    let mut event = json!({
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": answered.id,
        "stage": stage,
        "requestURI": answered.uri,
        "verb": asked.verb,
        "user": { "username": asked.user, "groups": asked.groups },
        "userAgent": answered.agent,
        "responseStatus": { "metadata": {}, "code": answered.code },
        "requestReceivedTimestamp": time(answered.received),
        "stageTimestamp": time(answered.now),
    });
    if let Some(User { name, groups, .. }) = answered.as_user {
        event["impersonatedUser"] = json!({ "username": name, "groups": groups });
    }
    if let Some(source) = &answered.source {
        event["sourceIPs"] = json!([source]);
    }
    if let Some(object) = &asked.object {
        let fields = [
            ("resource", &object.resource),
            ("namespace", &object.namespace),
            ("name", &object.name),
            ("apiGroup", &object.group),
            ("apiVersion", &object.version),
            ("subresource", &object.subresource),
        ];
        let there = fields.into_iter().filter(|(_, value)| !value.is_empty());
        event["objectRef"] =
            there.map(|(name, value)| (name.to_owned(), Value::from(value.as_str()))).collect();
    }
    event
}

/// The file.
struct Log {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    length: u64,
}

impl Log {
    /// Goes on where the file ends: a restart is no reason to begin a new one. Only the owner reads it, as it
    /// tells who has access to what.
    fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), rotation, file, length })
    }

    /// Until nobody can send any more. A disk that refuses is told of once, and tried with each line: the log is
    /// whole again as soon as the disk is, and what was lost meanwhile is counted.
    fn run(&mut self, queue: &Receiver<Vec<u8>>) {
        let mut failing = false;
        while let Ok(line) = queue.recv() {
            match self.append(&line) {
                Ok(()) => failing = false,
                Err(error) => {
                    LOST.at(&["log"]).inc();
                    if !failing {
                        tracing::error!(%error, path = %self.path.display(), "the audit log takes no lines");
                    }
                    failing = true;
                }
            }
        }
    }

    /// A line is never cut in two by a rotation: whoever reads one file has whole lines.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + line.len() as u64 > self.rotation.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.length += line.len() as u64;
        Ok(())
    }

    /// From the oldest to the newest, so that a crash in between leaves a gap in the numbers and loses nothing.
    /// The last of them is overwritten by the one before: that is the bound.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: usize| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..self.rotation.max_backups).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.rotation.max_backups > 0 {
            fs::rename(&self.path, numbered(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        *self = Self::open(&self.path, self.rotation)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
        - level: None\n  users: [\"system:kube-proxy\"]\n  verbs: [watch]\n\
        - level: None\n  nonResourceURLs: [\"/healthz*\", /version]\n\
        - level: Metadata\n  resources:\n  - group: \"\"\n    resources: [secrets, \"pods/*\"]\n  namespaces: [a]\n\
        - level: None\n  userGroups: [\"system:nodes\"]\n\
        - level: Metadata\n  resources:\n  - group: apps\n";

    fn asked(user: &str, verb: &str, object: Option<(&str, &str, &str)>) -> Asked {
        let object = object.map(|(group, resource, namespace)| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let text = str::to_owned;
            ObjectOf {
                group: text(group),
                version: text("v1"),
                resource: text(resource),
                subresource: text(subresource),
                namespace: text(namespace),
                name: String::new(),
            }
        });
        Asked { user: user.into(), verb: verb.into(), path: "/x".into(), object, ..Asked::default() }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy::parse(POLICY).expect("a policy");
        assert!(policy.writes(&asked("ann", "get", Some(("", "secrets", "a")))));
        assert!(!policy.writes(&asked("ann", "get", Some(("", "secrets", "b")))), "another namespace");
        assert!(policy.writes(&asked("ann", "create", Some(("", "pods/exec", "a")))));
        assert!(policy.writes(&asked("ann", "create", Some(("", "pods", "a")))), "upstream takes them along");
        assert!(policy.writes(&asked("ann", "get", Some(("apps", "deployments", "b")))));
        assert!(!policy.writes(&asked("system:kube-proxy", "watch", Some(("apps", "deployments", "b")))));
        let health = Asked { path: "/healthz/ping".into(), ..asked("ann", "get", None) };
        assert!(!policy.writes(&health));
        let node =
            Asked { groups: vec!["system:nodes".into()], ..asked("n", "get", Some(("apps", "x", ""))) };
        assert!(!policy.writes(&node));
        assert!(Policy::all().writes(&health));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        let refused = |rules: &str| {
            let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}\n");
            Policy::parse(&text).expect_err("refused").to_string()
        };
        let said = refused("[{level: None}, {level: RequestResponse}]");
        assert_eq!(said, "rule 2: level RequestResponse is not supported; Metadata and None are");
        assert!(refused("[{level: Metadata, omitStages: [ResponseComplete]}]").contains("omitStages"));
        assert_eq!(refused("[{level: Metadata, nosuch: 1}]"), "it is no audit.k8s.io/v1 Policy");
        assert!(Policy::parse("apiVersion: v1\nkind: Policy\nrules: []\n").is_err());
    }

    #[test]
    fn lines_are_written_in_order_and_files_are_bounded() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().join("audit.log");
        let mut log = Log::open(&path, Rotation { max_bytes: 8, max_backups: 2 }).expect("opened");
        for line in ["one11\n", "two22\n", "three\n", "four4\n"] {
            log.append(line.as_bytes()).expect("written");
        }
        let read = |name: &str| fs::read_to_string(place.path().join(name)).ok();
        assert_eq!(read("audit.log").as_deref(), Some("four4\n"));
        assert_eq!(read("audit.log.1").as_deref(), Some("three\n"));
        assert_eq!(read("audit.log.2").as_deref(), Some("two22\n"));
        assert_eq!(read("audit.log.3"), None);
    }

    #[test]
    fn an_event_has_upstreams_form() {
        let now: Timestamp = "2026-12-01T12:00:00.5Z".parse().expect("a time");
        let answered = Answered {
            id: "u",
            received: now,
            now,
            code: 201,
            lasts: false,
            agent: "kubectl",
            source: Some("192.0.2.1".into()),
            as_user: None,
            uri: "/x?y".into(),
        };
        let event = event(&asked("ann", "create", Some(("", "pods/exec", "a"))), &answered);
        assert_eq!(
            event["objectRef"],
            json!({"resource": "pods", "namespace": "a", "apiVersion": "v1", "subresource": "exec"})
        );
        assert_eq!(event["requestReceivedTimestamp"], "2026-12-01T12:00:00.500000Z");
        assert_eq!(event["responseStatus"]["code"], 201);
        assert_eq!(event["sourceIPs"], json!(["192.0.2.1"]));
    }
}
