//! Health: named checks, each asked when somebody asks.
//!
//! The server answers only after it has opened its store and written what a fresh cluster
//! holds, so its own checks hold whenever they can be asked for. Whoever builds the server adds
//! what else must hold: [`crate::Config::checks`].

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use wire::Response;

use crate::query::Query;
use crate::respond::text;

/// The three questions: does it live, does it serve, and upstream's older one for both.
pub(crate) const KINDS: &[&str] = &["healthz", "livez", "readyz"];
/// What holds as long as there is an answer at all.
const OWN: &[&str] = &["ping", "log", "poststarthook/bootstrap"];

/// Something that must hold for the server to be healthy.
#[derive(Clone)]
pub struct Check {
    /// Its name, below `/readyz/` and in the list that `?verbose` shows.
    pub name: &'static str,
    /// Asked at each question, so it must answer at once; the error goes to the log.
    pub holds: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The names of all checks, the server's own first.
pub(crate) fn names(checks: &[Check]) -> impl Iterator<Item = &'static str> {
    OWN.iter().copied().chain(checks.iter().map(|check| check.name))
}

/// Whether the check of this name holds; `None` when there is none.
fn holds(checks: &[Check], name: &str) -> Option<bool> {
    if OWN.contains(&name) {
        return Some(true);
    }
    let check = checks.iter().find(|check| check.name == name)?;
    let held = (check.holds)().inspect_err(|why| tracing::warn!(check = name, %why, "a health check fails"));
    Some(held.is_ok())
}

/// Answers one of [`KINDS`], or one check below it; `None` for a check that there is not.
pub(crate) fn answer(checks: &[Check], kind: &str, asked: &str, query: &Query) -> Option<Response> {
    if !asked.is_empty() {
        return Some(match holds(checks, asked)? {
            true => text(200, "ok"),
            false => text(500, "internal server error: reason withheld\n"),
        });
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let (mut lines, mut healthy) = (String::new(), true);
    for name in names(checks) {
        let line = if excluded.contains(&name) {
            format!("[+]{name} excluded: ok")
        } else if holds(checks, name) == Some(true) {
            format!("[+]{name} ok")
        } else {
            healthy = false;
            format!("[-]{name} failed: reason withheld")
        };
        let _ = writeln!(lines, "{line}");
    }
    Some(match (healthy, query.has("verbose")) {
        (true, false) => text(200, "ok"),
        (true, true) => text(200, format!("{lines}{kind} check passed\n")),
        (false, _) => text(500, format!("{lines}{kind} check failed\n")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(checks: &[Check], query: &str) -> u16 {
        let answer = answer(checks, "readyz", "", &Query::parse(Some(query))).expect("an answer");
        answer.status().as_u16()
    }

    #[test]
    fn one_check_that_fails_makes_the_whole_unhealthy_unless_it_is_excluded() {
        let sick = Check { name: "disk", holds: Arc::new(|| Err("full".to_owned())) };
        assert_eq!(asked(&[], ""), 200);
        assert_eq!(asked(std::slice::from_ref(&sick), ""), 500);
        assert_eq!(asked(std::slice::from_ref(&sick), "exclude=disk&verbose"), 200);
        let one = |name: &str| answer(std::slice::from_ref(&sick), "readyz", name, &Query::default());
        assert_eq!(one("disk").map(|answer| answer.status().as_u16()), Some(500));
        assert_eq!(one("ping").map(|answer| answer.status().as_u16()), Some(200));
        assert!(one("nosuch").is_none());
    }
}
