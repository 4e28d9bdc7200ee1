//! What must hold for the instance to do its work, told in two places by one list: `/readyz` of the
//! server, and the Ready condition of the node.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use node::NotReady;
use server::Check;
use store::{Embedded, Store};

type Holds = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks by name. Each answers at once, from what is known or a system call.
#[derive(Clone)]
pub(crate) struct Health(Vec<(&'static str, Holds)>);

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Health {
    /// What can be asked before anything else runs.
    pub(crate) fn new(store: Arc<Embedded>, data_dir: &Path) -> Self {
        let state = data_dir.join("state");
        Self(vec![
            // A full, a read-only and a broken disk, and a committer that died.
            ("store", Arc::new(move || store.health().map_err(|err| err.to_string()))),
            ("data-directory", Arc::new(move || is_there(&state))),
        ])
    }

    /// As the server takes them.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let check = |(name, holds): &(&'static str, Holds)| Check { name, holds: holds.clone() };
        self.0.iter().map(check).collect()
    }
}

impl NotReady for Health {
    fn reasons(&self) -> Vec<String> {
        self.0.iter().filter_map(|(name, holds)| holds().err().map(|why| format!("{name}: {why}"))).collect()
    }
}

/// Somebody may have removed it under the running program, which holds its files open and would not notice.
fn is_there(state: &Path) -> Result<(), String> {
    let here = std::fs::metadata(state.join("store.log"));
    here.map(drop).map_err(|err| format!("{}: {err}", state.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_that_was_removed_is_a_reason() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state");
        let store = Embedded::open(&state, server::stamp, store::History::default()).expect("opens");
        let health = Health::new(Arc::new(store), directory.path());
        assert_eq!(health.reasons(), Vec::<String>::new());
        assert!(health.checks().iter().all(|check| (check.holds)().is_ok()));
        std::fs::rename(&state, directory.path().join("gone")).expect("moved away");
        let reasons = health.reasons();
        assert!(reasons.len() == 1 && reasons[0].starts_with("data-directory: "), "{reasons:?}");
    }
}
