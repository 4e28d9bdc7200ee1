//! `/metrics/cadvisor`: what containers use, under the names and labels that dashboards ask for.

use super::stats::{ContainerUse, PodUse, Text, Usage, seconds};
use crate::shared::Shared;

/// What a node has.
pub(super) struct Machine {
    pub(super) cores: usize,
    pub(super) memory: i64,
    /// `machine_id`, `boot_id` and `system_uuid` of the Node object.
    pub(super) ids: [String; 3],
}

impl Machine {
    pub(super) fn of(node: &Shared) -> Self {
        let info = node.own_node.status.as_ref().and_then(|status| status.node_info.as_ref());
        let ids = info.map(|info| [&info.machine_id, &info.boot_id, &info.system_uuid].map(Clone::clone));
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: node.memory(),
            ids: ids.unwrap_or_default(),
        }
    }

    fn labels(&self) -> String {
        let [machine, boot, system] = &self.ids;
        labels(&[("boot_id", boot), ("machine_id", machine), ("system_uuid", system)])
    }
}

/// A family of numbers that each container has.
struct OfContainers {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// A label that the family has beside those of all.
    label: (&'static str, &'static str),
    value: fn(&ContainerUse) -> Option<String>,
}

const OF_CONTAINERS: [OfContainers; 7] = [
    OfContainers {
        name: "container_cpu_usage_seconds_total",
        kind: "counter",
        help: "Cumulative cpu time consumed in seconds.",
        label: ("cpu", "total"),
        value: |one| Some(seconds(one.used.cpu_nanoseconds)),
    },
    OfContainers {
        name: "container_fs_usage_bytes",
        kind: "gauge",
        help: "Number of bytes that are consumed by the container on this filesystem.",
        label: ("device", ""),
        value: |one| one.used.rootfs.map(|used| used.bytes.to_string()),
    },
    OfContainers {
        name: "container_memory_rss",
        kind: "gauge",
        help: "Size of RSS in bytes.",
        label: ("", ""),
        value: |one| Some(one.used.memory_rss.to_string()),
    },
    OfContainers {
        name: "container_memory_usage_bytes",
        kind: "gauge",
        help: "Current memory usage in bytes, including all memory regardless of when it was accessed",
        label: ("", ""),
        value: |one| Some(one.used.memory_usage.to_string()),
    },
    OfContainers {
        name: "container_memory_working_set_bytes",
        kind: "gauge",
        help: "Current working set in bytes.",
        label: ("", ""),
        value: |one| Some(one.used.memory_working_set.to_string()),
    },
    OfContainers {
        name: "container_start_time_seconds",
        kind: "gauge",
        help: "Start time of the container since unix epoch in seconds.",
        label: ("", ""),
        value: |one| one.started.map(|started| started.as_second().to_string()),
    },
    OfContainers {
        name: "container_threads",
        kind: "gauge",
        help: "Number of threads running inside the container",
        label: ("", ""),
        value: |one| Some(one.used.pids.to_string()),
    },
];

/// A family of numbers that each interface of a Pod has.
type OfInterfaces = (&'static str, &'static str, fn(&runtime::Traffic) -> u64);

const OF_INTERFACES: [OfInterfaces; 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |one| one.received.bytes),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |one| one.received.errors,
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |one| one.received.dropped,
    ),
    ("container_network_receive_packets_total", "Cumulative count of packets received", |one| {
        one.received.packets
    }),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |one| {
        one.transmitted.bytes
    }),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |one| one.transmitted.errors,
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |one| one.transmitted.dropped,
    ),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |one| {
        one.transmitted.packets
    }),
];

/// All families, each with its lines together.
pub(super) fn metrics(usage: &Usage, machine: &Machine) -> String {
    let mut text = Text::at(usage.time);
    for family in &OF_CONTAINERS {
        text.unstable_family(family.name, family.kind, family.help);
        for (value, extra) in of_root(usage, family.name).into_iter().map(|value| (value, family.label)) {
            let all = [
                extra,
                ("container", ""),
                ("id", "/"),
                ("image", ""),
                ("name", ""),
                ("namespace", ""),
                ("pod", ""),
            ];
            text.line(family.name, &labels(&all), value);
        }
        for (pod, one) in usage.pods.iter().flat_map(|pod| pod.containers.iter().map(move |one| (pod, one))) {
            if let Some(value) = (family.value)(one) {
                text.line(family.name, &of_container(pod, one, family.label), value);
            }
        }
    }
    for (name, help, value) in OF_INTERFACES {
        text.unstable_family(name, "counter", help);
        for (pod, traffic) in usage.pods.iter().filter_map(|pod| Some((pod, pod.traffic.as_ref()?))) {
            text.line(name, &of_interface(pod, traffic), value(traffic));
        }
    }
    let of_machine = machine.labels();
    text.unstable_family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    text.line("machine_cpu_cores", &of_machine, machine.cores);
    text.unstable_family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    text.line("machine_memory_bytes", &of_machine, machine.memory);
    text.out
}

/// What the whole machine uses, for the families that have it.
fn of_root(usage: &Usage, family: &str) -> Option<String> {
    let used = usage.node.as_ref()?;
    match family {
        "container_cpu_usage_seconds_total" => Some(seconds(used.cpu_nanoseconds)),
        "container_memory_working_set_bytes" => Some(used.memory_working_set.to_string()),
        _ => None,
    }
}

fn of_container(pod: &PodUse, one: &ContainerUse, extra: (&str, &str)) -> String {
    labels(&[
        extra,
        ("container", &one.name),
        ("id", &one.used.cgroup),
        ("image", &one.image),
        ("name", &one.used.id),
        ("namespace", &pod.namespace),
        ("pod", &pod.name),
    ])
}

fn of_interface(pod: &PodUse, traffic: &runtime::Traffic) -> String {
    labels(&[
        ("container", ""),
        ("image", ""),
        ("interface", &traffic.interface),
        ("name", &traffic.sandbox),
        ("namespace", &pod.namespace),
        ("pod", &pod.name),
    ])
}

/// `a="b",c="d"`, with what the format says of characters in values. A label without a name is none.
pub(super) fn labels(all: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let named = all.iter().filter(|(name, _)| !name.is_empty());
    let shown: Vec<String> = named.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    shown.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::stats::tests::usage;

    #[test]
    fn dashboards_find_their_names_and_labels() {
        let machine = Machine { cores: 2, memory: 1024, ids: ["m".into(), "b".into(), "s".into()] };
        let text = metrics(&usage(), &machine);
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            r#"container_cpu_usage_seconds_total{cpu="total",container="a",id="/kubepods/pod-u/a",image="busybox:1.36",name="id-a",namespace="shop",pod="web"} 1.500000000 1800000001000"#,
            r#"container_memory_working_set_bytes{container="b",id="/kubepods/pod-u/b",image="busybox:1.36",name="id-b",namespace="shop",pod="web"} 1 1800000001000"#,
            r#"container_fs_usage_bytes{device="",container="a",id="/kubepods/pod-u/a",image="busybox:1.36",name="id-a",namespace="shop",pod="web"} 512 1800000001000"#,
            r#"container_network_receive_bytes_total{container="",image="",interface="eth0",name="s",namespace="shop",pod="web"} 7 1800000001000"#,
            r#"container_network_transmit_bytes_total{container="",image="",interface="eth0",name="s",namespace="shop",pod="web"} 9 1800000001000"#,
            r#"machine_cpu_cores{boot_id="b",machine_id="m",system_uuid="s"} 2 1800000001000"#,
            r#"machine_memory_bytes{boot_id="b",machine_id="m",system_uuid="s"} 1024 1800000001000"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_value_ends_where_it_ends() {
        assert_eq!(labels(&[("", "x"), ("a", "q\"\\\n")]), "a=\"q\\\"\\\\\\n\"");
    }
}
