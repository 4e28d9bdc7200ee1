//! The reviews: kinds that are created, answered at once and kept nowhere.

use api::field::{Error, ErrorList, Path};
use api::kinds::{Kind, find};
use api::meta::Object as _;
use api::status::Status;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::token::{Bound, Reference};
use super::{Attributes, Auth, Decision, User};

const MIN_TOKEN_SECONDS: i64 = 10 * 60;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

impl Auth {
    /// Answers a review of `authentication.k8s.io` or `authorization.k8s.io`: the object
    /// with its status, for a 201. `namespace` is the path's, empty for cluster scope.
    pub fn review(
        &self,
        resource: &Kind,
        namespace: &str,
        user: &User,
        mut object: Value,
        now: Timestamp,
    ) -> Result<Value, Status> {
        let status = match &*resource.kind {
            "SelfSubjectReview" => {
                object.meta_mut().clear().set_creation_timestamp(&seconds(now));
                json!({"userInfo": user.to_json()})
            }
            "TokenReview" => self.token_review(&object["spec"], now),
            "SelfSubjectRulesReview" => {
                let status = self.rules_review(user, &object["spec"])?;
                // Upstream answers with a new object, which repeats nothing of the question.
                object.meta_mut().clear();
                object["spec"] = json!({});
                status
            }
            "SelfSubjectAccessReview" => self.access_review(resource, user, &object["spec"])?,
            "SubjectAccessReview" => self.subject_access_review(resource, &object["spec"])?,
            "LocalSubjectAccessReview" => {
                if object["spec"]["resourceAttributes"]["namespace"].as_str().unwrap_or_default() != namespace
                {
                    return Err(Status::bad_request(format!(
                        "spec.resourceAttributes.namespace must match namespace: {namespace}"
                    )));
                }
                self.subject_access_review(resource, &object["spec"])?
            }
            _ => return Err(Status::no_such_resource()),
        };
        object["status"] = status;
        Ok(object)
    }

    fn token_review(&self, spec: &Value, now: Timestamp) -> Value {
        let asked: Vec<String> = serde_json::from_value(spec["audiences"].clone()).unwrap_or_default();
        let own = std::slice::from_ref(&self.settings.issuer);
        let audiences = if asked.is_empty() { own } else { asked.as_slice() };
        let token = spec["token"].as_str().unwrap_or_default();
        match self.token_user(token, audiences, now) {
            Ok((mut user, good_for)) => {
                user.groups.push(super::user::AUTHENTICATED.to_owned());
                json!({"authenticated": true, "user": user.to_json(), "audiences": good_for})
            }
            Err(error) => json!({"user": {}, "error": error.to_string()}),
        }
    }

    fn rules_review(&self, user: &User, spec: &Value) -> Result<Value, Status> {
        let Some(namespace) = spec["namespace"].as_str().filter(|n| !n.is_empty()) else {
            return Err(Status::bad_request("no namespace on request"));
        };
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        if user.is_master() {
            resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        let (rules, mut errors) = self.rules_for(user, namespace);
        for rule in rules {
            let is_path = rule.non_resource_urls.as_ref().is_some_and(|urls| !urls.is_empty());
            let rule = serde_json::to_value(rule).unwrap_or_default();
            if is_path { paths.push(rule) } else { resources.push(rule) }
        }
        if user.node().is_some() {
            errors.push("node authorizer does not support user rule resolution".to_owned());
        }
        let mut status = Map::new();
        status.insert("resourceRules".to_owned(), Value::Array(resources));
        status.insert("nonResourceRules".to_owned(), Value::Array(paths));
        status.insert("incomplete".to_owned(), Value::Bool(!errors.is_empty()));
        if !errors.is_empty() {
            status.insert("evaluationError".to_owned(), json!(errors.join(", ")));
        }
        Ok(Value::Object(status))
    }

    fn subject_access_review(&self, resource: &Kind, spec: &Value) -> Result<Value, Status> {
        let list = |field: &str| serde_json::from_value(spec[field].clone()).unwrap_or_default();
        let user = User {
            name: spec["user"].as_str().unwrap_or_default().to_owned(),
            uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
            groups: list("groups"),
            extra: serde_json::from_value(spec["extra"].clone()).unwrap_or_default(),
        };
        if user.name.is_empty() && user.groups.is_empty() {
            let path = Path::new("spec");
            let error =
                Error::invalid(&path.child("user"), "", "at least one of user or group must be specified");
            return Err(Status::invalid(resource, "", &ErrorList(vec![error])));
        }
        self.access_review(resource, &user, spec)
    }

    fn access_review(&self, resource: &Kind, user: &User, spec: &Value) -> Result<Value, Status> {
        let (wanted, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        check_one(resource, wanted, path)?;
        let of = |field: &str| wanted[field].as_str().unwrap_or_default();
        let selector = field_selector(&wanted["fieldSelector"]);
        let attributes = match path.is_null() {
            false => Attributes::path(
                user,
                path["verb"].as_str().unwrap_or_default(),
                path["path"].as_str().unwrap_or_default(),
            ),
            true => Attributes {
                user,
                verb: of("verb"),
                namespace: of("namespace"),
                group: of("group"),
                version: of("version"),
                resource: of("resource"),
                subresource: of("subresource"),
                name: of("name"),
                path: "",
                field_selector: &selector,
            },
        };
        let decision = self.decide(&attributes);
        let allowed = matches!(decision, Decision::Allow(_));
        let reason = decision.reason();
        let mut status = Map::new();
        status.insert("allowed".to_owned(), Value::Bool(allowed));
        if !reason.is_empty() {
            status.insert("reason".to_owned(), Value::String(reason));
        }
        Ok(Value::Object(status))
    }

    /// Answers a TokenRequest for the ServiceAccount `name`: `serviceaccounts/token`.
    pub fn token_request(
        &self,
        namespace: &str,
        name: &str,
        mut object: Value,
        now: Timestamp,
    ) -> Result<Value, Status> {
        let account = self.object("serviceaccounts", namespace, name)?;
        let spec = &object["spec"];
        let seconds_asked = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_TOKEN_SECONDS);
        check_duration(seconds_asked)?;
        let mut audiences: Vec<String> =
            serde_json::from_value(spec["audiences"].clone()).unwrap_or_default();
        if audiences.is_empty() {
            audiences.push(self.settings.issuer.clone());
        }
        let bound = self.bound(namespace, name, &spec["boundObjectRef"])?;
        let account = Reference { name: name.to_owned(), uid: uid(&account) };
        let token = self
            .issue(namespace, account, bound, audiences.clone(), seconds_asked, now)
            .map_err(|_| Status::internal("failed to sign token"))?;
        let expires = now.saturating_add(SignedDuration::from_secs(seconds_asked)).unwrap_or(Timestamp::MAX);
        let mut meta = object.meta_mut();
        meta.clear().set_name(name).set_namespace(namespace).set_creation_timestamp(&seconds(now));
        object["spec"]["audiences"] = json!(audiences);
        object["spec"]["expirationSeconds"] = json!(seconds_asked);
        if object["spec"].get("boundObjectRef").is_none() {
            object["spec"]["boundObjectRef"] = Value::Null;
        }
        object["status"] = json!({"token": token, "expirationTimestamp": seconds(expires)});
        Ok(object)
    }

    /// Reads what the token shall be bound to; it must be there and be the one meant.
    fn bound(&self, namespace: &str, account: &str, reference: &Value) -> Result<Bound, Status> {
        let mut bound = Bound::default();
        if reference.is_null() {
            return Ok(bound);
        }
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let (plural, namespace) = match (text("apiVersion"), kind) {
            ("v1" | "", "Pod") => ("pods", namespace),
            ("v1" | "", "Secret") => ("secrets", namespace),
            ("v1" | "", "Node") => ("nodes", ""),
            (version, kind) => {
                let why = format!("cannot bind token for serviceaccount to object of kind {kind}.{version}");
                return Err(Status::bad_request(why));
            }
        };
        let object = self.object(plural, namespace, name)?;
        let found = uid(&object);
        if !text("uid").is_empty() && text("uid") != found {
            let why = format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                text("uid")
            );
            return Err(Status::conflict(("", kind), name, why));
        }
        let reference = Some(Reference { name: name.to_owned(), uid: found });
        match kind {
            "Node" => bound.node = reference,
            "Secret" => bound.secret = reference,
            _ => {
                if object["spec"]["serviceAccountName"].as_str().unwrap_or_default() != account {
                    let why = format!(
                        "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
                        api::field::go_quote(account)
                    );
                    return Err(Status::bad_request(why));
                }
                bound.pod = reference;
                bound.node = self.node_of(&object);
            }
        }
        Ok(bound)
    }

    /// The node a Pod runs on, as information in its token.
    fn node_of(&self, pod: &Value) -> Option<Reference> {
        let name = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty())?;
        let uid = self.object("nodes", "", name).map(|node| uid(&node)).unwrap_or_default();
        Some(Reference { name: name.to_owned(), uid })
    }

    fn object(&self, plural: &str, namespace: &str, name: &str) -> Result<Value, Status> {
        let missing = || Status::not_found(("", plural), name);
        let resource = find("", "v1", plural).ok_or_else(missing)?;
        let bytes = self.lookup.get(resource, namespace, name).ok_or_else(missing)?;
        serde_json::from_slice(&bytes).map_err(Status::internal)
    }
}

fn uid(object: &Value) -> String {
    object.meta().uid().to_owned()
}

/// Whole seconds, as `metav1.Time` is written.
fn seconds(time: Timestamp) -> String {
    format!("{time:.0}")
}

fn check_duration(seconds: i64) -> Result<(), Status> {
    let why = match seconds {
        ..MIN_TOKEN_SECONDS => "may not specify a duration less than 10 minutes",
        MAX_TOKEN_SECONDS.. if seconds > MAX_TOKEN_SECONDS => {
            "may not specify a duration larger than 2^32 seconds"
        }
        _ => return Ok(()),
    };
    let spec = Path::new("spec");
    let error = Error::invalid(&spec.child("expirationSeconds"), seconds, why);
    Err(Status::invalid(("authentication.k8s.io", "TokenRequest"), "", &ErrorList(vec![error])))
}

/// Exactly one of the two kinds of attributes must be there.
fn check_one(resource: &Kind, wanted: &Value, path: &Value) -> Result<(), Status> {
    let spec = Path::new("spec");
    let error = match (wanted.is_null(), path.is_null()) {
        (false, false) => Error::invalid(
            &spec.child("nonResourceAttributes"),
            path.clone(),
            "cannot be specified in combination with resourceAttributes",
        ),
        (true, true) => Error::invalid(
            &spec.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => return Ok(()),
    };
    Err(Status::invalid(resource, "", &ErrorList(vec![error])))
}

/// The field selector of resource attributes as text: the raw one, or its `In` requirements.
fn field_selector(selector: &Value) -> String {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return raw.to_owned();
    }
    let terms = selector["requirements"].as_array().into_iter().flatten().filter_map(|r| {
        let key = r["key"].as_str()?;
        let value = r["values"].as_array().filter(|v| v.len() == 1)?[0].as_str()?;
        let operator = match r["operator"].as_str()? {
            "In" => "=",
            "NotIn" => "!=",
            _ => return None,
        };
        Some(format!("{key}{operator}{value}"))
    });
    terms.collect::<Vec<_>>().join(",")
}
