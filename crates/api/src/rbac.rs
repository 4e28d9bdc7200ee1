//! RBAC as pure functions: what a rule allows, what rules cover other rules, and
//! what aggregated ClusterRoles consist of.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::field::go_quote;
use crate::selector::LabelSelector;

/// What somebody wants to do, as rules see it.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// Something with a resource.
    Resource {
        /// `get`, `list`, `create`, …
        verb: &'a str,
        /// The API group, empty for core.
        group: &'a str,
        /// The plural.
        resource: &'a str,
        /// Empty for the object itself.
        subresource: &'a str,
        /// Empty when the request names no object.
        name: &'a str,
    },
    /// Something with a path that is no resource.
    Path {
        /// The HTTP method in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

/// Whether the rule allows the action.
pub fn allows(rule: &PolicyRule, action: Action<'_>) -> bool {
    match action {
        Action::Resource { verb, group, resource, subresource, name } => {
            any_or(&rule.verbs, "*", verb)
                && any_or(some(&rule.api_groups), "*", group)
                && resource_matches(some(&rule.resources), resource, subresource)
                && names_match(some(&rule.resource_names), name)
        }
        Action::Path { verb, path } => {
            any_or(&rule.verbs, "*", verb)
                && some(&rule.non_resource_urls).iter().any(|u| url_matches(u, path))
        }
    }
}

fn some(list: &Option<Vec<String>>) -> &[String] {
    list.as_deref().unwrap_or_default()
}

fn any_or(list: &[String], all: &str, wanted: &str) -> bool {
    list.iter().any(|item| item == all || item == wanted)
}

fn resource_matches(rules: &[String], resource: &str, subresource: &str) -> bool {
    rules.iter().any(|rule| {
        if rule == "*" {
            return true;
        }
        match rule.split_once('/') {
            None => subresource.is_empty() && rule == resource,
            Some((of, part)) => {
                !subresource.is_empty() && part == subresource && (of == "*" || of == resource)
            }
        }
    })
}

fn names_match(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|n| n == name)
}

fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*"
        || rule == path
        || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
}

/// The parts of `wanted` that no rule of `held` covers; none when nobody gains anything.
/// Each part has one verb and one group with resource and name, or one path.
pub fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let parts = wanted.iter().flat_map(breakdown);
    parts.filter(|part| !held.iter().any(|rule| covers(rule, part))).collect()
}

/// One rule as many that say one thing each.
fn breakdown(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut parts = Vec::new();
    for verb in &rule.verbs {
        for url in some(&rule.non_resource_urls) {
            parts.push(PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: Some(vec![url.clone()]),
                ..PolicyRule::default()
            });
        }
        for group in some(&rule.api_groups) {
            for resource in some(&rule.resources) {
                let one = PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource.clone()]),
                    ..PolicyRule::default()
                };
                match some(&rule.resource_names) {
                    [] => parts.push(one),
                    names => parts.extend(
                        names
                            .iter()
                            .map(|n| PolicyRule { resource_names: Some(vec![n.clone()]), ..one.clone() }),
                    ),
                }
            }
        }
    }
    parts
}

/// Whether the rule allows all that the single part says.
fn covers(rule: &PolicyRule, part: &PolicyRule) -> bool {
    let has = |held: &[String], wanted: &[String]| {
        held.iter().any(|h| h == "*") || wanted.iter().all(|w| held.contains(w))
    };
    let resources = some(&rule.resources).iter().any(|r| r == "*")
        || some(&part.resources).iter().all(|wanted| {
            let by_part = |r: &String| {
                let held = r.strip_prefix("*/");
                held.is_some() && held == wanted.split_once('/').map(|(_, s)| s)
            };
            some(&rule.resources).iter().any(|r| r == wanted || by_part(r))
        });
    let held_names = some(&rule.resource_names);
    let wanted_names = some(&part.resource_names);
    let names = held_names.is_empty()
        || (!wanted_names.is_empty() && wanted_names.iter().all(|n| held_names.contains(n)));
    let urls = some(&part.non_resource_urls)
        .iter()
        .all(|wanted| some(&rule.non_resource_urls).iter().any(|u| url_matches(u, wanted)));
    has(&rule.verbs, &part.verbs)
        && has(some(&rule.api_groups), some(&part.api_groups))
        && resources
        && names
        && urls
}

/// Rules of one resource with different verbs as one rule, for messages.
pub fn compact(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut merged: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let same = |m: &&mut PolicyRule| {
            m.api_groups == rule.api_groups
                && m.resources == rule.resources
                && m.resource_names == rule.resource_names
                && m.non_resource_urls == rule.non_resource_urls
                && rule.resources.is_some()
        };
        match merged.iter_mut().find(same) {
            Some(m) => {
                m.verbs.extend(rule.verbs.into_iter().filter(|v| !m.verbs.contains(v)).collect::<Vec<_>>())
            }
            None => merged.push(rule),
        }
    }
    merged
}

/// A rule as messages show it: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
pub fn describe(rule: &PolicyRule) -> String {
    let mut parts = Vec::new();
    let mut part = |name: &str, list: &[String]| {
        if !list.is_empty() {
            parts.push(format!("{name}:{}", quoted_list(list)));
        }
    };
    part("APIGroups", some(&rule.api_groups));
    part("Resources", some(&rule.resources));
    part("NonResourceURLs", some(&rule.non_resource_urls));
    part("ResourceNames", some(&rule.resource_names));
    part("Verbs", &rule.verbs);
    format!("{{{}}}", parts.join(", "))
}

/// Go's `%q` of a list of strings.
pub fn quoted_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|s| go_quote(s)).collect();
    format!("[{}]", quoted.join(" "))
}

/// The rules an aggregated ClusterRole must have: those of all it selects, selector by selector in the
/// order of their names, none twice. `None` when it aggregates nothing and keeps its own rules.
pub fn aggregate<'a>(
    role: &ClusterRole,
    all: impl IntoIterator<Item = &'a ClusterRole>,
) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut others: Vec<&ClusterRole> =
        all.into_iter().filter(|other| other.metadata.name != role.metadata.name).collect();
    others.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.iter().filter_map(|s| LabelSelector::from_meta(Some(s)).ok()) {
        let selected = others.iter().filter(|other| selector.matches(&other.metadata.labels));
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(value: serde_json::Value) -> PolicyRule {
        serde_json::from_value(value).unwrap()
    }

    fn get(resource: &'static str, subresource: &'static str, name: &'static str) -> Action<'static> {
        Action::Resource { verb: "get", group: "", resource, subresource, name }
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_beside() {
        let pods = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "*/scale"]}));
        assert!(allows(&pods, get("pods", "", "a")));
        assert!(allows(&pods, get("widgets", "scale", "a")));
        assert!(!allows(&pods, get("pods", "log", "a")));
        assert!(!allows(
            &pods,
            Action::Resource { verb: "get", group: "apps", resource: "pods", subresource: "", name: "" }
        ));
        let named =
            rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"]}));
        assert!(allows(&named, get("pods", "log", "a")));
        assert!(!allows(&named, get("pods", "", "")), "a list names no object");
    }

    #[test]
    fn paths_match_exactly_or_by_prefix() {
        let urls = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]}));
        let path = |path| Action::Path { verb: "get", path };
        assert!(allows(&urls, path("/healthz")));
        assert!(allows(&urls, path("/apis/apps")));
        assert!(!allows(&urls, path("/healthz/etcd")));
        assert!(!allows(&urls, path("/apis")));
    }

    #[test]
    fn nobody_may_grant_what_they_do_not_hold() {
        let held = [rule(json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}))];
        let wanted =
            [rule(json!({"verbs": ["get", "watch", "delete"], "apiGroups": [""], "resources": ["pods"]}))];
        let missing = compact(uncovered(&held, &wanted));
        let texts: Vec<String> = missing.iter().map(describe).collect();
        assert_eq!(texts, [r#"{APIGroups:[""], Resources:["pods"], Verbs:["watch" "delete"]}"#]);
        let all = [rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}))];
        assert!(uncovered(&all, &wanted).is_empty());
        let named =
            [rule(json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}))];
        assert!(!uncovered(&named, &wanted).is_empty(), "one name does not cover all names");
    }

    #[test]
    fn an_aggregated_role_collects_the_rules_of_those_it_selects() {
        let role = |v| serde_json::from_value::<ClusterRole>(v).unwrap();
        let view = role(
            json!({"metadata": {"name": "view"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"v": "1"}}]}}),
        );
        let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        let others = [
            role(json!({"metadata": {"name": "b", "labels": {"v": "1"}}, "rules": [pods]})),
            role(json!({"metadata": {"name": "a", "labels": {"v": "1"}}, "rules": [pods]})),
            role(json!({"metadata": {"name": "c"}, "rules": [{"verbs": ["*"]}]})),
        ];
        assert_eq!(aggregate(&view, &others).unwrap(), [rule(pods)]);
        assert!(aggregate(&others[0], &others).is_none());
    }
}
