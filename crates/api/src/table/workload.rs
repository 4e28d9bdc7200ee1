//! What makes Pods, and what counts them.

use serde_json::{Value, json};

use super::common::{Row, parse, scalar, text};
use super::human_duration;

/// The wide cells of a kind with a Pod template: names, images, selector.
fn template(row: Row<'_>, cells: &mut Vec<Value>, selector: Option<String>) {
    let (names, images) = row.containers("/spec/template/spec/containers");
    cells.extend([json!(names), json!(images)]);
    cells.extend(selector.map(Value::String));
}

fn replicas(row: Row<'_>, selector: String) -> Vec<Value> {
    let mut cells = vec![
        json!(row.name()),
        json!(row.int("/spec/replicas")),
        json!(row.int("/status/replicas")),
        json!(row.int("/status/readyReplicas")),
        json!(row.age()),
    ];
    template(row, &mut cells, Some(selector));
    cells
}

pub(super) fn replication_controller(row: Row<'_>) -> Vec<Value> {
    replicas(row, row.labels("/spec/selector"))
}

pub(super) fn replica_set(row: Row<'_>) -> Vec<Value> {
    replicas(row, row.selector("/spec/selector"))
}

pub(super) fn daemon_set(row: Row<'_>) -> Vec<Value> {
    let mut cells = vec![
        json!(row.name()),
        json!(row.int("/status/desiredNumberScheduled")),
        json!(row.int("/status/currentNumberScheduled")),
        json!(row.int("/status/numberReady")),
        json!(row.int("/status/updatedNumberScheduled")),
        json!(row.int("/status/numberAvailable")),
        json!(row.labels("/spec/template/spec/nodeSelector")),
        json!(row.age()),
    ];
    template(row, &mut cells, Some(row.selector("/spec/selector")));
    cells
}

fn ready(row: Row<'_>) -> String {
    format!("{}/{}", row.int("/status/readyReplicas"), row.int("/spec/replicas"))
}

pub(super) fn deployment(row: Row<'_>) -> Vec<Value> {
    let mut cells = vec![
        json!(row.name()),
        json!(ready(row)),
        json!(row.int("/status/updatedReplicas")),
        json!(row.int("/status/availableReplicas")),
        json!(row.age()),
    ];
    template(row, &mut cells, Some(row.selector("/spec/selector")));
    cells
}

pub(super) fn stateful_set(row: Row<'_>) -> Vec<Value> {
    let mut cells = vec![json!(row.name()), json!(ready(row)), json!(row.age())];
    template(row, &mut cells, None);
    cells
}

pub(super) fn controller_revision(row: Row<'_>) -> Vec<Value> {
    let owner = row.list("/metadata/ownerReferences").iter().find(|o| o["controller"] == true);
    let controller = owner.map(|owner| {
        let group = text(owner, "apiVersion").split_once('/').map(|(group, _)| format!(".{group}"));
        let kind = format!("{}{}", text(owner, "kind"), group.unwrap_or_default()).to_lowercase();
        format!("{kind}/{}", text(owner, "name"))
    });
    let controller = controller.unwrap_or_else(|| "<none>".to_owned());
    vec![json!(row.name()), json!(controller), json!(row.int("/revision")), json!(row.age())]
}

pub(super) fn job(row: Row<'_>) -> Vec<Value> {
    let succeeded = row.int("/status/succeeded");
    let completions =
        match (row.at("/spec/completions").and_then(Value::as_i64), row.int("/spec/parallelism")) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
    let start = parse(row.text("/status/startTime"));
    let end = parse(row.text("/status/completionTime")).unwrap_or(row.now);
    let duration = start.map(|start| human_duration(end.duration_since(start).as_secs())).unwrap_or_default();
    let is = |condition| row.condition(condition) == Some("True");
    let status = match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if row.is_being_deleted() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () => "Running",
    };
    let mut cells =
        vec![json!(row.name()), json!(status), json!(completions), json!(duration), json!(row.age())];
    template(row, &mut cells, Some(row.selector("/spec/selector")));
    cells
}

pub(super) fn cron_job(row: Row<'_>) -> Vec<Value> {
    let last = row.at("/status/lastScheduleTime").and_then(Value::as_str);
    let last = last.map_or_else(|| "<none>".to_owned(), |time| row.since(time));
    let suspend = match row.at("/spec/suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let (names, images) = row.containers("/spec/jobTemplate/spec/template/spec/containers");
    vec![
        json!(row.name()),
        json!(row.text("/spec/schedule")),
        json!(row.text_or("/spec/timeZone", "<none>")),
        json!(suspend),
        json!(row.count("/status/active")),
        json!(last),
        json!(row.age()),
        json!(names),
        json!(images),
        json!(row.selector("/spec/jobTemplate/spec/selector")),
    ]
}

pub(super) fn disruption_budget(row: Row<'_>) -> Vec<Value> {
    let bound = |pointer| scalar(row.at(pointer)).unwrap_or_else(|| "N/A".to_owned());
    vec![
        json!(row.name()),
        json!(bound("/spec/minAvailable")),
        json!(bound("/spec/maxUnavailable")),
        json!(row.int("/status/disruptionsAllowed")),
        json!(row.age()),
    ]
}

pub(super) fn autoscaler(row: Row<'_>) -> Vec<Value> {
    let target =
        format!("{}/{}", row.text("/spec/scaleTargetRef/kind"), row.text("/spec/scaleTargetRef/name"));
    let min = scalar(row.at("/spec/minReplicas")).unwrap_or_else(|| "<unset>".to_owned());
    vec![
        json!(row.name()),
        json!(target),
        json!(metrics(row)),
        json!(min),
        json!(row.int("/spec/maxReplicas")),
        json!(row.int("/status/currentReplicas")),
        json!(row.age()),
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
    use super::*;

    fn row(object: &Value) -> Row<'_> {
        Row { object, now: "2026-01-01T01:00:00Z".parse().unwrap() }
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
        assert_eq!(deployment(row(&object)), expected);
    }

    #[test]
    fn a_job_shows_its_state_and_how_long_it_took() {
        let object = json!({
            "metadata": {"name": "j", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"completions": 3},
            "status": {"succeeded": 3, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:07Z",
                       "conditions": [{"type": "Complete", "status": "True"}]},
        });
        assert_eq!(job(row(&object))[1..4], ["Complete", "3/3", "7s"]);
        let object = json!({"spec": {"parallelism": 4}, "status": {"startTime": "2026-01-01T00:30:00Z"}});
        assert_eq!(job(row(&object))[1..4], ["Running", "0/1 of 4", "30m"]);
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
            autoscaler(row(&object))[1..4],
            ["Deployment/web", "cpu: 20%/80%, <unknown>/10 + 1 more...", "<unset>"]
        );
    }

    #[test]
    fn a_revision_names_its_controller() {
        let object = json!({"metadata": {"name": "r", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]}, "revision": 2});
        assert_eq!(controller_revision(row(&object))[1..3], [json!("statefulset.apps/db"), json!(2)]);
    }
}
