//! Events.
//!
//! An Event with `eventTime` is of the newer form, and must say who reports it and what was done; one without
//! lies in the namespace of what it is about. What `events.k8s.io` asks for beyond that is not asked here.

use crate::field::{Error, ErrorList, Path};
use crate::validate::view::View;
use crate::validate::{check, is_qualified_name};

const WORD_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

pub(crate) fn event(event: View<'_>, errors: &mut ErrorList) {
    let is_new = event.get("eventTime").is_set();
    let (about, own) = (event.get("involvedObject").str("namespace"), event.get("metadata").str("namespace"));
    let agrees = match (about, is_new) {
        // What lies in no namespace is told of in one that is always there.
        ("", false) => matches!(own, "" | "default"),
        ("", true) => matches!(own, "default" | "kube-system"),
        (about, false) => about == own,
        (_, true) => true,
    };
    if !agrees {
        let at = Path::new("involvedObject");
        errors.push(Error::invalid(&at.child("namespace"), about, "does not match event.namespace"));
    }
    if is_new {
        reported(event, errors);
    }
}

fn reported(event: View<'_>, errors: &mut ErrorList) {
    let (at, controller) = (Path::new("reportingController"), event.str("reportingComponent"));
    if controller.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    check(is_qualified_name(controller), controller, &at, errors);
    for (name, is_required, most) in [
        ("reportingInstance", true, WORD_MAX),
        ("action", true, WORD_MAX),
        ("reason", true, WORD_MAX),
        ("message", false, NOTE_MAX),
    ] {
        let (at, text) = (Path::new(name), event.str(name));
        if text.is_empty() && is_required {
            errors.push(Error::required(&at, ""));
        }
        if text.len() > most {
            errors.push(Error::invalid(&at, "", format!("can have at most {most} characters")));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(event: &Value) -> Vec<String> {
        let mut errors = ErrorList::new();
        super::event(View::new(event), &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    fn about(object: &str, own: &str) -> Value {
        json!({"metadata": {"name": "e", "namespace": own}, "involvedObject": {"namespace": object}})
    }

    #[test]
    fn an_event_lies_where_its_object_does() {
        let mismatch = |object| {
            vec![format!(
                "involvedObject.namespace: Invalid value: {object:?}: does not match event.namespace"
            )]
        };
        assert_eq!(wrong(&about("a", "a")), [""; 0]);
        assert_eq!(wrong(&about("", "default")), [""; 0]);
        assert_eq!(wrong(&about("a", "b")), mismatch("a"));
        assert_eq!(wrong(&about("", "b")), mismatch(""));
    }

    #[test]
    fn an_event_of_the_newer_form_says_who_reports_what() {
        let mut event = about("", "kube-system");
        event["eventTime"] = json!("2026-01-01T00:00:00.000000Z");
        let said = wrong(&event);
        assert!(said.contains(&"reportingController: Required value".to_owned()), "{said:?}");
        assert!(said.contains(&"action: Required value".to_owned()), "{said:?}");
        event["reportingComponent"] = "example.com/me".into();
        event["reportingInstance"] = "me-0".into();
        event["action"] = "Binding".into();
        event["reason"] = "x".repeat(129).into();
        assert_eq!(wrong(&event), ["reason: Invalid value: \"\": can have at most 128 characters"]);
    }
}
