//! Pods: the STATUS column is a small history of its own.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cell::{Cell, cell};
use super::common::{Row, parse, text};

pub(crate) fn pod(row: Row<'_>) -> Vec<Cell> {
    let summary = Summary::of(row);
    let restarts = match summary.last_restart {
        Some(moment) if summary.restarts != 0 => {
            Cell::Ago { before: format!("{} (", summary.restarts), moment, after: " ago)" }
        }
        _ => cell(summary.restarts.to_string()),
    };
    let ip = row.at("/status/podIPs/0/ip").and_then(Value::as_str).filter(|ip| !ip.is_empty());
    vec![
        cell(row.name()),
        cell(format!("{}/{}", summary.ready, summary.total)),
        cell(summary.status),
        restarts,
        row.age(),
        cell(ip.unwrap_or("<none>")),
        cell(row.text_or("/spec/nodeName", "<none>")),
        cell(row.text_or("/status/nominatedNodeName", "<none>")),
        cell(readiness_gates(row)),
    ]
}

fn readiness_gates(row: Row<'_>) -> String {
    let gates = row.list("/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = gates.iter().filter(|g| row.condition(text(g, "conditionType")) == Some("True")).count();
    format!("{passed}/{}", gates.len())
}

/// What the containers add up to.
struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Restarts counted, with the time of the last.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container["restartCount"].as_i64().unwrap_or_default();
        let finished = container.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str);
        self.last = self.last.max(finished.and_then(parse));
    }
}

impl Summary {
    fn of(row: Row<'_>) -> Self {
        let phase = row.text("/status/phase");
        let mut status = row.text_or("/status/reason", phase).to_owned();
        let gated = |c: &&Value| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated";
        if row.list("/status/conditions").iter().any(|c| gated(&c)) {
            status = "SchedulingGated".to_owned();
        }
        let sidecars = row.list("/spec/initContainers").iter().filter(|c| is_sidecar(c)).count();
        let mut summary = Self {
            status,
            ready: 0,
            total: row.list("/spec/containers").len() + sidecars,
            restarts: 0,
            last_restart: None,
        };
        let (all, of_sidecars, initializing) = summary.init_containers(row);
        let counted = if !initializing || row.condition("Initialized") == Some("True") {
            summary.containers(row, of_sidecars)
        } else {
            all
        };
        summary.restarts = counted.count;
        summary.last_restart = counted.last;
        if row.is_being_deleted() {
            let terminal = matches!(phase, "Succeeded" | "Failed");
            if row.text("/status/reason") == "NodeLost" {
                summary.status = "Unknown".to_owned();
            } else if !terminal {
                summary.status = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Goes through the init containers up to the first that is not done: restarts of all
    /// of them, of the sidecars alone, and whether one is not done.
    fn init_containers(&mut self, row: Row<'_>) -> (Restarts, Restarts, bool) {
        let specs = row.list("/spec/initContainers");
        let (mut all, mut of_sidecars) = (Restarts::default(), Restarts::default());
        for (i, container) in row.list("/status/initContainerStatuses").iter().enumerate() {
            all.add(container);
            let spec = specs.iter().find(|s| text(s, "name") == text(container, "name"));
            let sidecar = spec.is_some_and(is_sidecar);
            if sidecar {
                of_sidecars.add(container);
            }
            let terminated = container.pointer("/state/terminated");
            if terminated.is_some_and(|t| t["exitCode"] == 0) {
                continue;
            }
            if sidecar && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            let waiting =
                container.pointer("/state/waiting/reason").and_then(Value::as_str).unwrap_or_default();
            self.status = match terminated {
                Some(t) => format!("Init:{}", ended(t)),
                None if !matches!(waiting, "" | "PodInitializing") => format!("Init:{waiting}"),
                None => format!("Init:{i}/{}", specs.len()),
            };
            return (all, of_sidecars, true);
        }
        (all, of_sidecars, false)
    }

    /// Goes through the containers from the last to the first, so that the first one's
    /// state is the one shown.
    fn containers(&mut self, row: Row<'_>, mut restarts: Restarts) -> Restarts {
        let mut running = false;
        for container in row.list("/status/containerStatuses").iter().rev() {
            restarts.add(container);
            let waiting =
                container.pointer("/state/waiting/reason").and_then(Value::as_str).unwrap_or_default();
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if let Some(terminated) = container.pointer("/state/terminated") {
                self.status = ended(terminated);
            } else if container["ready"] == true && container.pointer("/state/running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && running {
            let ready = row.condition("Ready") == Some("True");
            self.status = if ready { "Running" } else { "NotReady" }.to_owned();
        }
        restarts
    }
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// How a container ended, if nobody said why: by signal or exit code.
fn ended(terminated: &Value) -> String {
    let reason = text(terminated, "reason");
    let signal = terminated["signal"].as_i64().unwrap_or_default();
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// What the row says of a Pod as a whole: that it is done.
pub(crate) fn conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match pod["status"]["phase"].as_str()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

pub(crate) fn pod_template(row: Row<'_>) -> Vec<Cell> {
    let (names, images) = row.containers("/template/spec/containers");
    vec![cell(row.name()), cell(names), cell(images), cell(row.labels("/template/metadata/labels"))]
}

#[cfg(test)]
mod tests {
    use super::super::cell::shown;
    use super::*;

    fn cells(object: &Value) -> Vec<Value> {
        shown(pod(Row { object }))
    }

    fn status(object: &Value) -> String {
        cells(object)[2].as_str().unwrap().to_owned()
    }

    fn running(name: &str) -> Value {
        json!({"name": name, "ready": true, "restartCount": 0, "state": {"running": {}}})
    }

    #[test]
    fn a_running_pod_shows_everything() {
        let object = json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:55:00Z"},
            "spec": {"nodeName": "one", "containers": [{"name": "c"}], "readinessGates": [{"conditionType": "g"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.1.2.3"}], "containerStatuses": [running("c")],
                       "conditions": [{"type": "g", "status": "True"}]},
        });
        assert_eq!(cells(&object), ["web", "1/1", "Running", "0", "5m", "10.1.2.3", "one", "<none>", "1/1"]);
    }

    #[test]
    fn a_crashing_container_shows_why_and_when_it_last_ended() {
        let object = json!({
            "metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "c", "ready": false, "restartCount": 4,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 3, "finishedAt": "2026-01-01T00:57:00Z"}},
            }]},
        });
        assert_eq!(cells(&object)[1..4], ["0/1", "CrashLoopBackOff", "4 (3m ago)"]);
    }

    #[test]
    fn init_containers_are_counted_until_they_are_done() {
        let pod = |state: Value| {
            json!({
                "spec": {"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "c"}]},
                "status": {"phase": "Pending", "initContainerStatuses": [
                    {"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": state}]},
            })
        };
        assert_eq!(status(&pod(json!({"running": {}}))), "Init:1/2");
        assert_eq!(status(&pod(json!({"waiting": {"reason": "PodInitializing"}}))), "Init:1/2");
        assert_eq!(status(&pod(json!({"waiting": {"reason": "CrashLoopBackOff"}}))), "Init:CrashLoopBackOff");
        assert_eq!(status(&pod(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))), "Init:Error");
        assert_eq!(status(&pod(json!({"terminated": {"exitCode": 2}}))), "Init:ExitCode:2");
        assert_eq!(status(&pod(json!({"terminated": {"exitCode": 137, "signal": 9}}))), "Init:Signal:9");
    }

    #[test]
    fn sidecars_count_in_ready() {
        let object = json!({
            "spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "c"}]},
            "status": {"phase": "Running",
                "initContainerStatuses": [{"name": "s", "ready": true, "started": true, "restartCount": 1, "state": {"running": {}}}],
                "containerStatuses": [running("c")]},
        });
        assert_eq!(cells(&object)[1..4], ["2/2", "Running", "1"]);
    }

    #[test]
    fn a_completed_container_beside_a_running_one_is_not_the_end() {
        let pod = |ready: &str| {
            json!({
                "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
                    "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}, running("b")]},
            })
        };
        assert_eq!(status(&pod("True")), "Running");
        assert_eq!(status(&pod("False")), "NotReady");
    }

    #[test]
    fn deletion_shows_unless_the_pod_is_done() {
        let pod = |phase: &str, reason: &str| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": phase, "reason": reason}});
        assert_eq!(status(&pod("Running", "")), "Terminating");
        assert_eq!(status(&pod("Running", "NodeLost")), "Unknown");
        assert_eq!(status(&pod("Failed", "Evicted")), "Evicted");
    }

    #[test]
    fn a_gated_pod_says_so() {
        let object = json!({"status": {"phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}});
        assert_eq!(status(&object), "SchedulingGated");
    }
}
