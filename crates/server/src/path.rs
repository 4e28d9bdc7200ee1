//! What a path and a method ask for: the grammar of Kubernetes' API paths.

use http::Method;

/// A request for a resource, as authorisation and dispatch see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`,
    /// or another method in lower case for the proxy subresources.
    pub(crate) verb: &'static str,
    /// The API group, empty for core.
    pub(crate) group: String,
    /// The version.
    pub(crate) version: String,
    /// The namespace, empty for cluster-wide requests.
    pub(crate) namespace: String,
    /// Whether the path leads through the namespace to something in it; the path of a namespace itself does not.
    pub(crate) is_within_namespace: bool,
    /// The plural of the resource.
    pub(crate) resource: String,
    /// The object's name, empty for collections.
    pub(crate) name: String,
    /// The subresource, empty for the object itself.
    pub(crate) subresource: String,
    /// What follows the subresource, without a leading slash, not decoded.
    pub(crate) rest: String,
}

impl Target {
    /// Whether it lasts as long as the client likes: upstream's check of long-running requests.
    pub(crate) fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || matches!(self.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
    }
}

/// What a path is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// An object or a collection.
    Resource(Target),
    /// Everything else: discovery, health, version, OpenAPI.
    Other,
}

/// Reads a path as upstream's request-info resolver does. `watching` is whether
/// the query asks for a watch.
pub(crate) fn parse(method: &Method, path: &str, watching: bool) -> Route {
    let mut rest = path.trim_matches('/').split('/');
    let (group, version) = match (rest.next(), rest.next(), rest.clone().next()) {
        (Some("api"), Some(version), Some(_)) => ("", version),
        (Some("apis"), Some(group), Some(version)) => {
            rest.next();
            (group, version)
        }
        _ => return Route::Other,
    };
    let mut parts: Vec<&str> = rest.collect();
    // `/api/v1/watch/…`: the old form of `?watch=true`.
    let old_watch = parts.first() == Some(&"watch") && parts.len() > 1;
    if old_watch {
        parts.remove(0);
    }
    let Some((namespace, parts, is_within_namespace)) = namespaced(&parts) else { return Route::Other };
    let at = |index: usize| parts.get(index).map(|part| decode(part)).unwrap_or_default();
    let target = Target {
        verb: "",
        group: decode(group),
        version: decode(version),
        namespace,
        is_within_namespace,
        resource: at(0),
        name: at(1),
        subresource: at(2),
        rest: parts.get(3..).unwrap_or_default().join("/"),
    };
    let verb = verb(method, &target, watching || old_watch);
    Route::Resource(Target { verb, ..target })
}

/// Splits `namespaces/<ns>/<resource>/…`. A namespace itself, its status and
/// its finalize are requests for the resource `namespaces`, in that namespace.
fn namespaced<'a>(parts: &'a [&'a str]) -> Option<(String, &'a [&'a str], bool)> {
    match parts {
        [] | [""] => None,
        ["namespaces", name, "status" | "finalize", ..] | ["namespaces", name] => {
            Some((decode(name), parts, false))
        }
        ["namespaces", name, rest @ ..] => Some((decode(name), rest, true)),
        _ => Some((String::new(), parts, false)),
    }
}

fn verb(method: &Method, target: &Target, watching: bool) -> &'static str {
    let collection = target.name.is_empty();
    match *method {
        Method::GET | Method::HEAD if collection && watching => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

/// Percent-decodes; what is not valid stays as it is.
pub(crate) fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        decoded.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).unwrap_or_else(|_| text.to_owned())
}

/// Percent-encodes everything but unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: Method, path: &str) -> Target {
        match parse(&method, path, false) {
            Route::Resource(target) => target,
            Route::Other => panic!("{path} is not a resource"),
        }
    }

    fn text(target: &Target) -> String {
        let Target { verb, group, version, namespace, resource, name, subresource, rest, .. } = target;
        format!("{verb} {group}/{version} {namespace} {resource} {name} {subresource} {rest}")
    }

    #[test]
    fn every_form_of_path_is_understood() {
        let cases = [
            (Method::GET, "/api/v1/pods", "list /v1  pods   "),
            (Method::GET, "/api/v1/namespaces", "list /v1  namespaces   "),
            (Method::GET, "/api/v1/namespaces/a", "get /v1 a namespaces a  "),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 a namespaces a finalize "),
            (Method::POST, "/api/v1/namespaces/a/pods", "create /v1 a pods   "),
            (Method::DELETE, "/api/v1/namespaces/a/pods", "deletecollection /v1 a pods   "),
            (Method::DELETE, "/api/v1/namespaces/a/pods/b", "delete /v1 a pods b  "),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/b/status",
                "patch apps/v1 a deployments b status ",
            ),
            (Method::GET, "/api/v1/namespaces/a/pods/b/proxy/x/y", "get /v1 a pods b proxy x/y"),
            (Method::GET, "/api/v1/watch/namespaces/a/pods", "watch /v1 a pods   "),
            (Method::GET, "/apis/g/v1/clusterroles/system%3Anode", "get g/v1  clusterroles system:node  "),
        ];
        for (method, path, expected) in cases {
            assert_eq!(text(&target(method, path)), expected, "{path}");
        }
    }

    #[test]
    fn paths_of_no_resource_are_left_to_others() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/api/v1/",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/healthz",
            "/version",
        ] {
            assert_eq!(parse(&Method::GET, path, false), Route::Other, "{path}");
        }
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(decode("a%2"), "a%2");
        assert_eq!(decode("a%zz%41"), "a%zzA");
        assert_eq!(decode("%ff"), "%ff");
    }
}
