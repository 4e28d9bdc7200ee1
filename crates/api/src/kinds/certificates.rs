//! The kinds of the group `certificates.k8s.io`.

use super::{Kind, PART, cluster, part, status, text};
use crate::strategy::certificates;
use crate::table::cluster as cluster_table;
use crate::validate::name_is_path_segment;

const GROUP: &str = "certificates.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        cluster(
            GROUP,
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificatesigningrequest",
        )
        .short(["csr"])
        .subresources([
            part("approval", GROUP, "v1", "CertificateSigningRequest", PART),
            status(GROUP, "v1", "CertificateSigningRequest"),
        ])
        .fields([text("spec.signerName", ["/spec/signerName"])])
        .name_rule(name_is_path_segment)
        .validate(|request, _, errors| certificates::validate_create(request, errors))
        .prepare_update(certificates::prepare_update)
        .author(certificates::stamp_author)
        .date(certificates::date_conditions)
        .validate_update(certificates::validate_update)
        .cells(cluster_table::signing_request),
    ]
}
