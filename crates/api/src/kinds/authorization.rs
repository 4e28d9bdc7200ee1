//! The kinds of the group `authorization.k8s.io`.

use super::{Kind, review};

const GROUP: &str = "authorization.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        Kind {
            namespaced: true,
            ..review(
                GROUP,
                "LocalSubjectAccessReview",
                "localsubjectaccessreviews",
                "localsubjectaccessreview",
            )
        },
        review(GROUP, "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview"),
        review(GROUP, "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview"),
        review(GROUP, "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview"),
    ]
}
