//! What becomes of a Pod that wishes for another size, and what its status says meanwhile.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::pod::event::Event;
use crate::pod::world::{World, pod};

fn resources(cpu: &str, memory: &str) -> Value {
    let amounts = json!({"cpu": cpu, "memory": memory});
    json!({"requests": amounts, "limits": amounts})
}

/// One container of this size.
fn world(policy: &str) -> World {
    let policies = json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": policy}]);
    World::new(pod(json!({"containers": [{
        "name": "c", "image": "img", "resources": resources("100m", "10Mi"), "resizePolicy": policies,
    }]})))
}

/// Somebody wishes another size.
fn wish(world: &mut World, cpu: &str, memory: &str) {
    let mut pod = Pod::clone(&world.state.wished);
    pod.metadata.generation = pod.metadata.generation.map(|generation| generation + 1);
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    container.resources = serde_json::from_value(resources(cpu, memory)).unwrap();
    world.event(Event::PodChanged(Arc::new(pod)));
}

/// Type, reason, message and observed generation of the conditions of a resize.
fn conditions(world: &World) -> Vec<String> {
    let all = world.status.conditions.iter().flatten().filter(|one| one.type_.starts_with("PodResize"));
    let text = |one: &PodCondition| {
        let (reason, message) = (one.reason.as_deref().unwrap_or("-"), one.message.as_deref().unwrap_or("-"));
        format!("{} {} {reason}: {message}", one.type_, one.observed_generation.unwrap_or_default())
    };
    all.map(text).collect()
}

/// Limits of cpu in the status: what runs has, and what is set apart.
fn shown(world: &World) -> [Value; 2] {
    let shown = world.shown("c");
    [shown["resources"]["limits"]["cpu"].clone(), shown["allocatedResources"]["cpu"].clone()]
}

fn limits(world: &World) -> [(u64, i64, i64); 2] {
    let numbers = |of: &Resources| (of.cpu_shares, of.cpu_quota, of.memory_limit);
    let running = world.instances.iter().find(|(_, one)| one.state.is_ok());
    [numbers(&world.limits), numbers(&running.unwrap().1.resources)]
}

const SMALL: (u64, i64, i64) = (102, 10_000, 10 << 20);
const LARGE: (u64, i64, i64) = (204, 20_000, 20 << 20);

#[test]
fn a_pod_gets_the_size_that_it_wishes_and_says_so() {
    let mut world = world("NotRequired");
    assert_eq!((limits(&world), shown(&world)), ([SMALL, SMALL], [json!("100m"), json!("100m")]));
    world.log.clear();
    wish(&mut world, "200m", "20Mi");
    assert_eq!((limits(&world), shown(&world)), ([LARGE, LARGE], [json!("200m"), json!("200m")]));
    assert_eq!(conditions(&world), Vec::<String>::new());
    let size = r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"200m","memory":"20Mi"},"requests":{"cpu":"200m","memory":"20Mi"}}}],"generation":2}"#;
    assert_eq!(world.log.first().unwrap(), &format!("ResizeStarted: Pod resize started: {size}"));
    assert_eq!(world.log.last().unwrap(), &format!("ResizeCompleted: Pod resize completed: {size}"));
    wish(&mut world, "100m", "10Mi");
    assert_eq!((limits(&world), world.shown("c")["restartCount"].clone()), ([SMALL, SMALL], json!(0)));
    // The same amounts in other words are no other size.
    world.log.clear();
    wish(&mut world, "0.1", "10240Ki");
    assert_eq!(world.log, Vec::<String>::new());
}

#[test]
fn a_container_whose_policy_wants_it_is_started_anew_in_its_new_size() {
    let mut world = world("RestartContainer");
    wish(&mut world, "200m", "10Mi");
    assert_eq!(world.shown("c")["restartCount"], 0, "only cpu has changed");
    wish(&mut world, "200m", "20Mi");
    assert!(world.logged("Killing: Container c resize requires restart"), "{:?}", world.log);
    assert_eq!((limits(&world), world.shown("c")["restartCount"].clone()), ([LARGE, LARGE], json!(1)));
    assert!(world.log.last().unwrap().starts_with("ResizeCompleted"), "{:?}", world.log);
}

#[test]
fn a_wish_that_the_node_has_no_room_for_waits_and_one_it_never_has_does_not() {
    let mut world = world("NotRequired");
    world.room = Room::Deferred("no cpu".into());
    wish(&mut world, "200m", "20Mi");
    assert_eq!(conditions(&world), ["PodResizePending 2 Deferred: no cpu"]);
    assert_eq!((limits(&world), shown(&world)), ([SMALL, SMALL], [json!("100m"), json!("100m")]));
    let told = |world: &World| world.log.iter().filter(|line| line.starts_with("Resize")).count();
    assert!(world.logged("ResizeDeferred: Pod resize Deferred: {\"containers\""), "{:?}", world.log);
    let (again, before) = (world.decide().unwrap(), told(&world));
    world.event(again);
    assert_eq!(told(&world), before, "the same answer is no news");
    world.room = Room::Infeasible("never".into());
    wish(&mut world, "999", "20Mi");
    assert_eq!(conditions(&world), ["PodResizePending 3 Infeasible: never"]);
    assert!(world.log.last().unwrap().ends_with(r#""generation":3,"error":"never"}"#), "{:?}", world.log);
    wish(&mut world, "100m", "10Mi");
    assert_eq!(conditions(&world), Vec::<String>::new(), "the wish was taken back");
    world.room = Room::Deferred("no cpu".into());
    wish(&mut world, "200m", "20Mi");
    world.room = Room::Fits;
    let freed = world.decide().unwrap();
    world.event(freed);
    assert_eq!((limits(&world), conditions(&world)), ([LARGE, LARGE], Vec::new()));
}

#[test]
fn what_cannot_be_done_is_tried_again_and_said_once() {
    let mut world = world("NotRequired");
    world.fail = [("resize", 2), ("keep", 1)].into();
    wish(&mut world, "200m", "20Mi");
    assert_eq!(conditions(&world), ["PodResizeInProgress 2 Error: disk full"]);
    world.pass(10);
    assert_eq!(conditions(&world), ["PodResizeInProgress 2 Error: too low"]);
    assert_eq!(shown(&world), [json!("100m"), json!("200m")], "granted, and not in effect");
    world.pass(10);
    let errors = world.log.iter().filter(|line| line.starts_with("ResizeError") && line.contains("too low"));
    assert_eq!(errors.count(), 1, "{:?}", world.log);
    world.pass(10);
    assert_eq!((limits(&world), conditions(&world)), ([LARGE, LARGE], Vec::new()));
}

#[test]
fn a_node_that_begins_anew_goes_on_with_what_it_has_granted() {
    let mut world = world("NotRequired");
    world.fail = [("resize", 1)].into();
    wish(&mut world, "200m", "20Mi");
    assert_eq!(limits(&world), [SMALL, SMALL]);
    // Others have come meanwhile: what was granted stays granted.
    world.room = Room::Deferred("no cpu".into());
    world.restart();
    assert_eq!((limits(&world), conditions(&world)), ([LARGE, LARGE], Vec::new()));
    assert!(world.log.last().unwrap().starts_with("ResizeCompleted"), "{:?}", world.log);
    wish(&mut world, "300m", "30Mi");
    world.restart();
    assert_eq!(conditions(&world), ["PodResizePending 3 Deferred: no cpu"]);
    assert_eq!((limits(&world), shown(&world)), ([LARGE, LARGE], [json!("200m"), json!("200m")]));
}

#[test]
fn a_pod_that_is_going_away_keeps_its_size() {
    let mut world = world("NotRequired");
    world.stubborn = true;
    world.delete(30);
    wish(&mut world, "200m", "20Mi");
    assert_eq!((limits(&world), conditions(&world)), ([SMALL, SMALL], Vec::new()));
}
