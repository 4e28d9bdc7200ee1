//! Rows of what was measured, as metrics-server prints them.

use serde_json::Value;

use super::cell::{Cell, cell};
use super::common::Row;
use crate::quantity::Quantity;

pub(crate) fn node(row: Row<'_>) -> Vec<Cell> {
    measured(row, row.at("/usage").as_slice())
}

pub(crate) fn pod(row: Row<'_>) -> Vec<Cell> {
    let used: Vec<&Value> =
        row.list("/containers").iter().filter_map(|container| container.get("usage")).collect();
    measured(row, &used)
}

fn measured(row: Row<'_>, used: &[&Value]) -> Vec<Cell> {
    let sum = |name: &str| {
        let each = used.iter().filter_map(|usage| Quantity::from_json(usage.get(name)?).ok());
        let sum = each.reduce(|mut sum, one| {
            sum.add(&one);
            sum
        });
        sum.unwrap_or_default().to_string()
    };
    vec![cell(row.name()), cell(sum("cpu")), cell(sum("memory")), cell(row.text("/window"))]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::cell::shown;
    use super::*;

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let object = json!({"metadata": {"name": "web"}, "window": "15s", "containers": [
            {"name": "a", "usage": {"cpu": "1500000n", "memory": "3Mi"}},
            {"name": "b", "usage": {"cpu": "250n", "memory": "512Ki"}}]});
        assert_eq!(shown(pod(Row { object: &object })), ["web", "1500250n", "3584Ki", "15s"]);
        let object =
            json!({"metadata": {"name": "n"}, "window": "1s", "usage": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(shown(node(Row { object: &object })), ["n", "1", "1Gi", "1s"]);
    }
}
