//! The kinds of the group `admissionregistration.k8s.io`.

use super::rules::Generation;
use super::{Kind, cluster, status};
use crate::defaults;
use crate::table::policy;

const GROUP: &str = "admissionregistration.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(
            GROUP,
            "v1",
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
        )
        .category(["api-extensions"])
        .conditional_update()
        .creates_on_update()
        .generation(Generation::Wishes)
        .cells(policy::admission_policy),
        cluster(
            GROUP,
            "v1",
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
        )
        .category(["api-extensions"])
        .creates_on_update()
        .generation(Generation::Wishes)
        .cells(policy::admission_binding),
        cluster(
            GROUP,
            "v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            "mutatingwebhookconfiguration",
        )
        .category(["api-extensions"])
        .defaults(defaults::other::mutating_webhooks)
        .generation(Generation::Wishes)
        .cells(policy::webhooks),
        cluster(
            GROUP,
            "v1",
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            "validatingadmissionpolicy",
        )
        .category(["api-extensions"])
        .conditional_update()
        .subresources([status(GROUP, "v1", "ValidatingAdmissionPolicy")])
        .generation(Generation::Wishes)
        .cells(policy::admission_policy),
        cluster(
            GROUP,
            "v1",
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
        )
        .category(["api-extensions"])
        .generation(Generation::Wishes)
        .cells(policy::admission_binding),
        cluster(
            GROUP,
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
        )
        .category(["api-extensions"])
        .defaults(defaults::other::webhooks)
        .generation(Generation::Wishes)
        .cells(policy::webhooks),
    ]
}
