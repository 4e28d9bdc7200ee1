//! Whole lives of Pods, played against a world that does at once what it is asked.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use super::event::{Action, Event, StartFailure};
use super::observe::Because;
use super::probe::{Outcome, ProbeKind};
use super::state::{Cause, PodState};
use super::step::{step, wakes_after};

use super::world::{World, pod};

fn one(container: Value) -> Value {
    let mut container = container;
    container["name"] = "c".into();
    container["image"] = "img".into();
    json!({"containers": [container], "terminationGracePeriodSeconds": 30})
}

#[test]
fn a_plain_pod_comes_up_ready_with_upstreams_events_and_conditions() {
    let world = World::new(pod(one(json!({}))));
    assert_eq!(
        world.log,
        [
            "Pulled: Container image \"img\" already present on machine and can be accessed by the pod",
            "start c/0",
            "Started: Container started",
        ]
    );
    assert_eq!(world.phase(), "Running");
    let kinds: Vec<_> = world
        .status
        .conditions
        .iter()
        .flatten()
        .map(|one| (one.type_.as_str(), one.status.as_str()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("PodReadyToStartContainers", "True"),
            ("Initialized", "True"),
            ("Ready", "True"),
            ("ContainersReady", "True"),
            ("PodScheduled", "True")
        ]
    );
    assert_eq!(world.shown("c")["containerID"], "monopod://c-1");
}

#[test]
fn init_containers_run_in_order_before_the_mains_and_a_sidecar_stays() {
    let spec = json!({
        "initContainers": [
            {"name": "i1", "image": "img"}, {"name": "side", "image": "img", "restartPolicy": "Always"}, {"name": "i2", "image": "img"}],
        "containers": [{"name": "a", "image": "img"}, {"name": "b", "image": "img"}],
    });
    let mut world = World::new(pod(spec));
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["i1"]);
    assert_eq!(
        (world.phase(), &world.shown("a")["state"]["waiting"]["reason"]),
        ("Pending", &json!("PodInitializing"))
    );
    assert_eq!(
        world.condition("Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [i1 side i2]"
    );
    world.exit("i1", 0);
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["i2", "side"]);
    world.exit("i2", 0);
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["a", "b", "side"]);
    assert_eq!((world.phase(), world.condition("Initialized")), ("Running", "True".to_string()));
    world.delete(30);
    let stops: Vec<_> = world.log.iter().filter(|line| line.starts_with("terminate")).collect();
    assert_eq!(stops, ["terminate b", "terminate a", "terminate side"], "sidecars go last");
    assert!(world.state.is_gone());
}

#[test]
fn a_crashing_container_waits_longer_each_time() {
    let mut world = World::new(pod(one(json!({}))));
    world.exit("c", 3);
    assert!(world.running.contains_key("c"), "the first restart does not wait");
    world.exit("c", 3);
    let waiting = &world.shown("c")["state"]["waiting"];
    assert_eq!(waiting["reason"], "CrashLoopBackOff");
    assert_eq!(waiting["message"], "back-off 10s restarting failed container=c pod=web_parity(u1)");
    assert_eq!(world.shown("c")["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(world.shown("c")["restartCount"], 1);
    assert!(world.logged("BackOff: Back-off restarting failed container c in pod web_parity(u1)"));
    assert_eq!(world.phase(), "Running");
    world.pass(9);
    assert!(world.running.is_empty());
    world.pass(1);
    assert!(world.running.contains_key("c"));
    world.exit("c", 3);
    world.pass(19);
    assert!(world.running.is_empty(), "now it is 20 seconds");
    world.pass(1);
    assert_eq!(world.shown("c")["restartCount"], 3);
}

#[test]
fn pods_that_do_not_restart_end_by_their_exit_codes() {
    for (policy, code, phase, ready) in [
        ("Never", 0, "Succeeded", "False PodCompleted"),
        ("Never", 7, "Failed", "False PodFailed"),
        ("OnFailure", 0, "Succeeded", "False PodCompleted"),
    ] {
        let mut spec = one(json!({}));
        spec["restartPolicy"] = policy.into();
        let mut world = World::new(pod(spec));
        world.exit("c", code);
        assert_eq!((world.phase(), world.condition("Ready").as_str()), (phase, ready), "{policy} {code}");
        assert_eq!(world.shown("c")["state"]["terminated"]["exitCode"], code);
        assert_eq!(world.condition("PodReadyToStartContainers"), "False");
        assert!(world.logged("stop sandbox") && !world.logged("delete object"), "the object stays");
        world.delete(0);
        assert!(world.state.is_gone());
    }
}

#[test]
fn a_failed_init_container_of_a_never_pod_fails_the_pod() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});
    let mut world = World::new(pod(spec));
    world.exit("i", 1);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.shown("a")["state"]["waiting"]["reason"], "PodInitializing");
    assert!(world.running.is_empty());
}

#[test]
fn a_pull_that_fails_backs_off_in_upstreams_words() {
    let mut world = World::failing(pod(one(json!({}))), &[("image", 1)]);
    assert_eq!(world.shown("c")["state"]["waiting"]["reason"], "ErrImagePull");
    assert!(
        world.logged("Failed: Failed to pull image \"img\": no such image")
            && world.logged("Failed: Error: ErrImagePull")
    );
    world.pass(1);
    let waiting = &world.shown("c")["state"]["waiting"];
    assert_eq!(waiting["reason"], "ImagePullBackOff");
    assert_eq!(waiting["message"], "Back-off pulling image \"img\": ErrImagePull: no such image");
    world.pass(10);
    assert_eq!(world.phase(), "Running");
}

#[test]
fn a_missing_config_map_is_tried_again_when_it_appears() {
    let mut world = World::failing(pod(one(json!({}))), &[("config", 1)]);
    let waiting = &world.shown("c")["state"]["waiting"];
    assert_eq!(
        (&waiting["reason"], &waiting["message"]),
        (&json!("CreateContainerConfigError"), &json!("configmap \"x\" not found"))
    );
    world.event(Event::SourcesChanged);
    assert_eq!(world.phase(), "Running");
}

#[test]
fn a_program_that_cannot_be_executed_ends_with_128() {
    let mut spec = one(json!({}));
    spec["restartPolicy"] = "Never".into();
    let world = World::failing(pod(spec), &[("start", 1)]);
    let ended = &world.shown("c")["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("StartError"), &json!(128)));
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn probes_gate_each_other_and_a_failed_liveness_probe_restarts() {
    let probe = |failures: i32| json!({"exec": {"command": ["x"]}, "failureThreshold": failures});
    let mut world = World::new(pod(one(json!({
        "startupProbe": probe(3), "livenessProbe": probe(2), "readinessProbe": probe(1)
    }))));
    let probes = |world: &World| -> Vec<ProbeKind> {
        let kinds = world.held.iter().filter_map(|action| match action {
            Action::StartProbe { kind, .. } => Some(*kind),
            _ => None,
        });
        kinds.collect()
    };
    assert_eq!(probes(&world), [ProbeKind::Startup]);
    assert_eq!(
        (&world.shown("c")["started"], world.condition("Ready").as_str()),
        (&json!(false), "False ContainersNotReady containers with unready status: [c]")
    );
    world.probe("c", ProbeKind::Startup, Outcome::Success);
    assert_eq!(probes(&world), [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness]);
    world.probe("c", ProbeKind::Readiness, Outcome::Success);
    assert_eq!(world.condition("Ready"), "True");
    world.probe("c", ProbeKind::Readiness, Outcome::Failure("no".into()));
    assert!(world.logged("Unhealthy: Readiness probe failed: no"));
    assert_eq!(world.condition("Ready"), "False ContainersNotReady containers with unready status: [c]");
    world.probe("c", ProbeKind::Liveness, Outcome::Failure("dead".into()));
    assert!(!world.logged("Killing"));
    world.probe("c", ProbeKind::Liveness, Outcome::Failure("dead".into()));
    assert!(world.logged("Killing: Container c failed liveness probe, will be restarted"));
    assert_eq!(world.shown("c")["restartCount"], 1);
}

#[test]
fn a_failed_post_start_hook_kills_the_container() {
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}});
    let world = World::failing(pod(one(hook)), &[("post", 1)]);
    assert!(
        world.logged("FailedPostStartHook: PostStartHook failed")
            && world.logged("Killing: FailedPostStartHook")
    );
    assert_eq!(world.shown("c")["restartCount"], 1);
}

#[test]
fn the_grace_of_a_deletion_only_shrinks_and_never_below_two_seconds() {
    let mut world = World::new(pod(one(json!({}))));
    world.stubborn = true;
    world.delete(30);
    assert!(world.logged("terminate c") && world.logged("Killing: Stopping container c"));
    world.pass(5);
    world.delete(60);
    world.pass(20);
    world.delete(0);
    world.pass(1);
    assert!(!world.logged("kill c"), "two seconds are the least");
    world.pass(1);
    assert!(world.logged("kill c") && world.state.is_gone());
    assert_eq!(world.log.last().unwrap(), "delete object");
}

#[test]
fn a_stop_goes_from_the_hook_to_the_signal_to_the_kill_each_at_its_time() {
    let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["x"]}}}});
    let stops = |world: &World| -> Vec<String> {
        let words = ["preStop", "terminate", "kill", "FailedPreStopHook"];
        let mine = world.log.iter().filter(|line| words.iter().any(|word| line.starts_with(word)));
        mine.cloned().collect()
    };
    let mut world = World::failing(pod(one(hook.clone())), &[("pre", 1)]);
    world.stubborn = true;
    world.delete(30);
    assert_eq!(stops(&world), ["preStop c", "FailedPreStopHook: PreStopHook failed", "terminate c"]);
    world.pass(29);
    assert_eq!(stops(&world).len(), 3);
    world.pass(1);
    assert_eq!(stops(&world).last().unwrap(), "kill c");

    let mut world = World::new(pod(one(hook.clone())));
    (world.stubborn, world.slow_hook) = (true, true);
    world.delete(10);
    world.pass(9);
    assert_eq!(stops(&world), ["preStop c"]);
    world.pass(1);
    assert_eq!(stops(&world), ["preStop c", "terminate c"], "the hook has had all the time there was");
    world.pass(1);
    assert_eq!(stops(&world).len(), 2, "the signal gets two seconds all the same");
    world.pass(1);
    assert_eq!(stops(&world).last().unwrap(), "kill c");

    let mut world = World::new(pod(one(hook)));
    world.delete(0);
    assert_eq!(stops(&world), ["terminate c"], "there is no time for the hook");
}

#[test]
fn a_clock_that_is_set_changes_no_wait() {
    let mut world = World::new(pod(one(json!({}))));
    world.exit("c", 3);
    world.exit("c", 3);
    world.now.time -= SignedDuration::from_hours(3);
    world.pass(9);
    assert!(world.running.is_empty());
    world.pass(1);
    assert!(world.running.contains_key("c"), "the back-off of ten seconds is over");
    world.stubborn = true;
    world.delete(30);
    world.now.time += SignedDuration::from_hours(9);
    world.pass(29);
    assert!(world.running.contains_key("c"), "the grace is not over");
    world.pass(1);
    assert!(world.state.is_gone());
}

#[test]
fn what_falls_due_between_a_step_and_the_next_look_is_due_at_once() {
    let mut world = World::new(pod(one(json!({}))));
    world.exit("c", 3);
    world.exit("c", 3);
    let stepped = world.now;
    world.advance(SignedDuration::from_secs(11));
    assert_eq!(wakes_after(&world.state, stepped), Some(std::time::Duration::from_secs(10)));
}

#[test]
fn a_pod_too_old_fails_with_deadline_exceeded() {
    let mut spec = one(json!({}));
    spec["activeDeadlineSeconds"] = 60.into();
    let mut world = World::new(pod(spec));
    world.pass(59);
    assert_eq!(world.phase(), "Running");
    world.pass(1);
    assert_eq!((world.phase(), world.status.reason.as_deref()), ("Failed", Some("DeadlineExceeded")));
    assert!(world.logged("DeadlineExceeded: Pod was active on the node longer than the specified deadline"));
}

#[test]
fn a_refused_pod_fails_without_anything_being_made() {
    let mut world = World::new(pod(one(json!({}))));
    world.log.clear();
    world.running.clear();
    world.status = PodStatus::default();
    world.sandbox = None;
    world.sandboxes = 0;
    world.instances.clear();
    world.state = PodState::admitted(Arc::clone(&world.state.pod), world.now.time);
    world.event(Event::Refused { reason: "NodeAffinity".into(), message: "no".into() });
    let nothing = world.look(Because::TakenUp);
    world.event(nothing);
    assert_eq!((world.phase(), world.status.reason.as_deref()), ("Failed", Some("NodeAffinity")));
    assert_eq!(world.log, ["NodeAffinity: no"]);
}

#[test]
fn only_who_was_evicted_is_said_to_have_been_disrupted_also_when_the_node_begins_anew() {
    let evict =
        Event::Evicted { cause: Cause::Evicted, message: "low".into(), grace_period_seconds: Some(0) };
    let refuse = Event::Refused { reason: "Evicted".into(), message: "no room".into() };
    for (event, disrupted) in [(evict, true), (refuse, false)] {
        let mut world = World::new(pod(one(json!({}))));
        world.event(event);
        world.pass(10);
        let conditions = |world: &World| {
            let all = world.status.conditions.iter().flatten();
            all.filter(|one| one.type_ == "DisruptionTarget").count()
        };
        let seen = |world: &World| (world.phase().to_owned(), world.status.reason.clone(), conditions(world));
        let wanted = ("Failed".to_owned(), Some("Evicted".to_owned()), usize::from(disrupted));
        assert_eq!(seen(&world), wanted);
        world.restart();
        assert_eq!(seen(&world), wanted, "after the node began anew");
    }
}

#[test]
fn a_lost_sandbox_is_made_again_and_init_containers_run_again() {
    let spec = json!({"initContainers": [{"name": "i", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});
    let mut world = World::new(pod(spec));
    world.exit("i", 0);
    world.running.clear();
    world.event(Event::SandboxDied { id: "s0".into() });
    assert!(world.logged("SandboxChanged: Pod sandbox changed, it will be killed and re-created."));
    assert!(world.running.contains_key("i"), "{:?}", world.log);
    world.exit("i", 0);
    world.pass(300);
    assert!(world.running.contains_key("a"));
}

#[test]
fn what_runs_goes_on_when_the_node_starts_again() {
    let mut world = World::new(pod(one(json!({}))));
    world.exit("c", 1);
    let before = (world.running.clone(), world.shown("c"));
    world.log.clear();
    world.restart();
    assert_eq!((world.running.clone(), world.shown("c")), before);
    assert!(!world.log.iter().any(|line| line.starts_with("start")), "{:?}", world.log);
    world.exit("c", 1);
    assert_eq!(
        world.shown("c")["state"]["waiting"]["reason"],
        "CrashLoopBackOff",
        "the back-off is remembered"
    );
}

#[test]
fn init_containers_run_again_after_the_machine_was_switched_off() {
    let spec = json!({"initContainers": [{"name": "i", "image": "img"}], "containers": [{"name": "a", "image": "img"}]});
    let mut world = World::new(pod(spec));
    world.exit("i", 0);
    assert!(world.running.contains_key("a"));
    world.power_off();
    world.restart();
    world.pass(300);
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["i"], "the main waits: {:?}", world.log);
    world.exit("i", 0);
    world.pass(300);
    assert_eq!(world.running.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(world.shown("a")["restartCount"], 1);
}

#[test]
fn a_container_whose_start_the_api_never_heard_of_is_ready_after_a_restart() {
    let hook = json!({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}});
    for status in [None, Some("stale")] {
        let mut world = World::new(pod(one(hook.clone())));
        let mut stale = world.status.clone();
        for one in stale.container_statuses.iter_mut().flatten() {
            (one.started, one.ready, one.container_id) = (Some(false), false, Some("monopod://old".into()));
        }
        world.restart_with(status.map(|_| stale));
        assert_eq!((&world.shown("c")["started"], &world.shown("c")["ready"]), (&json!(true), &json!(true)));
        assert_eq!(world.condition("Ready"), "True");
    }
}

#[test]
fn a_startup_probe_that_had_not_succeeded_goes_on_after_a_restart() {
    let probe = json!({"exec": {"command": ["x"]}, "failureThreshold": 3});
    let mut world = World::new(pod(one(json!({"startupProbe": probe}))));
    world.held.clear();
    world.restart();
    assert!(
        matches!(&world.held[..], [Action::StartProbe { kind: ProbeKind::Startup, .. }]),
        "{:?}",
        world.held
    );
    world.probe("c", ProbeKind::Startup, Outcome::Success);
    world.restart();
    assert_eq!(world.shown("c")["started"], true, "a success is remembered by the API");
}

#[test]
fn an_audit_finds_an_exit_and_a_dead_sandbox_that_nobody_told() {
    let mut world = World::new(pod(one(json!({}))));
    let found = |world: &mut World| {
        world.advance(SignedDuration::from_secs(1));
        let seen = world.look(Because::Audit);
        let (_, actions) = step(world.state.clone(), seen.clone(), world.now);
        world.event(seen);
        let reports = actions.into_iter().filter_map(|action| match action {
            Action::Report { found, .. } => Some(found),
            _ => None,
        });
        reports.collect::<Vec<_>>()
    };
    assert_eq!(found(&mut world), [""; 0], "there is nothing to find");
    let id = world.running["c"].0.clone();
    world.ended(&id, 5);
    assert_eq!(found(&mut world), ["container c had ended with 5"]);
    assert_eq!(world.shown("c")["restartCount"], 1);
    world.power_off();
    let lost = found(&mut world);
    assert_eq!(lost, ["its sandbox had died"]);
    assert!(world.logged("SandboxChanged"));
    world.pass(20);
    assert!(world.running.contains_key("c"));
}

#[test]
fn an_observation_older_than_a_start_takes_nothing_away() {
    let mut world = World::new(pod(one(json!({}))));
    let Event::Observed(mut old) = world.look(Because::Audit) else { unreachable!() };
    old.asked_at = world.now.steady;
    old.sandboxes.clear();
    world.event(Event::Observed(old));
    assert_eq!(world.shown("c")["restartCount"], 0);
    assert!(!world.logged("SandboxChanged"));
}

#[test]
fn a_start_whose_answer_was_lost_is_taken_over_not_repeated() {
    let mut world = World::new(pod(one(json!({}))));
    let (id, _) = world.running["c"].clone();
    // As if the task that started it had died: the worker tells a failure and looks.
    let failed = Event::ContainerFailed {
        container: "c".into(),
        attempt: 0,
        failure: StartFailure::Create,
        message: "the task that starts it panicked".into(),
    };
    world.state.containers[0].phase =
        super::state::Phase::Starting(super::state::Start { attempt: 0, sandbox: 0 });
    world.event(failed);
    world.advance(SignedDuration::from_secs(1));
    let seen = world.look(Because::TaskLost);
    world.event(seen);
    assert_eq!(world.shown("c")["containerID"], format!("monopod://{id}"));
    world.pass(60);
    assert_eq!(world.log.iter().filter(|line| line.starts_with("start ")).count(), 1);
}

#[test]
fn nothing_is_done_before_the_runtime_has_said_what_it_has() {
    let pod = Arc::new(pod(one(json!({}))));
    let now = World::new(Pod::clone(&pod)).now;
    let state = PodState::admitted(Arc::clone(&pod), now.time);
    let (state, actions) = step(state, Event::PodChanged(pod), now);
    assert_eq!((actions, wakes_after(&state, now)), (vec![], None));
}
