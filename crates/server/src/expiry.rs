//! Events are kept for an hour after they were last seen.

use std::sync::Weak;
use std::time::Duration;

use api::kinds;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use store::Range;

use crate::object;
use crate::state::State;

const KEPT: SignedDuration = SignedDuration::from_hours(1);
const EVERY: Duration = Duration::from_secs(60);

/// Removes Events that have had their time, once a minute, as long as the server lives.
pub(crate) async fn run(state: Weak<State>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(state) = state.upgrade() else { return };
        sweep(&state, Timestamp::now()).await;
    }
}

async fn sweep(state: &State, now: Timestamp) {
    let Some(events) = kinds::find("", "v1", "events") else { return };
    let range = Range { prefix: object::prefix(events, ""), ..Range::default() };
    let Ok(page) = state.store.range(range).await else { return };
    for entry in page.entries {
        if object::read(&entry.value).is_ok_and(|event| is_over(&event, now)) {
            // One that was seen again meanwhile stays: the removal compares.
            let _ = state.remove(events, &entry).await;
        }
    }
}

/// Whether an Event was last seen more than an hour ago. One that does not say when stays.
fn is_over(event: &Value, now: Timestamp) -> bool {
    let times = [
        &event["metadata"]["creationTimestamp"],
        &event["lastTimestamp"],
        &event["series"]["lastObservedTime"],
    ];
    let seen = times.into_iter().filter_map(|time| time.as_str()?.parse::<Timestamp>().ok()).max();
    seen.is_some_and(|seen| now.duration_since(seen) > KEPT)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_stays_an_hour_after_it_was_last_seen() {
        let now = "2026-11-21T12:00:00Z".parse().expect("a time");
        let old = json!({"metadata": {"creationTimestamp": "2026-11-21T10:59:59Z"}});
        assert!(is_over(&old, now));
        let mut seen_again = old.clone();
        seen_again["lastTimestamp"] = "2026-11-21T11:30:00Z".into();
        assert!(!is_over(&seen_again, now));
        assert!(!is_over(&json!({}), now));
    }
}
