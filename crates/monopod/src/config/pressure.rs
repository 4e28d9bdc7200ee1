//! The kubelet's flags about scarce resources.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use api::quantity::Quantity;
use node::eviction::ImageCollection;
use node::eviction::threshold::{Eviction, Statements, parse_duration};
use serde::{Deserialize, Deserializer};

use super::UpFlags;

/// Names and values: `a<1,b<2` on the command line; in the file the same, or a mapping, as in the kubelet's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pairs<const BETWEEN: char>(Statements);

impl<const BETWEEN: char> FromStr for Pairs<BETWEEN> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = |one: &str| match one.split_once(BETWEEN) {
            Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
            None => Err(format!("{one:?} is not NAME{BETWEEN}VALUE")),
        };
        text.split(',').filter(|one| !one.trim().is_empty()).map(split).collect::<Result<_, _>>().map(Pairs)
    }
}

impl<'de, const BETWEEN: char> Deserialize<'de> for Pairs<BETWEEN> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<const BETWEEN: char>;
        impl<'de, const BETWEEN: char> serde::de::Visitor<'de> for Either<BETWEEN> {
            type Value = Pairs<BETWEEN>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a mapping, or NAME{BETWEEN}VALUE with commas between")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    all.insert(name, value);
                }
                Ok(Pairs(all))
            }
        }
        deserializer.deserialize_any(Either::<BETWEEN>)
    }
}

impl UpFlags {
    /// When Pods are evicted.
    pub(super) fn eviction(&self) -> Result<Eviction> {
        let text = |pairs: &Option<Pairs<'='>>| pairs.clone().unwrap_or_default().0;
        let soft = self.eviction_soft.clone().unwrap_or_default().0;
        let (grace, reclaim) = (text(&self.eviction_soft_grace_period), text(&self.eviction_minimum_reclaim));
        // Given, it replaces all: what is not named is not watched, as with a kubelet.
        let hard =
            self.eviction_hard.clone().map_or_else(node::eviction::threshold::default_hard, |pairs| pairs.0);
        let mut parsed = Eviction::parse(&hard, &soft, &grace, &reclaim).map_err(anyhow::Error::msg)?;
        if let Some(period) =
            duration("eviction-pressure-transition-period", &self.eviction_pressure_transition_period)?
        {
            parsed.pressure_transition_period = period;
        }
        let seconds = self.eviction_max_pod_grace_period.unwrap_or_default();
        ensure!(seconds >= 0, "--eviction-max-pod-grace-period {seconds}: it cannot be negative");
        parsed.max_pod_grace_period_seconds = seconds;
        Ok(parsed)
    }

    /// What no Pod can have, both flags together.
    pub(super) fn reserved(&self) -> Result<BTreeMap<String, Quantity>> {
        let mut all: BTreeMap<String, Quantity> = BTreeMap::new();
        for (flag, pairs) in [("system", &self.system_reserved), ("kube", &self.kube_reserved)] {
            for (name, text) in pairs.iter().flat_map(|pairs| &pairs.0) {
                let known = ["cpu", "memory", "ephemeral-storage", "pid"].contains(&name.as_str());
                ensure!(known, "--{flag}-reserved {name}: cannot reserve {name:?} resource");
                let amount: Option<Quantity> =
                    text.parse().ok().filter(|amount: &Quantity| amount.milli_value() >= 0);
                let amount = amount.with_context(|| format!("--{flag}-reserved {name}={text}: no amount"))?;
                match all.get_mut(name) {
                    Some(known) => known.add(&amount),
                    None => drop(all.insert(name.clone(), amount)),
                }
            }
        }
        Ok(all)
    }

    /// When images that nobody uses are removed.
    pub(super) fn images(&self) -> Result<ImageCollection> {
        let mut images = ImageCollection::default();
        images.high_percent = self.image_gc_high_threshold.unwrap_or(images.high_percent);
        images.low_percent = self.image_gc_low_threshold.unwrap_or(images.low_percent);
        let (high, low) = (images.high_percent, images.low_percent);
        ensure!(high <= 100, "--image-gc-high-threshold {high}: from 0 to 100 are possible");
        ensure!(
            low < high,
            "--image-gc-low-threshold {low}: it must be below --image-gc-high-threshold {high}"
        );
        let age = duration("minimum-image-ttl-duration", &self.minimum_image_ttl_duration)?;
        images.minimum_age = age.unwrap_or(images.minimum_age);
        Ok(images)
    }
}

fn duration(flag: &str, text: &Option<String>) -> Result<Option<std::time::Duration>> {
    let parsed = text.as_deref().map(parse_duration).transpose().map_err(anyhow::Error::msg);
    parsed.with_context(|| format!("--{flag}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::eviction::threshold::name;

    fn of(text: &str) -> Result<Eviction> {
        serde_saphyr::from_str::<UpFlags>(text).expect("valid").eviction()
    }

    #[test]
    fn thresholds_are_written_as_for_a_kubelet_in_flags_and_file() {
        for text in [
            "eviction-hard: nodefs.available<10%,memory.available<1Gi\n",
            "eviction-hard: {nodefs.available: 10%, memory.available: 1Gi}\n",
        ] {
            let parsed = of(text).expect("valid");
            let names: Vec<_> = parsed.thresholds.iter().map(|one| name(one.signal)).collect();
            assert_eq!(
                names,
                ["memory.available", "nodefs.available", "allocatableMemory.available"],
                "{text}"
            );
        }
        assert_eq!(of("data-dir: /a\n").expect("valid"), Eviction::default());
        let period = of("eviction-pressure-transition-period: 30s\n").expect("valid");
        assert_eq!(period.pressure_transition_period.as_secs(), 30);
    }

    #[test]
    fn what_is_reserved_for_system_and_program_is_added_up() {
        let text = "system-reserved: cpu=500m,memory=1Gi\nkube-reserved: {cpu: 250m, pid: \"100\"}\n";
        let reserved = serde_saphyr::from_str::<UpFlags>(text).expect("valid").reserved().expect("valid");
        let milli = |name: &str| reserved.get(name).map(Quantity::milli_value);
        assert_eq!(
            (milli("cpu"), milli("memory"), milli("pid")),
            (Some(750), Some((1 << 30) * 1000), Some(100_000))
        );
        let gpu = serde_saphyr::from_str::<UpFlags>("kube-reserved: gpu=1\n").expect("valid").reserved();
        assert!(gpu.expect_err("refused").to_string().contains("cannot reserve"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let told = |text: &str| format!("{:#}", of(text).expect_err("refused"));
        assert_eq!(told("eviction-hard: disk<1\n"), "unsupported eviction signal disk");
        assert!(
            told("eviction-pressure-transition-period: soon\n")
                .starts_with("--eviction-pressure-transition-period: ")
        );
        let images =
            serde_saphyr::from_str::<UpFlags>("image-gc-low-threshold: 90\n").expect("valid").images();
        assert!(images.expect_err("refused").to_string().starts_with("--image-gc-low-threshold 90: "));
        assert!("a=1".parse::<Pairs<'<'>>().is_err());
    }
}
