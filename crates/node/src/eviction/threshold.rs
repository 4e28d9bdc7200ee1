//! What a node keeps free, as the kubelet's flags say it.

use std::collections::BTreeMap;
use std::time::Duration;

use api::quantity::Quantity;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that is free, or that can be taken back easily.
    MemoryAvailable,
    /// The same of what all Pods together may have. Watched wherever the first is, as upstream does.
    AllocatableMemoryAvailable,
    /// Bytes of the file system with volumes, logs and writable layers.
    NodeFsAvailable,
    /// Inodes of the same.
    NodeFsInodesFree,
    /// Bytes of the file system with the images.
    ImageFsAvailable,
    /// Inodes of the same.
    ImageFsInodesFree,
    /// Process numbers.
    PidAvailable,
}

impl Signal {
    const ALL: [(&'static str, Signal); 6] = [
        ("memory.available", Signal::MemoryAvailable),
        ("nodefs.available", Signal::NodeFsAvailable),
        ("nodefs.inodesFree", Signal::NodeFsInodesFree),
        ("imagefs.available", Signal::ImageFsAvailable),
        ("imagefs.inodesFree", Signal::ImageFsInodesFree),
        ("pid.available", Signal::PidAvailable),
    ];

    fn named(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, signal)| *signal).ok_or_else(|| format!("unsupported eviction signal {name}"))
    }

    /// What has to be taken back.
    pub fn resource(self) -> Resource {
        match self {
            Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable => Resource::Memory,
            Signal::NodeFsAvailable | Signal::ImageFsAvailable => Resource::EphemeralStorage,
            Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => Resource::Inodes,
            Signal::PidAvailable => Resource::Pids,
        }
    }

    /// What the Node says meanwhile.
    pub fn pressure(self) -> Pressure {
        match self.resource() {
            Resource::Memory => Pressure::Memory,
            Resource::EphemeralStorage | Resource::Inodes => Pressure::Disk,
            Resource::Pids => Pressure::Pid,
        }
    }

    /// Whether images and ended containers take of it.
    pub fn is_of_disk(self) -> bool {
        self.pressure() == Pressure::Disk
    }
}

/// What is scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bytes of memory.
    Memory,
    /// Bytes of a disk.
    EphemeralStorage,
    /// Files.
    Inodes,
    /// Processes.
    Pids,
}

impl Resource {
    /// Upstream's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::EphemeralStorage => "ephemeral-storage",
            Resource::Inodes => "inodes",
            Resource::Pids => "pids",
        }
    }

    /// An amount that was measured, as upstream prints it.
    pub fn shown(self, amount: u64) -> String {
        match self {
            Resource::Memory | Resource::EphemeralStorage => binary(amount),
            Resource::Inodes | Resource::Pids => reduced(amount, 1000, ["k", "M", "G", "T", "P", "E"]),
        }
    }
}

/// A quantity of bytes in the largest unit in which it is whole.
pub fn binary(bytes: u64) -> String {
    // Upstream's quantities below 1024 are decimal whatever they were made as.
    match bytes {
        0..1024 => reduced(bytes, 1000, ["k", "M", "G", "T", "P", "E"]),
        _ => reduced(bytes, 1024, ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]),
    }
}

fn reduced(mut amount: u64, by: u64, units: [&str; 6]) -> String {
    let mut unit = "";
    for next in units {
        if amount == 0 || !amount.is_multiple_of(by) {
            break;
        }
        (amount, unit) = (amount / by, next);
    }
    format!("{amount}{unit}")
}

/// A condition of the Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pid,
}

impl Pressure {
    /// The type of the condition.
    pub fn condition(self) -> &'static str {
        match self {
            Pressure::Memory => "MemoryPressure",
            Pressure::Disk => "DiskPressure",
            Pressure::Pid => "PIDPressure",
        }
    }
}

/// So much, or such a part of all there is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// So much, and how it was written.
    Amount(u64, String),
    /// From 0 to 1.
    Part(f64),
}

impl Value {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| format!("{text:?} is no percentage"))?;
            return Ok(Value::Part(percent / 100.0));
        }
        let amount: Quantity = text.parse().map_err(|_| format!("{text:?} is no quantity"))?;
        match u64::try_from(amount.value()) {
            Ok(value) => Ok(Value::Amount(value, text.to_owned())),
            Err(_) => Err(format!("{text:?} must be positive")),
        }
    }

    /// Of such a capacity.
    pub fn of(&self, capacity: u64) -> u64 {
        match self {
            Value::Amount(amount, _) => *amount,
            // Rounded down, as upstream does; an f64 holds every size of a disk well enough for a part of it.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            Value::Part(part) => (capacity as f64 * part) as u64,
        }
    }

    /// As it is told to those who have to go for it.
    pub fn shown(&self, resource: Resource, capacity: u64) -> String {
        match self {
            Value::Amount(_, text) => text.clone(),
            Value::Part(_) => resource.shown(self.of(capacity)),
        }
    }
}

/// When something has to go.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// What is watched.
    pub signal: Signal,
    /// With less than this.
    pub value: Value,
    /// For so long; zero: a hard threshold.
    pub grace_period: Duration,
    /// So much more has to be free before it is over.
    pub minimum_reclaim: Option<Value>,
}

impl Threshold {
    /// Whether there is no waiting.
    pub fn is_hard(&self) -> bool {
        self.grace_period.is_zero()
    }
}

/// When Pods are evicted, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    /// Hard ones first, in the order of the signals.
    pub thresholds: Vec<Threshold>,
    /// So long a condition of the Node stays after it was last seen.
    pub pressure_transition_period: Duration,
    /// What a Pod is granted at most when a soft threshold is met.
    pub max_pod_grace_period_seconds: i64,
}

/// Names and values of the flags.
pub type Statements = BTreeMap<String, String>;

impl Default for Eviction {
    fn default() -> Self {
        let none = Statements::new();
        let parsed = Self::parse(&default_hard(), &none, &none, &none);
        parsed.expect("upstream's defaults are well-formed")
    }
}

/// The kubelet's on Linux.
pub fn default_hard() -> Statements {
    let all = [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ];
    all.map(|(signal, value)| (signal.to_owned(), value.to_owned())).into()
}

impl Eviction {
    /// Reads what the four flags say.
    ///
    /// # Errors
    /// What is wrong, by name.
    pub fn parse(
        hard: &Statements,
        soft: &Statements,
        soft_grace_period: &Statements,
        minimum_reclaim: &Statements,
    ) -> Result<Self, String> {
        let mut thresholds = parse_thresholds(hard)?;
        let periods = parse_all(soft_grace_period, "grace period", parse_duration)?;
        for mut threshold in parse_thresholds(soft)? {
            let period = periods.get(&threshold.signal);
            let name = name(threshold.signal);
            threshold.grace_period = *period.ok_or_else(|| {
                format!("grace period must be specified for the soft eviction threshold {name}")
            })?;
            thresholds.push(threshold);
        }
        let reclaims = parse_all(minimum_reclaim, "minimum reclaim", Value::parse)?;
        for threshold in &mut thresholds {
            threshold.minimum_reclaim = reclaims.get(&threshold.signal).cloned();
        }
        let of_all = thresholds.iter().filter(|one| one.signal == Signal::MemoryAvailable && one.is_hard());
        let of_pods =
            of_all.cloned().map(|one| Threshold { signal: Signal::AllocatableMemoryAvailable, ..one });
        thresholds.extend(of_pods.collect::<Vec<_>>());
        Ok(Eviction {
            thresholds,
            pressure_transition_period: Duration::from_secs(300),
            max_pod_grace_period_seconds: 0,
        })
    }

    /// The hard threshold of a signal, of such a capacity: what Pods cannot have.
    pub fn kept_free(&self, signal: Signal, capacity: u64) -> u64 {
        let hard = self.thresholds.iter().find(|one| one.signal == signal && one.is_hard());
        hard.map_or(0, |threshold| threshold.value.of(capacity))
    }
}

/// The name of a signal in the flags.
pub fn name(signal: Signal) -> &'static str {
    Signal::ALL
        .iter()
        .find(|(_, known)| *known == signal)
        .map_or("allocatableMemory.available", |(name, _)| name)
}

fn parse_thresholds(statements: &Statements) -> Result<Vec<Threshold>, String> {
    let mut all = Vec::new();
    for (signal, value) in parse_all(statements, "threshold", Value::parse)? {
        let text = statements.get(name(signal)).map_or("", String::as_str);
        match value {
            // Upstream's way to switch one off.
            Value::Part(part) if part == 0.0 || part == 1.0 => continue,
            Value::Part(part) if !(0.0..=1.0).contains(&part) => {
                return Err(format!(
                    "eviction percentage threshold {} must be <= 100%: {text}",
                    name(signal)
                ));
            }
            Value::Amount(0, _) => {
                return Err(format!("eviction threshold {} must be positive: {text}", name(signal)));
            }
            value => {
                let grace_period = Duration::ZERO;
                all.push(Threshold { signal, value, grace_period, minimum_reclaim: None });
            }
        }
    }
    Ok(all)
}

fn parse_all<T>(
    statements: &Statements,
    what: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeMap<Signal, T>, String> {
    let one = |(name, text): (&String, &String)| {
        let value = parse(text).map_err(|err| format!("eviction {what} of {name}: {err}"))?;
        Ok((Signal::named(name)?, value))
    };
    statements.iter().map(one).collect()
}

/// A duration as Go writes it: `1m30s`, `500ms`, `0`.
///
/// # Errors
/// It is none, or negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: 90s and 1m30s are");
    let (mut rest, mut total) = (text, 0.0);
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        let seconds = match &rest[end..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        total += number * seconds;
        rest = &rest[unit_end..];
    }
    let parsed = Duration::try_from_secs_f64(total).map_err(|_| wrong())?;
    if text.is_empty() { Err(wrong()) } else { Ok(parsed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(pairs: &[(&str, &str)]) -> Statements {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn thresholds_are_read_as_the_kubelet_reads_them() {
        let hard = statements(&[
            ("memory.available", "100Mi"),
            ("nodefs.available", "10%"),
            ("pid.available", "0%"),
        ]);
        let soft = statements(&[("memory.available", "1Gi")]);
        let grace = statements(&[("memory.available", "1m30s")]);
        let reclaim = statements(&[("nodefs.available", "500Mi")]);
        let parsed = Eviction::parse(&hard, &soft, &grace, &reclaim).unwrap();
        let shown = |one: &Threshold| {
            (name(one.signal), one.value.of(1000), one.grace_period.as_secs(), one.minimum_reclaim.is_some())
        };
        assert_eq!(
            parsed.thresholds.iter().map(shown).collect::<Vec<_>>(),
            [
                ("memory.available", 100 << 20, 0, false),
                ("nodefs.available", 100, 0, true),
                ("memory.available", 1 << 30, 90, false),
                ("allocatableMemory.available", 100 << 20, 0, false),
            ]
        );
        assert_eq!(
            (parsed.kept_free(Signal::NodeFsAvailable, 50), parsed.kept_free(Signal::PidAvailable, 50)),
            (5, 0)
        );
    }

    #[test]
    fn what_is_wrong_with_a_flag_is_said_by_name() {
        let none = Statements::new();
        let hard =
            |name, value| Eviction::parse(&statements(&[(name, value)]), &none, &none, &none).unwrap_err();
        assert_eq!(hard("cpu.available", "1"), "unsupported eviction signal cpu.available");
        assert_eq!(hard("memory.available", "0"), "eviction threshold memory.available must be positive: 0");
        assert_eq!(
            hard("memory.available", "101%"),
            "eviction percentage threshold memory.available must be <= 100%: 101%"
        );
        assert!(hard("memory.available", "much").contains("memory.available"));
        let soft = statements(&[("memory.available", "1Gi")]);
        assert_eq!(
            Eviction::parse(&none, &soft, &none, &none).unwrap_err(),
            "grace period must be specified for the soft eviction threshold memory.available"
        );
    }

    #[test]
    fn durations_and_amounts_are_those_of_go() {
        for (text, milliseconds) in
            [("1m30s", 90_000), ("500ms", 500), ("0", 0), ("1h", 3_600_000), ("1.5s", 1500)]
        {
            assert_eq!(parse_duration(text).unwrap().as_millis(), milliseconds, "{text}");
        }
        for text in ["", "5", "-1s", "1x", "s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let shown = [2 << 20, 1023 << 10, 1000, 1025, 0].map(binary);
        assert_eq!(shown, ["2Mi", "1023Ki", "1k", "1025", "0"]);
        assert_eq!([12_345, 5000].map(|n| Resource::Inodes.shown(n)), ["12345", "5k"]);
    }
}
