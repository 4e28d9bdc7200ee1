//! Who may use an image that is here: those who could pull it.
//!
//! What Pods pulled is kept with how it was pulled, repository by repository: anonymously, with a login
//! of the node's own, or with logins that Pods brought. An image that somebody put here by hand (import,
//! `monopod image pull`) has no such record and is everybody's. This is what upstream's
//! `imagePullCredentialsVerificationPolicy: NeverVerifyPreloadedImages` does, its default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Hasher;
use crate::interface::Credentials;

/// Logins remembered of one repository; who was forgotten asks the registry again.
const KEYS_MAX: usize = 100;

/// How the Pods' pulls of an image went, by repository (`docker.io/library/busybox`).
pub(super) type Grants = BTreeMap<String, Grant>;

/// What a successful pull has proved about one repository of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// It took no login of a Pod's.
    #[serde(default)]
    anyone: bool,
    /// The logins that could.
    #[serde(default)]
    keys: Vec<Key>,
}

/// A login as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    /// Where it came from, in the words of whoever brought it.
    origin: String,
    /// Digest of the login itself.
    hash: String,
}

impl Grant {
    /// What a pull proves that took this login; `None` when it took none, or one of the node's own.
    pub(super) fn of(login: Option<&Credentials>) -> Self {
        match login {
            None => Grant { anyone: true, keys: Vec::new() },
            Some(login) => Grant { anyone: false, keys: vec![Key::of(login)] },
        }
    }

    /// Adds what another pull has proved, the newest last.
    fn absorb(&mut self, newer: Grant) {
        self.anyone |= newer.anyone;
        for key in newer.keys {
            // A secret whose login has changed is remembered with the new one alone.
            self.keys.retain(|known| *known != key && (key.origin.is_empty() || known.origin != key.origin));
            self.keys.push(key);
        }
        let surplus = self.keys.len().saturating_sub(KEYS_MAX);
        self.keys.drain(..surplus);
    }

    fn admits(&self, logins: &[Credentials]) -> bool {
        let fits = |key: &Key| {
            let known =
                |one: &Key| one.hash == key.hash || !key.origin.is_empty() && one.origin == key.origin;
            self.keys.iter().any(known)
        };
        self.anyone || logins.iter().map(Key::of).any(|key| fits(&key))
    }
}

impl Key {
    fn of(login: &Credentials) -> Self {
        let mut hasher = Hasher::sha256();
        for part in [&login.username, &login.password, &login.identity_token] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Key { origin: login.origin.clone(), hash: hasher.finish().hex().to_owned() }
    }
}

/// Whether somebody with these logins may use the image by a name in this repository.
pub(super) fn admits(grants: Option<&Grants>, repository: &str, logins: &[Credentials]) -> bool {
    grants.is_none_or(|grants| grants.get(repository).is_some_and(|grant| grant.admits(logins)))
}

/// What is known, with what newer pulls have proved.
pub(super) fn merged(mut known: Grants, newer: Option<Grants>) -> Grants {
    for (repository, grant) in newer.into_iter().flatten() {
        known.entry(repository).or_default().absorb(grant);
    }
    known
}

/// A fingerprint of logins: pulls are shared only among those that bring the same.
pub(crate) fn fingerprint(logins: &[Credentials]) -> Vec<String> {
    logins.iter().map(|login| Key::of(login).hash).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(origin: &str, password: &str) -> Credentials {
        Credentials {
            username: "ann".into(),
            password: password.into(),
            origin: origin.into(),
            ..Credentials::default()
        }
    }

    fn pulled_with(login: Option<&Credentials>) -> Option<Grants> {
        Some(Grants::from([("reg/app".to_owned(), Grant::of(login))]))
    }

    #[test]
    fn an_image_is_for_those_who_could_pull_it() {
        let ann = login("a/secret/1", "right");
        let grants = pulled_with(Some(&ann));
        let may = |repository: &str, logins: &[Credentials]| admits(grants.as_ref(), repository, logins);
        assert!(may("reg/app", std::slice::from_ref(&ann)));
        assert!(may("reg/app", &[login("b/other/2", "right")]), "the same login in another Secret");
        assert!(may("reg/app", &[login("a/secret/1", "rotated")]), "the same Secret with another login");
        assert!(!may("reg/app", &[login("b/other/2", "guess")]) && !may("reg/app", &[]));
        assert!(!may("reg/other", &[ann]), "another name of the same image proves nothing");
        assert!(admits(None, "reg/app", &[]), "what was put here by hand is everybody's");
        assert!(admits(pulled_with(None).as_ref(), "reg/app", &[]), "what anybody may pull too");
    }

    #[test]
    fn what_pulls_prove_adds_up_and_is_bounded() {
        let mut grants = Grants::new();
        for i in 0..KEYS_MAX + 10 {
            grants = merged(grants, pulled_with(Some(&login(&format!("ns/{i}"), &i.to_string()))));
        }
        let keys = &grants["reg/app"].keys;
        assert_eq!((keys.len(), keys[0].origin.as_str()), (KEYS_MAX, "ns/10"));
        grants = merged(grants, pulled_with(Some(&login("ns/50", "rotated"))));
        assert_eq!(grants["reg/app"].keys.len(), KEYS_MAX);
        assert!(!admits(Some(&grants), "reg/app", &[]));
        grants = merged(grants, None);
        assert!(!admits(Some(&grants), "reg/app", &[]), "a pull by hand takes no record away");
        grants = merged(grants, pulled_with(None));
        assert!(admits(Some(&grants), "reg/app", &[]));
    }
}
