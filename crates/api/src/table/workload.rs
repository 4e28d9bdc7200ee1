//! What makes Pods, and what counts them.

use serde_json::Value;

use super::cell::{Cell, cell};
use super::common::{Row, parse, scalar, text};
use super::human_duration;

/// The wide cells of a kind with a Pod template: names, images, selector.
fn template(row: Row<'_>, cells: &mut Vec<Cell>, selector: Option<String>) {
    let (names, images) = row.containers("/spec/template/spec/containers");
    cells.extend([cell(names), cell(images)]);
    cells.extend(selector.map(cell));
}

fn replicas(row: Row<'_>, selector: String) -> Vec<Cell> {
    let mut cells = vec![
        cell(row.name()),
        cell(row.int("/spec/replicas")),
        cell(row.int("/status/replicas")),
        cell(row.int("/status/readyReplicas")),
        row.age(),
    ];
    template(row, &mut cells, Some(selector));
    cells
}

pub(crate) fn replication_controller(row: Row<'_>) -> Vec<Cell> {
    replicas(row, row.labels("/spec/selector"))
}

pub(crate) fn replica_set(row: Row<'_>) -> Vec<Cell> {
    replicas(row, row.selector("/spec/selector"))
}

pub(crate) fn daemon_set(row: Row<'_>) -> Vec<Cell> {
    let mut cells = vec![
        cell(row.name()),
        cell(row.int("/status/desiredNumberScheduled")),
        cell(row.int("/status/currentNumberScheduled")),
        cell(row.int("/status/numberReady")),
        cell(row.int("/status/updatedNumberScheduled")),
        cell(row.int("/status/numberAvailable")),
        cell(row.labels("/spec/template/spec/nodeSelector")),
        row.age(),
    ];
    template(row, &mut cells, Some(row.selector("/spec/selector")));
    cells
}

fn ready(row: Row<'_>) -> String {
    format!("{}/{}", row.int("/status/readyReplicas"), row.int("/spec/replicas"))
}

pub(crate) fn deployment(row: Row<'_>) -> Vec<Cell> {
    let mut cells = vec![
        cell(row.name()),
        cell(ready(row)),
        cell(row.int("/status/updatedReplicas")),
        cell(row.int("/status/availableReplicas")),
        row.age(),
    ];
    template(row, &mut cells, Some(row.selector("/spec/selector")));
    cells
}

pub(crate) fn stateful_set(row: Row<'_>) -> Vec<Cell> {
    let mut cells = vec![cell(row.name()), cell(ready(row)), row.age()];
    template(row, &mut cells, None);
    cells
}

pub(crate) fn controller_revision(row: Row<'_>) -> Vec<Cell> {
    let owner = row.list("/metadata/ownerReferences").iter().find(|o| o["controller"] == true);
    let controller = owner.map(|owner| {
        let group = text(owner, "apiVersion").split_once('/').map(|(group, _)| format!(".{group}"));
        let kind = format!("{}{}", text(owner, "kind"), group.unwrap_or_default()).to_lowercase();
        format!("{kind}/{}", text(owner, "name"))
    });
    let controller = controller.unwrap_or_else(|| "<none>".to_owned());
    vec![cell(row.name()), cell(controller), cell(row.int("/revision")), row.age()]
}

pub(crate) fn job(row: Row<'_>) -> Vec<Cell> {
    let succeeded = row.int("/status/succeeded");
    let completions =
        match (row.at("/spec/completions").and_then(Value::as_i64), row.int("/spec/parallelism")) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
    let start = parse(row.text("/status/startTime"));
    let duration = match (start, parse(row.text("/status/completionTime"))) {
        (None, _) => cell(""),
        (Some(start), None) => Cell::ago(start),
        (Some(start), Some(end)) => cell(human_duration(end.duration_since(start).as_secs())),
    };
    let is = |condition| row.condition(condition) == Some("True");
    let status = match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if row.is_being_deleted() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () => "Running",
    };
    let mut cells = vec![cell(row.name()), cell(status), cell(completions), duration, row.age()];
    template(row, &mut cells, Some(row.selector("/spec/selector")));
    cells
}

pub(crate) fn cron_job(row: Row<'_>) -> Vec<Cell> {
    let last = row.at("/status/lastScheduleTime").and_then(Value::as_str);
    let last = last.map_or_else(|| cell("<none>"), Cell::since);
    let suspend = match row.at("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let (names, images) = row.containers("/spec/jobTemplate/spec/template/spec/containers");
    vec![
        cell(row.name()),
        cell(row.text("/spec/schedule")),
        cell(row.text_or("/spec/timeZone", "<none>")),
        cell(suspend),
        cell(row.count("/status/active")),
        last,
        row.age(),
        cell(names),
        cell(images),
        cell(row.selector("/spec/jobTemplate/spec/selector")),
    ]
}

pub(crate) fn disruption_budget(row: Row<'_>) -> Vec<Cell> {
    let bound = |pointer| scalar(row.at(pointer)).unwrap_or_else(|| "N/A".to_owned());
    vec![
        cell(row.name()),
        cell(bound("/spec/minAvailable")),
        cell(bound("/spec/maxUnavailable")),
        cell(row.int("/status/disruptionsAllowed")),
        row.age(),
    ]
}

pub(crate) fn autoscaler(row: Row<'_>) -> Vec<Cell> {
    let target =
        format!("{}/{}", row.text("/spec/scaleTargetRef/kind"), row.text("/spec/scaleTargetRef/name"));
    let min = scalar(row.at("/spec/minReplicas")).unwrap_or_else(|| "<unset>".to_owned());
    vec![
        cell(row.name()),
        cell(target),
        cell(metrics(row)),
        cell(min),
        cell(row.int("/spec/maxReplicas")),
        cell(row.int("/status/currentReplicas")),
        row.age(),
    ]
}

/// At most two metrics as `current/target`.
fn metrics(row: Row<'_>) -> String {
    const MAX: usize = 2;
    // autoscaling/v1 knows one: processor utilisation.
    if let Some(target) = scalar(row.at("/spec/targetCPUUtilizationPercentage")) {
        let current = scalar(row.at("/status/currentCPUUtilizationPercentage"));
        return format!("cpu: {}/{target}%", percent(current));
    }
    let current = row.list("/status/currentMetrics");
    let all: Vec<String> =
        row.list("/spec/metrics").iter().enumerate().map(|(i, spec)| metric(spec, current.get(i))).collect();
    match all.len() {
        0 => "<none>".to_owned(),
        1..=MAX => all.join(", "),
        more => format!("{} + {} more...", all[..MAX].join(", "), more - MAX),
    }
}

fn percent(value: Option<String>) -> String {
    value.map_or_else(|| "<unknown>".to_owned(), |v| format!("{v}%"))
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let field = match text(spec, "type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let target = |name: &str| scalar(spec.pointer(&format!("/{field}/target/{name}")));
    let current = |name: &str| scalar(status.and_then(|s| s.pointer(&format!("/{field}/current/{name}"))));
    let shown = |name: &str| current(name).unwrap_or_else(|| "<unknown>".to_owned());
    let average = target("averageValue");
    match (field, average) {
        ("resource" | "containerResource", average) => {
            let name = spec.pointer(&format!("/{field}/name")).and_then(Value::as_str).unwrap_or_default();
            match average {
                Some(target) => format!("{name}: {}/{target}", shown("averageValue")),
                None => {
                    let wanted =
                        target("averageUtilization").map_or_else(|| "<auto>".to_owned(), |v| format!("{v}%"));
                    format!("{name}: {}/{wanted}", percent(current("averageUtilization")))
                }
            }
        }
        ("pods", average) => format!("{}/{}", shown("averageValue"), average.unwrap_or_default()),
        (_, Some(target)) => format!("{}/{target} (avg)", shown("averageValue")),
        (_, None) => format!("{}/{}", shown("value"), target("value").unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::cell::shown;
    use super::*;

    fn row(object: &Value) -> Row<'_> {
        Row { object }
    }

    #[test]
    fn a_deployment_shows_ready_of_wanted() {
        let object = json!({
            "metadata": {"name": "app", "creationTimestamp": "2026-01-01T00:59:50Z"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "app"}},
                     "template": {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}},
            "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1},
        });
        let expected = [
            json!("app"),
            json!("1/2"),
            json!(2),
            json!(1),
            json!("10s"),
            json!("a,b"),
            json!("x,y"),
            json!("app=app"),
        ];
        assert_eq!(shown(deployment(row(&object))), expected);
    }

    #[test]
    fn a_job_shows_its_state_and_how_long_it_took() {
        let object = json!({
            "metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"completions": 3},
            "status": {"succeeded": 3, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:07Z",
                       "conditions": [{"type": "Complete", "status": "True"}]},
        });
        assert_eq!(shown(job(row(&object)))[1..4], ["Complete", "3/3", "7s"]);
        let object = json!({"spec": {"parallelism": 4}, "status": {"startTime": "2026-01-01T00:30:00Z"}});
        assert_eq!(shown(job(row(&object)))[1..4], ["Running", "0/1 of 4", "30m"]);
    }

    #[test]
    fn an_autoscaler_shows_current_of_target() {
        let object = json!({
            "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "maxReplicas": 5, "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                {"type": "Pods", "pods": {"target": {"averageValue": "10"}}},
                {"type": "External", "external": {"target": {"value": "3"}}},
            ]},
            "status": {"currentMetrics": [{"type": "Resource", "resource": {"current": {"averageUtilization": 20}}}]},
        });
        assert_eq!(
            shown(autoscaler(row(&object)))[1..4],
            ["Deployment/web", "cpu: 20%/80%, <unknown>/10 + 1 more...", "<unset>"]
        );
    }

    #[test]
    fn a_revision_names_its_controller() {
        let object = json!({"metadata": {"name": "r", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]}, "revision": 2});
        assert_eq!(shown(controller_revision(row(&object)))[1..3], [json!("statefulset.apps/db"), json!(2)]);
    }
}
