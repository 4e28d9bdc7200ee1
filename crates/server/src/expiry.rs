//! What is not kept for ever, Events above all, goes some time after it was last seen.
//!
//! Objects say when that was by the clock on the wall, which may be set: a node without a clock of its own
//! begins in the past and is told the time some minutes later. Such a jump is no time that has passed, so
//! [`Aging`] takes it off the age of what was seen before it.

use std::sync::Weak;
use std::time::{Duration, Instant};

use api::kinds::{Kind, Lifetime};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::Range;

use crate::object;
use crate::state::State;

const EVERY: Duration = Duration::from_secs(60);
/// Two clocks that are read one after the other differ by less, also where one of them is being slewed.
const JUMP_MIN: SignedDuration = SignedDuration::from_secs(5);

/// Removes objects that have had their time, once a minute, as long as the server lives.
pub(crate) async fn run(state: Weak<State>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut aging = Aging::default();
    loop {
        ticks.tick().await;
        let Some(state) = state.upgrade() else { return };
        let kinds = state.registry.kinds();
        let limited = || kinds.all().iter().filter(|kind| kind.is_storage());
        let limited = || limited().filter_map(|kind| Some((&**kind, kind.lifetime?)));
        let longest = limited().map(|(_, lifetime)| lifetime.kept).max().unwrap_or_default();
        aging.look(Timestamp::now(), Instant::now(), longest);
        for (kind, lifetime) in limited() {
            sweep(&state, kind, lifetime, &aging).await;
        }
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
    /// Compares the two clocks with what they were at the last look. Nothing is kept for longer than `longest`.
    fn look(&mut self, wall: Timestamp, steady: Instant, longest: SignedDuration) {
        let Some((before, since)) = self.last.replace((wall, steady)) else { return };
        let passed = SignedDuration::try_from(steady.saturating_duration_since(since)).unwrap_or_default();
        let by = wall.duration_since(before) - passed;
        if by.abs() >= JUMP_MIN {
            tracing::info!(
                seconds = by.as_secs(),
                "the clock was set; what is kept for a time stays as if it were not"
            );
            self.jumps.push(Jump { before: before + passed, by, at: steady });
        }
        // What was seen before it is gone by then.
        self.jumps.retain(|jump| steady.saturating_duration_since(jump.at) <= 2 * longest.unsigned_abs());
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

async fn sweep(state: &State, kind: &Kind, lifetime: Lifetime, aging: &Aging) {
    let range = Range { prefix: object::prefix(kind, ""), ..Range::default() };
    let Ok(page) = state.store.range(range).await else { return };
    for entry in page.entries {
        if object::read(&entry.value).is_ok_and(|object| is_over(&object, lifetime, aging)) {
            // One that was seen again meanwhile stays: the removal compares.
            let _ = state.remove(kind, &entry).await;
        }
    }
}

/// Whether an object was last seen longer ago than it is kept. One that does not say when stays.
fn is_over(object: &Value, lifetime: Lifetime, aging: &Aging) -> bool {
    (lifetime.last_seen)(object).is_some_and(|seen| aging.age(seen) > lifetime.kept)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn events() -> Lifetime {
        api::kinds::find("", "v1", "events").and_then(|kind| kind.lifetime).expect("Events go")
    }

    fn is_over(event: &Value, aging: &Aging) -> bool {
        super::is_over(event, events(), aging)
    }

    #[test]
    fn an_event_stays_an_hour_after_it_was_last_seen() {
        let mut now = Aging::default();
        now.look("2026-11-21T12:00:00Z".parse().expect("a time"), Instant::now(), events().kept);
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
            aging.look(wall, steady, events().kept);
            let (before, after) = (event(wall + minutes(1) / 2), event(wall + minutes(1) + set));
            aging.look(wall + minutes(1) + set, steady + minutes(1), events().kept);
            for passed in [2, 45, 60] {
                aging.look(wall + minutes(passed) + set, steady + minutes(passed), events().kept);
                assert!(!is_over(&before, &aging) && !is_over(&after, &aging), "{set:?}: {passed} minutes");
            }
            aging.look(wall + minutes(62) + set, steady + minutes(62), events().kept);
            assert!(is_over(&before, &aging) && is_over(&after, &aging), "{set:?}");
        }
    }
}
