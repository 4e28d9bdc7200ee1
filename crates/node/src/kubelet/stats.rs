//! What the node and its Pods use now: `/stats/summary`, and `/metrics/resource` for Prometheus.
//!
//! Everything is counted by the kernel and read when it is asked for; rates are made by those who ask twice.

use std::fmt::Write as _;

use jiff::Timestamp;
use runtime::{ContainerStats, Measured, Traffic};
use serde_json::{Value, json};

use super::{bare_id, statuses};
use crate::host::{self, HostUse};
use crate::shared::{Shared, Worker};

/// One measurement.
pub(super) struct Usage {
    pub(super) time: Timestamp,
    pub(super) node: Option<HostUse>,
    pub(super) pods: Vec<PodUse>,
}

pub(super) struct PodUse {
    pub(super) name: String,
    pub(super) namespace: String,
    uid: String,
    started: Option<Timestamp>,
    pub(super) containers: Vec<ContainerUse>,
    /// Of its own interface, if it has one.
    pub(super) traffic: Option<Traffic>,
}

pub(super) struct ContainerUse {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) started: Option<Timestamp>,
    pub(super) used: ContainerStats,
}

impl Usage {
    /// Reads what runs.
    pub(super) async fn measure(node: &Shared, measured: Measured) -> Result<Self, runtime::Error> {
        let used = node.runtime.stats(measured).await?;
        let traffic = match measured {
            Measured::All => node.runtime.traffic().await?,
            Measured::CpuAndMemory => Vec::new(),
        };
        let time = Timestamp::now();
        let workers: Vec<Worker> = node.workers().values().cloned().collect();
        let mut pods: Vec<PodUse> =
            workers.iter().map(|worker| PodUse::of(worker, &used, &traffic)).collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(Self { time, node: host::used(), pods })
    }

    /// Upstream's summary, as far as it is known here.
    pub(super) fn summary(&self, node_name: &str) -> Value {
        let mut node = json!({ "nodeName": node_name });
        if let Some(used) = &self.node {
            node["startTime"] = json!(used.booted);
            node["cpu"] = self.cpu(used.cpu_nanoseconds);
            node["memory"] = self.memory(used.memory_working_set);
            node["memory"]["availableBytes"] = used.memory_available.into();
        }
        json!({ "node": node, "pods": self.pods.iter().map(|pod| self.pod(pod)).collect::<Vec<_>>() })
    }

    fn pod(&self, pod: &PodUse) -> Value {
        let container = |one: &ContainerUse| {
            let mut shown = json!({
                "name": one.name,
                "startTime": one.started,
                "cpu": self.cpu(one.used.cpu_nanoseconds),
                "memory": self.memory(one.used.memory_working_set),
            });
            shown["memory"]["usageBytes"] = one.used.memory_usage.into();
            shown["memory"]["rssBytes"] = one.used.memory_rss.into();
            shown["memory"]["pageFaults"] = one.used.page_faults.into();
            shown["memory"]["majorPageFaults"] = one.used.major_page_faults.into();
            if let Some(used) = one.used.rootfs {
                shown["rootfs"] =
                    json!({ "time": self.time, "usedBytes": used.bytes, "inodesUsed": used.inodes });
            }
            shown
        };
        let mut shown = json!({
            "podRef": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid },
            "startTime": pod.started,
            "containers": pod.containers.iter().map(container).collect::<Vec<_>>(),
            "cpu": self.cpu(pod.cpu_nanoseconds()),
            "memory": self.memory(pod.memory_working_set()),
        });
        if let Some(traffic) = &pod.traffic {
            shown["network"] = self.network(traffic);
        }
        shown
    }

    /// The one interface, and the same as the sum of all.
    fn network(&self, traffic: &Traffic) -> Value {
        let (received, transmitted) = (traffic.received, traffic.transmitted);
        let mut interface = json!({
            "name": traffic.interface,
            "rxBytes": received.bytes, "rxErrors": received.errors,
            "txBytes": transmitted.bytes, "txErrors": transmitted.errors,
        });
        let all = interface.clone();
        interface["time"] = json!(self.time);
        interface["interfaces"] = json!([all]);
        interface
    }

    fn cpu(&self, nanoseconds: u64) -> Value {
        json!({ "time": self.time, "usageCoreNanoSeconds": nanoseconds })
    }

    fn memory(&self, working_set: u64) -> Value {
        json!({ "time": self.time, "workingSetBytes": working_set })
    }

    /// The same in the text format of Prometheus, under the kubelet's names.
    pub(super) fn metrics(&self) -> String {
        let mut text = Text::at(self.time);
        let containers: Vec<(String, &ContainerUse)> = self
            .pods
            .iter()
            .flat_map(|pod| {
                let of_pod = format!("namespace=\"{}\",pod=\"{}\"", pod.namespace, pod.name);
                pod.containers.iter().map(move |one| (format!("container=\"{}\",{of_pod}", one.name), one))
            })
            .collect();
        let pods = || {
            self.pods.iter().map(|pod| (format!("namespace=\"{}\",pod=\"{}\"", pod.namespace, pod.name), pod))
        };
        text.family(
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
        );
        containers.iter().for_each(|(labels, one)| {
            text.line("container_cpu_usage_seconds_total", labels, seconds(one.used.cpu_nanoseconds));
        });
        text.family(
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set of the container in bytes",
        );
        containers.iter().for_each(|(labels, one)| {
            text.line("container_memory_working_set_bytes", labels, one.used.memory_working_set);
        });
        text.family(
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds",
        );
        containers.iter().for_each(|(labels, one)| {
            let started = one.started.map_or(0, |started| started.as_second());
            text.line("container_start_time_seconds", labels, started);
        });
        if let Some(node) = &self.node {
            text.family(
                "node_cpu_usage_seconds_total",
                "counter",
                "Cumulative cpu time consumed by the node in core-seconds",
            );
            text.line("node_cpu_usage_seconds_total", "", seconds(node.cpu_nanoseconds));
            text.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
            text.line("node_memory_working_set_bytes", "", node.memory_working_set);
        }
        text.family(
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
        );
        pods().for_each(|(labels, pod)| {
            text.line("pod_cpu_usage_seconds_total", &labels, seconds(pod.cpu_nanoseconds()));
        });
        text.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
        pods().for_each(|(labels, pod)| {
            text.line("pod_memory_working_set_bytes", &labels, pod.memory_working_set());
        });
        text.family(
            "resource_scrape_error",
            "gauge",
            "1 if there was an error while getting container metrics, 0 otherwise",
        );
        text.out.push_str("resource_scrape_error 0\n");
        text.out
    }
}

impl PodUse {
    fn of(worker: &Worker, used: &[ContainerStats], traffic: &[Traffic]) -> Self {
        let (metadata, status) = (&worker.pod.metadata, worker.pod.status.as_ref());
        let containers = statuses(&worker.pod).filter_map(|status| {
            let id = bare_id(status.container_id.as_deref()?);
            let running = status.state.as_ref().and_then(|state| state.running.as_ref());
            let started = running.and_then(|running| running.started_at.as_ref()).map(|time| time.0);
            let used = used.iter().find(|one| one.id == id)?.clone();
            Some(ContainerUse { name: status.name.clone(), image: status.image.clone(), started, used })
        });
        let traffic = traffic.iter().find(|one| worker.sandbox.as_ref() == Some(&one.sandbox));
        Self {
            name: metadata.name.clone().unwrap_or_default(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            started: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            containers: containers.collect(),
            traffic: traffic.cloned(),
        }
    }

    fn cpu_nanoseconds(&self) -> u64 {
        self.containers.iter().map(|one| one.used.cpu_nanoseconds).sum()
    }

    fn memory_working_set(&self) -> u64 {
        self.containers.iter().map(|one| one.used.memory_working_set).sum()
    }
}

/// Exact where a float would not be.
pub(super) fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

/// The text format of Prometheus.
pub(super) struct Text {
    pub(super) out: String,
    milliseconds: i64,
}

impl Text {
    /// Nothing yet of what was measured at this time.
    pub(super) fn at(time: Timestamp) -> Self {
        Self { out: String::new(), milliseconds: time.as_millisecond() }
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.unstable_family(name, kind, &format!("[STABLE] {help}"));
    }

    /// A family whose name may change with a release.
    pub(super) fn unstable_family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn line(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.out, "{name}{labels} {value} {}", self.milliseconds);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use runtime::Counters;

    use super::*;

    pub(in super::super) fn usage() -> Usage {
        let container = |name: &str, cpu, memory| ContainerUse {
            name: name.to_owned(),
            image: "busybox:1.36".to_owned(),
            started: Some("2027-01-15T08:00:00Z".parse().unwrap()),
            used: ContainerStats {
                id: format!("id-{name}"),
                cgroup: format!("/kubepods/pod-u/{name}"),
                rootfs: Some(runtime::DiskUse { bytes: 512, inodes: 1 }),
                cpu_nanoseconds: cpu,
                memory_working_set: memory,
                ..ContainerStats::default()
            },
        };
        let pod = PodUse {
            name: "web".into(),
            namespace: "shop".into(),
            uid: "u".into(),
            started: None,
            containers: vec![container("a", 1_500_000_000, 4096), container("b", 250, 1)],
            traffic: Some(Traffic {
                sandbox: "s".into(),
                interface: "eth0".into(),
                received: Counters { bytes: 7, ..Counters::default() },
                transmitted: Counters { bytes: 9, ..Counters::default() },
            }),
        };
        Usage { time: "2027-01-15T08:00:01Z".parse().unwrap(), node: None, pods: vec![pod] }
    }

    #[test]
    fn the_summary_has_each_container_and_the_sum_of_the_pod() {
        let summary = usage().summary("n1");
        let pod = &summary["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "shop", "uid": "u"}));
        assert_eq!(
            pod["containers"][0],
            json!({
                "name": "a", "startTime": "2027-01-15T08:00:00Z",
                "cpu": {"time": "2027-01-15T08:00:01Z", "usageCoreNanoSeconds": 1_500_000_000},
                "memory": {"time": "2027-01-15T08:00:01Z", "workingSetBytes": 4096, "usageBytes": 0, "rssBytes": 0,
                    "pageFaults": 0, "majorPageFaults": 0},
                "rootfs": {"time": "2027-01-15T08:00:01Z", "usedBytes": 512, "inodesUsed": 1},
            })
        );
        assert_eq!(
            (&pod["network"]["rxBytes"], &pod["network"]["interfaces"][0]["txBytes"]),
            (&json!(7), &json!(9))
        );
        assert_eq!(
            (&pod["cpu"]["usageCoreNanoSeconds"], &pod["memory"]["workingSetBytes"]),
            (&json!(1_500_000_250), &json!(4097))
        );
    }

    #[test]
    fn prometheus_is_told_the_same_under_the_names_of_the_kubelet() {
        let text = usage().metrics();
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            r#"container_cpu_usage_seconds_total{container="a",namespace="shop",pod="web"} 1.500000000 1800000001000"#,
            r#"container_start_time_seconds{container="b",namespace="shop",pod="web"} 1800000000 1800000001000"#,
            r#"pod_memory_working_set_bytes{namespace="shop",pod="web"} 4097 1800000001000"#,
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }
}
