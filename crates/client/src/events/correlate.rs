//! Which reports become new Events, which only count, and which are too many:
//! the rules and numbers of client-go's event correlator.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{EventType, Noted, event_metadata};

/// From this many different messages on, they are combined.
const SIMILAR_MAX: usize = 10;
/// How long messages count as similar.
const SIMILAR_INTERVAL: SignedDuration = SignedDuration::from_mins(10);
/// Events per object: so many at once, then one in five minutes.
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// Entries of each memory.
const MEMORY_MAX: usize = 4096;

/// What to do with one report.
#[derive(Debug)]
pub(super) enum Decision {
    /// Nothing.
    Drop,
    /// Write a new Event.
    Create(Box<Event>),
    /// Count it on the Event that exists; create `event` if it no longer does.
    Patch { name: String, body: Value, event: Box<Event> },
}

impl Decision {
    pub(super) fn namespace(&self) -> &str {
        match self {
            Self::Drop => "",
            Self::Create(event) | Self::Patch { event, .. } => {
                event.metadata.namespace.as_deref().unwrap_or_default()
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Subject {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    api_version: String,
}

impl Subject {
    fn of(about: &ObjectReference) -> Self {
        Self {
            kind: about.kind.clone().unwrap_or_default(),
            namespace: about.namespace.clone().unwrap_or_default(),
            name: about.name.clone().unwrap_or_default(),
            uid: about.uid.clone().unwrap_or_default(),
            api_version: about.api_version.clone().unwrap_or_default(),
        }
    }
}

type SimilarKey = (Subject, EventType, String);
/// Similar events, their field path and (unless combined) their message.
type SameKey = (SimilarKey, String, Option<String>);

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Same {
    event: Event,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    last: Timestamp,
}

pub(super) struct Correlator {
    component: String,
    host: String,
    similar: HashMap<SimilarKey, Similar>,
    same: HashMap<SameKey, Same>,
    buckets: HashMap<Subject, Bucket>,
}

impl Correlator {
    pub(super) fn new(component: &str, host: &str) -> Self {
        Self {
            component: component.to_owned(),
            host: host.to_owned(),
            similar: HashMap::new(),
            same: HashMap::new(),
            buckets: HashMap::new(),
        }
    }

    pub(super) fn observe(&mut self, mut noted: Noted) -> Decision {
        let subject = Subject::of(&noted.about);
        let similar: SimilarKey = (subject.clone(), noted.kind, noted.reason.clone());
        let field_path = noted.about.field_path.clone().unwrap_or_default();
        let key: SameKey = if self.combine(&similar, &noted) {
            noted.message = format!("(combined from similar events): {}", noted.message);
            (similar, String::new(), None)
        } else {
            (similar, field_path, Some(noted.message.clone()))
        };
        let decision = self.count(key, noted.clone());
        if self.allow(subject, noted.at) { decision } else { Decision::Drop }
    }

    fn combine(&mut self, key: &SimilarKey, noted: &Noted) -> bool {
        make_room(&mut self.similar, |entry| entry.last);
        let entry = self.similar.entry(key.clone());
        let similar = entry.or_insert_with(|| Similar { messages: HashSet::new(), last: noted.at });
        if noted.at.duration_since(similar.last) > SIMILAR_INTERVAL {
            similar.messages.clear();
        }
        similar.last = noted.at;
        if similar.messages.len() >= SIMILAR_MAX {
            return true;
        }
        similar.messages.insert(noted.message.clone());
        similar.messages.len() >= SIMILAR_MAX
    }

    fn count(&mut self, key: SameKey, noted: Noted) -> Decision {
        make_room(&mut self.same, |entry| entry.last);
        let at = noted.at;
        let Some(same) = self.same.get_mut(&key) else {
            let event = self.new_event(noted);
            self.same.insert(key, Same { event: event.clone(), last: at });
            return Decision::Create(Box::new(event));
        };
        let count = same.event.count.unwrap_or(1).saturating_add(1);
        same.last = at;
        same.event.count = Some(count);
        same.event.last_timestamp = Some(Time(at));
        same.event.message = Some(noted.message);
        let body = json!({"count": count, "lastTimestamp": Time(at), "message": same.event.message});
        let name = same.event.metadata.name.clone().unwrap_or_default();
        Decision::Patch { name, body, event: Box::new(same.event.clone()) }
    }

    fn allow(&mut self, subject: Subject, at: Timestamp) -> bool {
        make_room(&mut self.buckets, |entry| entry.last);
        let bucket = self.buckets.entry(subject).or_insert(Bucket { tokens: BURST, last: at });
        let elapsed = at.duration_since(bucket.last).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + elapsed * REFILL_PER_SECOND).min(BURST);
        bucket.last = at;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn new_event(&self, noted: Noted) -> Event {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Event {
            metadata: event_metadata(&noted.about, noted.annotations, noted.at),
            involved_object: noted.about,
            reason: Some(noted.reason),
            message: Some(noted.message),
            type_: Some(noted.kind.as_str().to_owned()),
            count: Some(1),
            first_timestamp: Some(Time(noted.at)),
            last_timestamp: Some(Time(noted.at)),
            source: Some(EventSource { component: some(&self.component), host: some(&self.host) }),
            reporting_component: some(&self.component),
            reporting_instance: some(&self.host),
            ..Event::default()
        }
    }
}

/// Forgets the older half of a memory that is full.
fn make_room<K: Eq + Hash + Clone, V>(memory: &mut HashMap<K, V>, last: impl Fn(&V) -> Timestamp) {
    if memory.len() < MEMORY_MAX {
        return;
    }
    let mut times: Vec<Timestamp> = memory.values().map(&last).collect();
    times.sort_unstable();
    let middle = times[times.len() / 2];
    memory.retain(|_, value| last(value) > middle);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn noted(message: &str, second: i64) -> Noted {
        Noted {
            about: ObjectReference {
                kind: Some("Pod".into()),
                namespace: Some("a".into()),
                name: Some("web".into()),
                ..ObjectReference::default()
            },
            kind: EventType::Warning,
            reason: "BackOff".into(),
            message: message.into(),
            annotations: BTreeMap::new(),
            at: Timestamp::from_second(1_800_000_000 + second).unwrap(),
        }
    }

    #[test]
    fn the_same_report_counts_on_the_first_event() {
        let mut correlator = Correlator::new("kubelet", "n1");
        let Decision::Create(event) = correlator.observe(noted("m", 0)) else { panic!("not created") };
        assert!(event.metadata.name.as_ref().unwrap().starts_with("web."));
        let Decision::Patch { name, body, .. } = correlator.observe(noted("m", 5)) else {
            panic!("not patched")
        };
        assert_eq!(Some(name), event.metadata.name);
        assert_eq!(body, json!({"count": 2, "lastTimestamp": "2027-01-15T08:00:05Z", "message": "m"}));
    }

    #[test]
    fn the_tenth_different_message_is_combined() {
        let mut correlator = Correlator::new("kubelet", "n1");
        for i in 0..9 {
            assert!(matches!(correlator.observe(noted(&format!("m{i}"), i)), Decision::Create(_)));
        }
        let Decision::Create(event) = correlator.observe(noted("m9", 9)) else { panic!("not created") };
        assert_eq!(event.message.as_deref(), Some("(combined from similar events): m9"));
        let Decision::Patch { body, .. } = correlator.observe(noted("m10", 10)) else {
            panic!("not patched")
        };
        assert_eq!(body["message"], "(combined from similar events): m10");
    }

    #[test]
    fn an_object_gets_twenty_five_events_and_then_one_in_five_minutes() {
        let mut correlator = Correlator::new("kubelet", "n1");
        let written =
            (0..40).filter(|_| !matches!(correlator.observe(noted("m", 0)), Decision::Drop)).count();
        assert_eq!(written, 25);
        assert!(matches!(correlator.observe(noted("m", 301)), Decision::Patch { .. }));
        assert!(matches!(correlator.observe(noted("m", 302)), Decision::Drop));
    }
}
