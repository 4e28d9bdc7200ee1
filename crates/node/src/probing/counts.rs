//! How often each probe succeeded and failed: `/metrics/probes`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;

use crate::pod::probe::{Outcome, ProbeKind};

/// What is counted apart. The UID comes first: all of a Pod is found and forgotten together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Counted {
    uid: String,
    namespace: String,
    pod: String,
    container: String,
    probe: &'static str,
    result: &'static str,
}

/// The counts of all Pods that are here.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<BTreeMap<Counted, u64>>);

impl Counts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Counted, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A probe has run.
    pub(crate) fn add(&self, pod: &Pod, container: &str, kind: ProbeKind, outcome: &Outcome) {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let counted = Counted {
            uid: text(&pod.metadata.uid),
            namespace: text(&pod.metadata.namespace),
            pod: text(&pod.metadata.name),
            container: container.to_owned(),
            probe: kind.word(),
            result: match outcome {
                Outcome::Success | Outcome::Warning(_) => "successful",
                Outcome::Failure(_) => "failed",
                Outcome::Error(_) => "unknown",
            },
        };
        *self.lock().entry(counted).or_default() += 1;
    }

    /// A Pod is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().retain(|counted, _| counted.uid != uid);
    }

    /// The text format of Prometheus, under the kubelet's name. What the labels hold are names that the API
    /// let in, in which nothing needs to be escaped.
    pub(crate) fn metrics(&self) -> String {
        let mut out =
            "# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe \
            for a container by result.\n# TYPE prober_probe_total counter\n"
                .to_owned();
        for (Counted { uid, namespace, pod, container, probe, result }, count) in self.lock().iter() {
            let _ = writeln!(
                out,
                "prober_probe_total{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\",\
                 pod_uid=\"{uid}\",probe_type=\"{probe}\",result=\"{result}\"}} {count}"
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_result_is_counted_until_the_pod_is_gone() {
        let pod = |name: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "uid": name}}))
                .unwrap()
        };
        let counts = Counts::default();
        for outcome in [Outcome::Success, Outcome::Failure("no".into()), Outcome::Warning("moved".into())] {
            counts.add(&pod("a"), "c", ProbeKind::Readiness, &outcome);
        }
        counts.add(&pod("b"), "c", ProbeKind::Liveness, &Outcome::Error("lost".into()));
        let text = counts.metrics();
        for line in [
            r#"prober_probe_total{container="c",namespace="n",pod="a",pod_uid="a",probe_type="Readiness",result="successful"} 2"#,
            r#"prober_probe_total{container="c",namespace="n",pod="a",pod_uid="a",probe_type="Readiness",result="failed"} 1"#,
            r#"prober_probe_total{container="c",namespace="n",pod="b",pod_uid="b",probe_type="Liveness",result="unknown"} 1"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        counts.forget("a");
        assert_eq!(counts.metrics().lines().count(), 3);
    }
}
