//! Events are kept for an hour after they were last seen.
//!
//! They say when that was by the clock on the wall, which may be set: a node without a clock of its own
//! begins in the past and is told the time some minutes later. Such a jump is no time that has passed, so
//! [`Aging`] takes it off the age of what was seen before it.

use std::sync::Weak;
use std::time::{Duration, Instant};

use api::kinds;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::Range;

use crate::object;
use crate::state::State;

const KEPT: SignedDuration = SignedDuration::from_hours(1);
const EVERY: Duration = Duration::from_secs(60);
/// Two clocks that are read one after the other differ by less, also where one of them is being slewed.
const JUMP_MIN: SignedDuration = SignedDuration::from_secs(5);

/// Removes Events that have had their time, once a minute, as long as the server lives.
pub(crate) async fn run(state: Weak<State>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut aging = Aging::default();
    loop {
        ticks.tick().await;
        let Some(state) = state.upgrade() else { return };
        aging.look(Timestamp::now(), Instant::now());
        sweep(&state, &aging).await;
    }
}

/// What the clock on the wall has done, beside the steady one.
#[derive(Debug, Default)]
struct Aging {
    last: Option<(Timestamp, Instant)>,
    jumps: Vec<Jump>,
}

/// The clock was set.
#[derive(Debug)]
struct Jump {
    /// What it showed at most before it was set.
    before: Timestamp,
    /// By how much it was set forward.
    by: SignedDuration,
    at: Instant,
}

impl Aging {
    /// Compares the two clocks with what they were at the last look.
    fn look(&mut self, wall: Timestamp, steady: Instant) {
        let Some((before, since)) = self.last.replace((wall, steady)) else { return };
        let passed = SignedDuration::try_from(steady.saturating_duration_since(since)).unwrap_or_default();
        let by = wall.duration_since(before) - passed;
        if by.abs() >= JUMP_MIN {
            tracing::info!(seconds = by.as_secs(), "the clock was set; Events are kept as if it were not");
            self.jumps.push(Jump { before: before + passed, by, at: steady });
        }
        // What was seen before it is gone by then.
        self.jumps.retain(|jump| steady.saturating_duration_since(jump.at) <= 2 * KEPT.unsigned_abs());
    }

    /// How long ago something was, of which the clock said this then.
    fn age(&self, seen: Timestamp) -> SignedDuration {
        let Some((now, _)) = self.last else { return SignedDuration::ZERO };
        // After a jump back what was seen before it lies ahead, until the clock has caught up.
        let is_older = |jump: &&Jump| if jump.by.is_positive() { seen <= jump.before } else { seen > now };
        let jumped = self.jumps.iter().filter(is_older).map(|jump| jump.by);
        now.duration_since(seen) - jumped.sum::<SignedDuration>()
    }
}

async fn sweep(state: &State, aging: &Aging) {
    let Some(events) = kinds::find("", "v1", "events") else { return };
    let range = Range { prefix: object::prefix(events, ""), ..Range::default() };
    let Ok(page) = state.store.range(range).await else { return };
    for entry in page.entries {
        if object::read(&entry.value).is_ok_and(|event| is_over(&event, aging)) {
            // One that was seen again meanwhile stays: the removal compares.
            let _ = state.remove(events, &entry).await;
        }
    }
}

/// Whether an Event was last seen more than an hour ago. One that does not say when stays.
fn is_over(event: &Value, aging: &Aging) -> bool {
    let times = [
        &event["metadata"]["creationTimestamp"],
        &event["lastTimestamp"],
        &event["series"]["lastObservedTime"],
    ];
    let seen = times.into_iter().filter_map(|time| time.as_str()?.parse::<Timestamp>().ok()).max();
    seen.is_some_and(|seen| aging.age(seen) > KEPT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_stays_an_hour_after_it_was_last_seen() {
        let mut now = Aging::default();
        now.look("2026-11-21T12:00:00Z".parse().expect("a time"), Instant::now());
        let old = json!({"metadata": {"creationTimestamp": "2026-11-21T10:59:59Z"}});
        assert!(is_over(&old, &now));
        let mut seen_again = old.clone();
        seen_again["lastTimestamp"] = "2026-11-21T11:30:00Z".into();
        assert!(!is_over(&seen_again, &now));
        assert!(!is_over(&json!({}), &now));
    }

    #[test]
    fn a_clock_that_is_set_makes_no_event_older_or_younger() {
        let event = |seen: Timestamp| json!({"metadata": {"creationTimestamp": seen.to_string()}});
        let minutes = |count: u64| Duration::from_secs(60 * count);
        for set in [SignedDuration::from_hours(24 * 365), SignedDuration::from_hours(-30)] {
            let (wall, steady) =
                ("2026-11-21T12:00:00Z".parse::<Timestamp>().expect("a time"), Instant::now());
            let mut aging = Aging::default();
            aging.look(wall, steady);
            let (before, after) = (event(wall + minutes(1) / 2), event(wall + minutes(1) + set));
            aging.look(wall + minutes(1) + set, steady + minutes(1));
            for passed in [2, 45, 60] {
                aging.look(wall + minutes(passed) + set, steady + minutes(passed));
                assert!(!is_over(&before, &aging) && !is_over(&after, &aging), "{set:?}: {passed} minutes");
            }
            aging.look(wall + minutes(62) + set, steady + minutes(62));
            assert!(is_over(&before, &aging) && is_over(&after, &aging), "{set:?}");
        }
    }
}
