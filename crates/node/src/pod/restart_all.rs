//! Starting a Pod over where it is: the rule `RestartAllContainers` of a container that has ended.
//!
//! Everything but the containers stays (sandbox, addresses, volumes). All of them end without their hooks, then
//! the init containers run again, and the others after them, each with one more restart.

use super::clock::Now;
use super::policy;
use super::spec::{self, Role};
use super::state::{Phase, PodState, Waiting, WaitingReason};
use super::step::Actions;
use super::stop;

/// Reason of what ended, or waits, because of it.
pub const REASON: &str = "RestartingAllContainers";

/// The condition that tells of it.
pub const CONDITION: &str = "AllContainersRestarting";

/// Whether a container of the Pod has such a rule: then the Pod has a condition for it.
pub fn is_possible(state: &PodState) -> bool {
    spec::containers(&state.pod).any(|(_, spec)| policy::has_restart_all(&spec))
}

/// Begins, or goes on with, starting over; false: there is nothing of that.
pub(super) fn advance(state: &mut PodState, now: Now, actions: &mut Actions) -> bool {
    if !state.restarting_all {
        state.restarting_all = (0..state.containers.len()).any(|at| asks_for_it(state, at));
    }
    if !state.restarting_all {
        return false;
    }
    for at in 0..state.containers.len() {
        if state.containers[at].role == Role::Ephemeral {
            continue;
        }
        stop::cancel_start(&mut state.containers[at], actions);
        if stop::end_at_once(state, at, now, actions) {
            state.containers[at].restart_forced = true;
        }
    }
    let ended = state.containers.iter().all(|one| one.role == Role::Ephemeral || !one.phase.holds_process());
    if ended {
        begin_again(state);
        state.restarting_all = false;
    }
    // What begins again does so by the next look at the whole, which this step still makes.
    !ended
}

/// Whether the latest end of a container, not heeded yet, matches such a rule.
fn asks_for_it(state: &PodState, at: usize) -> bool {
    let container = &state.containers[at];
    let Some(exit) = container.exited.as_ref().filter(|_| !container.restart_heeded) else { return false };
    let idle = matches!(container.phase, Phase::Idle { .. }) && !container.restart_forced;
    let spec = state.spec_of(&container.name);
    idle && spec.is_some_and(|spec| policy::restarts_all(&spec, container.role, exit.code))
}

fn begin_again(state: &mut PodState) {
    for at in 0..state.containers.len() {
        let asked = asks_for_it(state, at);
        let container = &mut state.containers[at];
        if container.role == Role::Ephemeral {
            continue;
        }
        // As if nothing had been started in this sandbox: init containers come first.
        container.ran_in = None;
        container.probes = Default::default();
        container.phase = Phase::Idle { retry_at: None };
        let Some(exit) = &mut container.exited else { continue };
        if container.restart_forced {
            exit.reason = REASON.into();
        }
        // The one whose end it was waits as after any crash, or a Pod that fails at once would never rest.
        let waits = asked && exit.code != 0;
        container.restart_forced = !waits;
        container.restart_heeded = true;
        container.waiting =
            Some(Waiting { reason: WaitingReason::RestartingAllContainers, message: String::new() });
    }
}
