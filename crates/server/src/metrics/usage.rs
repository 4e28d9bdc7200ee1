//! From what a node has counted to what is used now.

use std::collections::HashMap;

use api::quantity::{Format, Quantity};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

/// A shorter time says nothing of a container that has just been started.
const WINDOW_MIN: SignedDuration = SignedDuration::from_secs(1);

/// What a node has counted: the part that is read of a kubelet's summary.
#[derive(Debug, Deserialize)]
pub(super) struct Statistics {
    node: Counted,
    #[serde(default)]
    pods: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    pod_ref: PodReference,
    #[serde(default)]
    containers: Vec<Counted>,
}

#[derive(Debug, Deserialize)]
struct PodReference {
    uid: String,
}

/// The counters of a container, or of the node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counted {
    #[serde(default)]
    name: String,
    start_time: Option<Timestamp>,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Timestamp,
    usage_core_nano_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

impl Statistics {
    /// Reads a node's answer.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    fn containers(&self) -> impl Iterator<Item = ((&str, &str), &Counted)> {
        self.pods.iter().flat_map(|pod| {
            pod.containers.iter().map(|one| ((pod.pod_ref.uid.as_str(), one.name.as_str()), one))
        })
    }
}

/// What is used of a node, and by each Pod on it.
#[derive(Debug)]
pub(super) struct Usage {
    node: Option<Used>,
    /// By uid; without those of which a container was not measured.
    pods: HashMap<String, Vec<(String, Used)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Used {
    nanocores: i64,
    memory: i64,
    time: Timestamp,
    window: SignedDuration,
}

impl Usage {
    /// What was used between two measurements; by what has been started since, from then on.
    pub(super) fn between(earlier: Option<&Statistics>, later: &Statistics) -> Self {
        let before: HashMap<_, _> = earlier.into_iter().flat_map(Statistics::containers).collect();
        let pods = later.pods.iter().filter_map(|pod| {
            let uid = pod.pod_ref.uid.as_str();
            let used = pod.containers.iter().map(|one| {
                let before = before.get(&(uid, one.name.as_str())).copied();
                Some((one.name.clone(), one.used_since(before)?))
            });
            let used = used.collect::<Option<Vec<_>>>().filter(|used| !used.is_empty())?;
            Some((uid.to_owned(), used))
        });
        Self { node: later.node.used_since(earlier.map(|earlier| &earlier.node)), pods: pods.collect() }
    }

    /// The fields of a NodeMetrics.
    pub(super) fn node(&self) -> Option<Vec<(&'static str, Value)>> {
        let used = self.node?;
        Some(vec![used.timestamp(), used.window(), ("usage", used.quantities())])
    }

    /// The fields of a PodMetrics.
    pub(super) fn pod(&self, uid: &str) -> Option<Vec<(&'static str, Value)>> {
        let used = self.pods.get(uid)?;
        let (_, earliest) = used.iter().min_by_key(|(_, used)| used.time)?;
        let containers = used.iter().map(|(name, used)| json!({ "name": name, "usage": used.quantities() }));
        let containers: Vec<Value> = containers.collect();
        Some(vec![earliest.timestamp(), earliest.window(), ("containers", containers.into())])
    }
}

impl Counted {
    fn used_since(&self, before: Option<&Self>) -> Option<Used> {
        let (time, cpu) = self.counter()?;
        // A counter that begins again belongs to another container of that name.
        let same = before.filter(|before| before.start_time == self.start_time).and_then(Self::counter);
        let same = same.filter(|(_, earlier)| *earlier <= cpu);
        let (since, cpu_before) = same.or(self.start_time.map(|started| (started, 0)))?;
        let window = time.duration_since(since);
        if window < WINDOW_MIN {
            return None;
        }
        let nanocores = u128::from(cpu - cpu_before) * 1_000_000_000 / window.as_nanos().unsigned_abs();
        Some(Used {
            nanocores: i64::try_from(nanocores).ok()?,
            memory: i64::try_from(self.memory.as_ref()?.working_set_bytes?).ok()?,
            time,
            window,
        })
    }

    fn counter(&self) -> Option<(Timestamp, u64)> {
        let cpu = self.cpu.as_ref()?;
        Some((cpu.time, cpu.usage_core_nano_seconds?))
    }
}

impl Used {
    fn timestamp(&self) -> (&'static str, Value) {
        ("timestamp", seconds(self.time).into())
    }

    fn window(&self) -> (&'static str, Value) {
        ("window", go_duration(self.window).into())
    }

    fn quantities(&self) -> Value {
        json!({
            "cpu": Quantity::from_nano(self.nanocores, Format::DecimalSi).to_string(),
            "memory": Quantity::from_value(self.memory, Format::BinarySi).to_string(),
        })
    }
}

/// A metav1.Time.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// As Go writes a duration of a second or more: `1m0.5s`.
fn go_duration(duration: SignedDuration) -> String {
    let (seconds, nanoseconds) = (duration.as_secs(), duration.subsec_nanos());
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut out = String::new();
    if hours > 0 {
        out.push_str(&format!("{hours}h"));
    }
    if hours > 0 || minutes > 0 {
        out.push_str(&format!("{minutes}m"));
    }
    let seconds = format!("{seconds}.{nanoseconds:09}");
    out.push_str(seconds.trim_end_matches('0').trim_end_matches('.'));
    out.push('s');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node with one Pod of one container, at a second of a minute.
    fn at(second: i64, node: u64, started: i64, container: u64) -> Statistics {
        let time = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap().to_string();
        let counted = |started: i64, cpu: u64| {
            json!({"name": "c", "startTime": time(started), "cpu": {"time": time(second), "usageCoreNanoSeconds": cpu},
                "memory": {"time": time(second), "workingSetBytes": 3 << 20}})
        };
        let summary = json!({"node": counted(-100, node),
            "pods": [{"podRef": {"uid": "u"}, "containers": [counted(started, container)]}]});
        Statistics::parse(summary.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_rate_is_what_was_counted_between_two_measurements() {
        let usage = Usage::between(Some(&at(0, 0, -50, 7)), &at(10, 20_000_000_000, -50, 1_000_000_007));
        let wanted = [
            ("timestamp", json!("2027-01-15T08:00:10Z")),
            ("window", json!("10s")),
            ("usage", json!({"cpu": "2", "memory": "3Mi"})),
        ];
        assert_eq!(usage.node().unwrap(), wanted);
        assert_eq!(
            usage.pod("u").unwrap()[2].1,
            json!([{"name": "c", "usage": {"cpu": "100m", "memory": "3Mi"}}])
        );
        assert!(usage.pod("other").is_none());
    }

    #[test]
    fn a_container_started_since_is_measured_from_its_start() {
        let restarted = Usage::between(Some(&at(0, 0, -50, 7)), &at(10, 0, 6, 2_000_000_000));
        let pod = restarted.pod("u").unwrap();
        assert_eq!((&pod[1].1, &pod[2].1[0]["usage"]["cpu"]), (&json!("4s"), &json!("500m")));
        let just = Usage::between(Some(&at(0, 0, -50, 7)), &at(10, 0, 10, 5));
        assert!(just.pod("u").is_none(), "nothing can be said of it yet");
    }

    #[test]
    fn windows_are_written_as_go_does() {
        for (nanoseconds, text) in [
            (1_000_000_000, "1s"),
            (15_062_000_000, "15.062s"),
            (60_500_000_000, "1m0.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(SignedDuration::from_nanos(nanoseconds)), text);
        }
    }
}
