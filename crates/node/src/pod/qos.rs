//! The quality-of-service class of a Pod, and other sums over its containers.

use std::collections::BTreeMap;

use api::quantity::Quantity as Amount;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use runtime::QosClass;

type List = BTreeMap<String, Quantity>;

/// The class by upstream's rule: every container limits cpu and memory and asks for
/// as much: Guaranteed; nobody asks for anything: BestEffort. Pod-level resources win.
pub fn class(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    if let Some(resources) = &spec.resources {
        return of_resources([resources].into_iter());
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let none = ResourceRequirements::default();
    of_resources(containers.map(|container| container.resources.as_ref().unwrap_or(&none)))
}

fn of_resources<'a>(all: impl Iterator<Item = &'a ResourceRequirements>) -> QosClass {
    let (mut guaranteed, mut any) = (true, false);
    for resources in all {
        for name in ["cpu", "memory"] {
            let request = positive(resources.requests.as_ref(), name);
            let limit = positive(resources.limits.as_ref(), name);
            any |= request.is_some() || limit.is_some();
            guaranteed &=
                limit.is_some() && request.as_ref().is_none_or(|request| Some(request) == limit.as_ref());
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

fn positive(list: Option<&List>, name: &str) -> Option<Amount> {
    let amount: Amount = list?.get(name)?.0.parse().ok()?;
    (amount.as_f64() > 0.0).then_some(amount)
}

/// The word of the API.
pub fn word(class: QosClass) -> &'static str {
    match class {
        QosClass::Guaranteed => "Guaranteed",
        QosClass::Burstable => "Burstable",
        QosClass::BestEffort => "BestEffort",
    }
}

/// What the containers ask for together: the sum of mains and sidecars, or the largest
/// ordinary init container with the sidecars before it, whichever is more.
pub fn requests(spec: &PodSpec) -> List {
    total(spec, |resources| resources.requests.as_ref())
}

/// The same for limits.
pub fn limits(spec: &PodSpec) -> List {
    total(spec, |resources| resources.limits.as_ref())
}

fn total(spec: &PodSpec, pick: impl Fn(&ResourceRequirements) -> Option<&List>) -> List {
    let mut sum: BTreeMap<String, Amount> = BTreeMap::new();
    for container in &spec.containers {
        add(&mut sum, container.resources.as_ref().and_then(&pick));
    }
    let mut sidecars = BTreeMap::new();
    let mut peak: BTreeMap<String, Amount> = BTreeMap::new();
    for container in spec.init_containers.iter().flatten() {
        let list = container.resources.as_ref().and_then(&pick);
        let mut here = sidecars.clone();
        add(&mut here, list);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, list);
            sidecars = here.clone();
        }
        raise(&mut peak, &here);
    }
    raise(&mut sum, &peak);
    let mut total: List =
        sum.into_iter().map(|(name, amount)| (name, Quantity(amount.to_string()))).collect();
    if let Some(own) = spec.resources.as_ref().and_then(pick) {
        total.extend(own.iter().map(|(name, quantity)| (name.clone(), quantity.clone())));
    }
    total
}

fn add(sum: &mut BTreeMap<String, Amount>, list: Option<&List>) {
    for (name, quantity) in list.into_iter().flatten() {
        let Ok(amount) = quantity.0.parse::<Amount>() else { continue };
        match sum.get_mut(name) {
            Some(present) => present.add(&amount),
            None => drop(sum.insert(name.clone(), amount)),
        }
    }
}

fn raise(sum: &mut BTreeMap<String, Amount>, other: &BTreeMap<String, Amount>) {
    for (name, amount) in other {
        let present = sum.entry(name.clone()).or_insert_with(|| amount.clone());
        if &*present < amount {
            *present = amount.clone();
        }
    }
}
