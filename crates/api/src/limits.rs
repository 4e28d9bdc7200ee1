//! What is accepted and has no effect yet, and how whoever writes it hears of that.
//!
//! One table ([`LIMITS`]). The server answers writes from it, `docs/limits.md` and a section of the README
//! are made from it (`cargo xtask limits`), and an end-to-end test applies the example of every row and
//! looks for what the row promises. When something begins to work, its row is deleted, nothing else.
//!
//! A row promises a `Warning` where an object is kept for whatever will read it, a refusal where a stored
//! object would look like protection and be none, and a state of the Pod where the node or the scheduler
//! finds out.

use serde_json::Value;

mod find;
mod general;
mod table;

pub use find::RUNTIME_HANDLERS;
pub use general::GENERAL;
pub use table::LIMITS;

/// Where a warning sends its reader.
pub const PAGE: &str = "docs/limits.md";

/// One thing that is accepted and has no effect, or not all of its effect.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// The API group, empty for core.
    pub group: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// What is meant, in a few words: the kind itself unless only part of it is.
    pub name: &'static str,
    /// When an object falls under it.
    pub found: Found,
    /// How its user hears of it; never empty.
    pub shown: &'static [Shown],
    /// What does not happen, as the rest of a sentence that begins with the kind or the field.
    pub says: &'static str,
    /// A manifest that falls under it.
    pub example: &'static str,
}

/// When an object falls under a [`Limit`].
#[derive(Debug, Clone, Copy)]
pub enum Found {
    /// Always.
    Always,
    /// When one of these paths leads to something that is not empty: `spec.ports[*].name`. With
    /// `=value` at its end only that value counts.
    At(&'static [&'static str]),
    /// When this finds something: the paths of it.
    By(fn(&Value) -> Vec<String>),
}

/// How the user of something hears that it has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// A `Warning` header, which kubectl prints, on create and update.
    Warning,
    /// 403 Forbidden: it is not stored.
    Refused,
    /// The Pod stays Pending; the message of its condition PodScheduled has these words.
    Pending(&'static str),
    /// The node refuses the Pod: phase Failed with this reason.
    Failed(&'static str),
    /// The Pod waits, and an Event of this reason has these words.
    Event(&'static str, &'static str),
    /// Its containers wait with this reason.
    Waiting(&'static str),
}

/// What the table has to say about a write.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// Why the write is forbidden.
    pub refusal: Option<String>,
}

/// Looks a write up in the table. What was there before (`old`) is not refused again: an object that was
/// stored by an older program can still be labelled, finalised and deleted.
pub fn find(group: &str, kind: &str, subresource: &str, new: &Value, old: Option<&Value>) -> Findings {
    let mut findings = Findings::default();
    let rows = LIMITS.iter().filter(|row| row.group == group && row.kind == kind);
    for (row, places) in rows.map(|row| (row, row.places(subresource, new))) {
        let texts = places.iter().map(|place| row.text(place));
        if row.shown.contains(&Shown::Refused) {
            let kept = old.map(|old| row.places(subresource, old)).unwrap_or_default();
            let added = places.iter().find(|place| !kept.contains(place));
            findings.refusal = findings.refusal.or(added.map(|place| row.text(place)));
            findings.warnings.extend(texts);
        } else if row.shown.contains(&Shown::Warning) {
            findings.warnings.extend(texts);
        }
    }
    findings
}

impl Limit {
    /// Where an object falls under it; an empty text is the object itself.
    fn places(&self, subresource: &str, object: &Value) -> Vec<String> {
        match self.found {
            Found::Always if subresource.is_empty() => vec![String::new()],
            Found::At(paths) if subresource.is_empty() => {
                paths.iter().flat_map(|path| find::at(object, path)).collect()
            }
            Found::By(search) if subresource.is_empty() => search(object),
            _ => Vec::new(),
        }
    }

    fn text(&self, place: &str) -> String {
        let subject = if place.is_empty() { self.name } else { place };
        format!("{subject}: {}; see {PAGE}", self.says)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{decode, defaults, kinds, strategy};

    /// What is wrong with a row.
    fn check(row: &Limit) -> Result<(), String> {
        let object: Value = serde_saphyr::from_str(row.example).map_err(|err| err.to_string())?;
        let [version, kind] = ["apiVersion", "kind"].map(|name| object[name].as_str().unwrap_or_default());
        let resource = kinds::by_kind(version, kind).ok_or("its example is of no kind")?;
        let strict = decode::FieldValidation::Strict;
        let decoded = decode::decode(resource, row.example.as_bytes(), "application/yaml", strict);
        let mut object = decoded.map_err(|status| status.message)?.object;
        if resource.namespaced {
            object["metadata"]["namespace"] = "default".into();
        }
        object["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        defaults::apply(resource, &mut object);
        strategy::prepare_create(resource, &mut object);
        // Services get their addresses, and Pods their tokens, from the server.
        if !matches!(kind, "Service" | "Pod") {
            let errors = strategy::validate_create(resource, &object);
            if !errors.is_empty() {
                return Err(errors.to_string());
            }
        }
        if resource.group_kind() != (row.group, row.kind) || row.shown.is_empty() || row.says.is_empty() {
            return Err("its example is of another kind, or it says or shows nothing".to_owned());
        }
        if row.places("", &object).is_empty() {
            return Err(format!("does not find {object}"));
        }
        let refused = find(row.group, row.kind, "", &object, None).refusal.is_some();
        if refused == row.shown.contains(&Shown::Refused) {
            Ok(())
        } else {
            Err("refuses wrongly".to_owned())
        }
    }

    #[test]
    fn the_example_of_every_row_is_what_the_row_is_about() {
        let wrong = LIMITS.iter().filter_map(|row| Some(format!("{}: {}", row.name, check(row).err()?)));
        assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new());
    }

    #[test]
    fn a_row_names_a_kind_that_is_served() {
        for row in LIMITS {
            let mut kinds = kinds::all().iter().map(|kind| kind.group_kind());
            assert!(kinds.any(|kind| kind == (row.group, row.kind)), "{} of {:?}", row.kind, row.group);
        }
        let mut names: Vec<_> = LIMITS.iter().map(|row| (row.kind, row.name)).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "two rows have one name");
    }

    #[test]
    fn what_is_refused_is_refused_once_and_then_only_warned_about() {
        let labelled =
            |value: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": value}}});
        let plain = json!({"metadata": {"labels": {"team": "a"}}});
        let look = |new: &Value, old| find("", "Namespace", "", new, old);
        let findings = look(&labelled("restricted"), Some(&plain));
        let why = "metadata.labels[pod-security.kubernetes.io/enforce]: ";
        assert!(findings.refusal.is_some_and(|text| text.starts_with(why) && text.ends_with(PAGE)));
        let before = labelled("baseline");
        let again = look(&labelled("restricted"), Some(&before));
        assert_eq!((again.refusal, again.warnings.len()), (None, 1), "it was there before");
        assert_eq!(look(&labelled("privileged"), None), Findings::default());
        assert_eq!(look(&plain, None), Findings::default());
    }

    #[test]
    fn a_pod_with_nothing_special_hears_nothing() {
        let pod = json!({"spec": {
            "hostUsers": true, "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}});
        assert_eq!(find("", "Pod", "", &pod, None), Findings::default());
    }
}
