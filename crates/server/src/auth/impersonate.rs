//! `Impersonate-User` and its companions: acting as somebody else, if allowed.

use std::collections::BTreeMap;

use api::status::Status;
use http::HeaderMap;

use super::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, service_account, service_account_groups};
use super::{Attributes, Auth, User};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// What the headers ask for.
struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Auth {
    /// The user to act as: the one who asks, or the one the headers name if that is allowed.
    /// The headers are taken out.
    pub(super) fn impersonate(&self, user: User, headers: &mut HeaderMap) -> Result<User, Status> {
        // One look at the names; almost no request has any of them.
        if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            return Ok(user);
        }
        let Some(wanted) = wanted(headers)? else { return Ok(user) };
        self.may_impersonate(&user, &wanted)?;
        Ok(become_user(wanted))
    }

    fn may_impersonate(&self, user: &User, wanted: &Wanted) -> Result<(), Status> {
        let base = Attributes::resource(user, "impersonate", "", "v1", "");
        let (group, version) = (AUTHENTICATION, "v1");
        self.authorize(&match service_account(&wanted.user) {
            Some((namespace, name)) => Attributes { resource: "serviceaccounts", namespace, name, ..base },
            None => Attributes { resource: "users", name: &wanted.user, ..base },
        })?;
        for name in &wanted.groups {
            self.authorize(&Attributes { resource: "groups", name, ..base })?;
        }
        for (key, values) in &wanted.extra {
            for name in values {
                let resource = "userextras";
                self.authorize(&Attributes { group, version, resource, subresource: key, name, ..base })?;
            }
        }
        if !wanted.uid.is_empty() {
            self.authorize(&Attributes { group, version, resource: "uids", name: &wanted.uid, ..base })?;
        }
        Ok(())
    }
}

fn wanted(headers: &mut HeaderMap) -> Result<Option<Wanted>, Status> {
    let all = |headers: &HeaderMap, name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let mut wanted = Wanted {
        user: all(headers, USER).into_iter().next().unwrap_or_default(),
        uid: all(headers, UID).into_iter().next().unwrap_or_default(),
        groups: all(headers, GROUP),
        extra: BTreeMap::new(),
    };
    let names: Vec<String> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .map(|name| name.as_str().to_owned())
        .collect();
    for name in &names {
        if let Some(key) = name.strip_prefix(EXTRA) {
            wanted.extra.insert(unescape(key), all(headers, name));
        }
    }
    for name in names {
        headers.remove(name);
    }
    let nothing = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
    match (wanted.user.is_empty(), nothing) {
        (true, true) => Ok(None),
        (true, false) => Err(Status::internal(
            "requested impersonation of groups, uid or extra without impersonating a user",
        )),
        (false, _) => Ok(Some(wanted)),
    }
}

fn become_user(wanted: Wanted) -> User {
    let mut groups = wanted.groups;
    if groups.is_empty()
        && let Some((namespace, _)) = service_account(&wanted.user)
    {
        groups = service_account_groups(namespace);
    }
    let basic = if wanted.user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !groups.iter().any(|g| g == AUTHENTICATED || g == UNAUTHENTICATED) {
        groups.push(basic.to_owned());
    }
    User { name: wanted.user, uid: wanted.uid, groups, extra: wanted.extra }
}

/// Header names carry keys of `extra` percent-encoded; what is not an escape stays.
fn unescape(key: &str) -> String {
    let bytes = key.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let escaped = (bytes[i] == b'%')
            .then(|| key.get(i + 1..i + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        out.push(escaped.unwrap_or(bytes[i]));
        i += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}
