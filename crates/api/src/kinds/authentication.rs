//! The kinds of the group `authentication.k8s.io`.

use super::{Kind, review};

const GROUP: &str = "authentication.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        review(GROUP, "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
        review(GROUP, "TokenReview", "tokenreviews", "tokenreview"),
    ]
}
