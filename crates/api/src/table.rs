//! Tables: what `kubectl get` prints, computed by the server.
//!
//! The columns of all kinds are in `columns.tsv`; the cells are functions of the object,
//! one for each kind, in the files beside; ages are written when a row is read ([`TableRow`]).
//! Cells of wide columns are always there: the client leaves them out. Kinds without a table
//! of their own show their name and when they were created.

mod age;
mod cell;
mod cluster;
mod common;
mod metrics;
mod network;
mod pod;
mod policy;
mod storage;
mod workload;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Value, json};

use crate::kinds::Kind;

use cell::{Cell, cell};

pub use age::human_duration;
pub use cell::TableRow;

/// A column's definition, as the Table document carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// The heading, which kubectl writes in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `name` for the object's name, else empty.
    pub format: &'static str,
    /// For people.
    pub description: String,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
}

/// The columns of a resource's table.
pub fn columns(resource: &Kind) -> &[Column] {
    let tables: &HashMap<(&str, &str), Vec<Column>> = &COLUMNS;
    tables.get(&(&*resource.group, &*resource.plural)).unwrap_or(&DEFAULT)
}

/// The row of an object, with one cell for each column of [`columns`].
pub fn row(resource: &Kind, object: &Value) -> TableRow {
    TableRow::new(cells(resource, object), conditions(resource, object))
}

fn cells(resource: &Kind, object: &Value) -> Vec<Cell> {
    let row = common::Row { object };
    match printer(resource) {
        Some(print) => print(row),
        None => vec![cell(row.name()), cell(row.text("/metadata/creationTimestamp"))],
    }
}

/// What the row says of the object as a whole: that a Pod is done.
fn conditions(resource: &Kind, object: &Value) -> Option<Value> {
    if (&*resource.group, &*resource.plural) != ("", "pods") {
        return None;
    }
    let (reason, message) = match object["status"]["phase"].as_str()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

type Printer = fn(common::Row<'_>) -> Vec<Cell>;

/// The function that makes the cells of a resource.
fn printer(resource: &Kind) -> Option<Printer> {
    Some(match (&*resource.group, &*resource.plural) {
        ("", "pods") => pod::pod,
        ("", "podtemplates") => pod::pod_template,
        ("", "replicationcontrollers") => workload::replication_controller,
        ("apps", "replicasets") => workload::replica_set,
        ("apps", "daemonsets") => workload::daemon_set,
        ("apps", "deployments") => workload::deployment,
        ("apps", "statefulsets") => workload::stateful_set,
        ("apps", "controllerrevisions") => workload::controller_revision,
        ("batch", "jobs") => workload::job,
        ("batch", "cronjobs") => workload::cron_job,
        ("autoscaling", "horizontalpodautoscalers") => workload::autoscaler,
        ("policy", "poddisruptionbudgets") => workload::disruption_budget,
        ("", "services") => network::service,
        ("", "endpoints") => network::endpoints,
        ("discovery.k8s.io", "endpointslices") => network::endpoint_slice,
        ("networking.k8s.io", "ingresses") => network::ingress,
        ("networking.k8s.io", "ingressclasses") => network::ingress_class,
        ("networking.k8s.io", "networkpolicies") => network::network_policy,
        ("networking.k8s.io", "servicecidrs") => network::service_cidr,
        ("networking.k8s.io", "ipaddresses") => network::ip_address,
        ("", "nodes") => cluster::node,
        ("", "namespaces") => cluster::namespace,
        ("", "events") | ("events.k8s.io", "events") => cluster::event,
        ("", "configmaps") => cluster::config_map,
        ("", "secrets") => cluster::secret,
        ("", "serviceaccounts") => cluster::service_account,
        ("", "resourcequotas") => cluster::resource_quota,
        ("", "componentstatuses") => cluster::component_status,
        ("coordination.k8s.io", "leases") => cluster::lease,
        ("scheduling.k8s.io", "priorityclasses") => cluster::priority_class,
        ("node.k8s.io", "runtimeclasses") => cluster::runtime_class,
        ("certificates.k8s.io", "certificatesigningrequests") => cluster::signing_request,
        ("apiregistration.k8s.io", "apiservices") => cluster::api_service,
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => policy::role_binding,
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => policy::flow_schema,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => policy::priority_level,
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => policy::webhooks,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies" | "validatingadmissionpolicies") => {
            policy::admission_policy
        }
        (
            "admissionregistration.k8s.io",
            "mutatingadmissionpolicybindings" | "validatingadmissionpolicybindings",
        ) => policy::admission_binding,
        ("", "persistentvolumes") => storage::volume,
        ("", "persistentvolumeclaims") => storage::claim,
        ("storage.k8s.io", "storageclasses") => storage::class,
        ("storage.k8s.io", "volumeattributesclasses") => storage::attributes_class,
        ("storage.k8s.io", "volumeattachments") => storage::attachment,
        ("storage.k8s.io", "csinodes") => storage::csi_node,
        ("storage.k8s.io", "csidrivers") => storage::csi_driver,
        ("storage.k8s.io", "csistoragecapacities") => storage::csi_capacity,
        ("metrics.k8s.io", "nodes") => metrics::node,
        ("metrics.k8s.io", "pods") => metrics::pod,
        ("resource.k8s.io", "resourceclaims") => storage::resource_claim,
        ("resource.k8s.io", "resourceslices") => storage::resource_slice,
        ("resource.k8s.io", "deviceclasses" | "resourceclaimtemplates") => {
            |row| vec![cell(row.name()), row.age()]
        }
        _ => return None,
    })
}

static COLUMNS: LazyLock<HashMap<(&str, &str), Vec<Column>>> =
    LazyLock::new(|| parse(include_str!("table/columns.tsv")));

static DEFAULT: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let column = |name, kind, format, like: &str| Column {
        name,
        kind,
        format,
        description: describe(&COLUMNS, like),
        priority: 0,
    };
    vec![column("Name", "string", "name", "Name"), column("Created At", "date", "", "Age")]
});

fn parse(text: &'static str) -> HashMap<(&'static str, &'static str), Vec<Column>> {
    let mut tables: HashMap<_, Vec<Column>> = HashMap::new();
    let mut current = ("", "");
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        match line.strip_prefix('\t') {
            None => current = line.split_once('/').unwrap_or(("", line)),
            Some(fields) => {
                let column = column(fields, &tables);
                tables.entry(current).or_default().push(column);
            }
        }
    }
    tables
}

fn column(line: &'static str, before: &HashMap<(&str, &str), Vec<Column>>) -> Column {
    let mut fields = line.splitn(4, '\t');
    let mut next = || fields.next().unwrap_or_default();
    let (name, kind, priority, description) = (next(), next(), next(), next());
    let (kind, format) = kind.split_once(':').unwrap_or((kind, ""));
    let description = match description {
        "=" => describe(before, name),
        text => text.replace("\\n", "\n"),
    };
    Column { name, kind, format, description, priority: u8::from(priority == "1") }
}

/// The description of the column of this name in a table that has it spelled out.
fn describe(tables: &HashMap<(&str, &str), Vec<Column>>, name: &str) -> String {
    let first = [("", "pods"), ("", "podtemplates"), ("", "replicationcontrollers")];
    let found = first.iter().filter_map(|key| tables.get(key)).flatten().find(|c| c.name == name);
    found.map(|c| c.description.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{all, find, metrics};

    #[test]
    fn every_resource_has_as_many_cells_as_columns() {
        let measured: Vec<_> = metrics().into_iter().map(Into::into).collect();
        for resource in all().iter().chain(&measured) {
            let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
            let cells = cells(resource, &object);
            assert_eq!(cells.len(), columns(resource).len(), "{}", resource.plural);
        }
    }

    #[test]
    fn every_table_is_of_a_resource_and_every_repeated_description_is_found() {
        for ((group, plural), columns) in COLUMNS.iter() {
            let known = all().iter().any(|r| (&*r.group, &*r.plural) == (*group, *plural))
                || metrics().iter().any(|r| (&*r.group, &*r.plural) == (*group, *plural));
            assert!(known || matches!(*plural, "scale" | "status"), "{group}/{plural}");
            for column in columns {
                assert!(!column.description.is_empty() || *plural == "status", "{plural} {}", column.name);
                assert_ne!(column.description, "=");
            }
        }
    }

    #[test]
    fn a_column_is_written_as_kubernetes_writes_it() {
        let column = &columns(find("", "v1", "pods").unwrap())[1];
        assert_eq!(
            serde_json::to_string(column).unwrap(),
            r#"{"name":"Ready","type":"string","format":"","description":"The aggregate readiness state of this pod for accepting traffic.","priority":0}"#
        );
    }

    #[test]
    fn kinds_without_a_table_show_when_they_were_created() {
        let resource = find("", "v1", "limitranges").unwrap();
        let names: Vec<&str> = columns(resource).iter().map(|c| c.name).collect();
        assert_eq!(names, ["Name", "Created At"]);
        let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(cell::shown(cells(resource, &object)), ["x", "2026-01-01T00:00:00Z"]);
    }
}
