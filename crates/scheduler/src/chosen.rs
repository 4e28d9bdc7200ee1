//! Which Pods a selector chooses, most of them told apart by a word of bits.
//!
//! A decision asks of every Pod of the cluster whether it is meant, and of nearly all it is not. Each label
//! sets one of 64 bits of its Pod; a Pod that lacks a bit that the selector's labels set is not meant, and only
//! the others are compared label by label.

use std::collections::BTreeMap;

use api::selector::{LabelSelector, Operator};

use crate::PodInfo;

/// A bit for each label, which others may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signature(u64);

impl Signature {
    const NONE: Signature = Signature(0);

    /// What a Pod with these labels shows.
    pub(crate) fn of(labels: &BTreeMap<String, String>) -> Self {
        labels.iter().fold(Self::NONE, |all, (key, value)| all.with(key, value))
    }

    /// What every Pod shows that the selector means: the labels that it wants with one value.
    fn wanted_by(selector: &LabelSelector) -> Self {
        selector.requirements().iter().fold(Self::NONE, |all, wanted| {
            match (wanted.operator, &*wanted.values) {
                (Operator::Equals | Operator::DoubleEquals | Operator::In, [value]) => {
                    all.with(&wanted.key, value)
                }
                _ => all,
            }
        })
    }

    fn with(self, key: &str, value: &str) -> Self {
        // FNV-1a; no label has a zero byte.
        let bytes = key.bytes().chain([0]).chain(value.bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        // What the last bytes did is still in the middle: spread it over the upper bits.
        let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self(self.0 | 1 << (mixed >> 58))
    }

    fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A selector of Pods.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    selector: LabelSelector,
    wanted: Signature,
}

impl Chosen {
    pub(crate) fn by(selector: LabelSelector) -> Self {
        Self { wanted: Signature::wanted_by(&selector), selector }
    }

    /// Whether the Pod's labels are meant.
    pub(crate) fn matches(&self, pod: &PodInfo) -> bool {
        pod.signature.covers(self.wanted) && self.selector.matches(pod.labels())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::sync::Arc;

    fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
        proptest::collection::btree_map("[abc]", "[xyz]{0,2}", 0..4)
    }

    proptest! {
        #[test]
        fn bits_keep_back_nobody_who_is_meant(
            labels in labels(), equal in labels(), key in "[abc]", operator in 0..4_usize, values in proptest::collection::vec("[xyz]{0,2}", 1..3),
        ) {
            let operator = ["In", "NotIn", "Exists", "DoesNotExist"][operator];
            let values = if operator.ends_with("In") { json!(values) } else { json!([]) };
            let selector = json!({"matchLabels": equal, "matchExpressions": [{"key": key, "operator": operator, "values": values}]});
            let selector = LabelSelector::from_value(&selector).unwrap();
            let pod = serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap();
            let meant = selector.matches(&labels);
            prop_assert_eq!(Chosen::by(selector).matches(&PodInfo::new(Arc::new(pod))), meant);
        }
    }

    #[test]
    fn most_of_many_are_told_apart_by_their_bits() {
        let app = |n: usize| BTreeMap::from([("app".to_owned(), format!("app-{n}"))]);
        let wanted = Signature::of(&app(0));
        let alike = (0..100).filter(|n| Signature::of(&app(*n)).covers(wanted)).count();
        assert!(alike < 10, "{alike} of 100 share the bit of one");
    }
}
