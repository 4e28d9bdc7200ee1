//! Exponential back-off as the kubelet keeps it for restarts and pulls.

use jiff::SignedDuration;

use super::clock::Steady;

/// First delay of both kinds.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay of both kinds.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// Delay before the next try; doubles each time, forgotten after twice [`MAX`] without use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    entry: Option<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    delay: SignedDuration,
    updated: Steady,
}

impl Backoff {
    /// As it must have been after `tries` tries, the last at `updated`: for a node that has forgotten.
    pub fn resumed(tries: u32, updated: Steady) -> Self {
        if tries == 0 {
            return Self::default();
        }
        let doublings = (tries - 1).min(10);
        let delay = (INITIAL * (1 << doublings)).min(MAX);
        Self { entry: Some(Entry { delay, updated }) }
    }

    /// Until when to wait after something ended at `since`; `None`: no need to wait.
    pub fn until(&self, since: Steady) -> Option<Steady> {
        let entry = self.entry.as_ref()?;
        (!entry.expired(since)).then(|| since.plus(entry.delay))
    }

    /// Until when to wait after the last try.
    pub fn until_since_update(&self) -> Option<Steady> {
        self.entry.as_ref().and_then(|entry| self.until(entry.updated))
    }

    /// The delay in force.
    pub fn delay(&self) -> SignedDuration {
        self.entry.as_ref().map_or(SignedDuration::ZERO, |entry| entry.delay)
    }

    /// Notes a try after something that ended at `since`: the next delay is longer.
    pub fn next(&mut self, since: Steady, now: Steady) {
        let delay = match &self.entry {
            Some(entry) if !entry.expired(since) => (entry.delay * 2).min(MAX),
            _ => INITIAL,
        };
        self.entry = Some(Entry { delay, updated: now });
    }
}

impl Entry {
    fn expired(&self, since: Steady) -> bool {
        since.since(self.updated) > MAX * 2
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`, `1h0m0s`, `1.2s`, `340ms`.
pub fn go_duration(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos().max(0);
    if nanos == 0 {
        return "0s".into();
    }
    for (limit, unit, name) in [(1_000, 1, "ns"), (1_000_000, 1_000, "µs"), (1_000_000_000, 1_000_000, "ms")]
    {
        if nanos < limit {
            return format!("{}{name}", decimal(nanos, unit));
        }
    }
    let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
    let seconds = decimal(rest, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: i128, unit: i128) -> String {
    let width = unit.ilog10() as usize;
    let (whole, rest) = (value / unit, value % unit);
    let text = format!("{whole}.{rest:0width$}");
    if rest == 0 { whole.to_string() } else { text.trim_end_matches('0').to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Steady {
        Steady::new(SignedDuration::from_secs(second))
    }

    #[test]
    fn the_first_restart_does_not_wait_and_later_ones_double_to_five_minutes() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until(at(0)), None);
        let mut delays = Vec::new();
        for _ in 0..7 {
            backoff.next(at(0), at(0));
            delays.push(backoff.delay().as_secs());
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(backoff.until(at(5)), Some(at(305)));
    }

    #[test]
    fn ten_quiet_minutes_forget_the_delay() {
        let mut backoff = Backoff::default();
        backoff.next(at(0), at(0));
        assert!(backoff.until(at(600)).is_some());
        assert_eq!(backoff.until(at(601)), None);
        backoff.next(at(601), at(601));
        assert_eq!(backoff.delay(), INITIAL);
    }

    #[test]
    fn a_resumed_backoff_equals_one_that_was_kept() {
        let mut kept = Backoff::default();
        for tries in 1..9 {
            kept.next(at(7), at(7));
            assert_eq!(kept, Backoff::resumed(tries, at(7)));
        }
    }

    #[test]
    fn durations_print_as_in_go() {
        let print = |millis| go_duration(SignedDuration::from_millis(millis));
        assert_eq!(
            [
                print(0),
                print(308),
                print(1317),
                print(10_000),
                print(80_000),
                print(300_000),
                print(3_600_500)
            ],
            ["0s", "308ms", "1.317s", "10s", "1m20s", "5m0s", "1h0m0.5s"]
        );
    }
}
