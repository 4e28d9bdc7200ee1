//! Numbers that may be given as a share of another.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Where a share that is no whole number goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// The number, or so many percent of `total`: upstream's GetScaledValueFromIntOrPercent. What is no
/// percentage was refused by the kind's rules and counts as none.
pub(crate) fn scaled(value: &IntOrString, total: i32, round: Round) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent.saturating_mul(total.into());
            let more = i64::from(round == Round::Up && hundredths % 100 > 0);
            i32::try_from(hundredths.div_euclid(100) + more).unwrap_or(i32::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_as_asked_and_numbers_are_themselves() {
        let of = |text: &str, total, round| scaled(&IntOrString::String(text.into()), total, round);
        assert_eq!((of("25%", 10, Round::Up), of("25%", 10, Round::Down)), (3, 2));
        assert_eq!((of("50%", 4, Round::Up), of("50%", 4, Round::Down)), (2, 2));
        assert_eq!(of("9223372036854775807%", i32::MAX, Round::Down), i32::MAX);
        assert_eq!(scaled(&IntOrString::Int(-1), 7, Round::Up), -1);
    }
}
