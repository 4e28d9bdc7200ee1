//! What must hold for the instance to do its work, told in two places by one list: `/readyz` of the
//! server, and the Ready condition of the node.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Pulse;
use node::{NotReady, Pulses};
use server::Check;
use store::{Embedded, Store};

type Holds = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A loop that is at one thing for longer is stuck. An audit of the runtime asks each shim, which may take
/// its time on a busy host; upstream gives the same question three minutes.
const DISPATCHER_AT_MOST: Duration = Duration::from_secs(60);
const RUNTIME_AT_MOST: Duration = Duration::from_secs(180);
/// As kube-proxy's own `/healthz`: twice the period in which it would do it all anew.
const PROXY_AT_MOST: Duration = Duration::from_secs(60);

/// The checks by name. Each answers at once, from what is known or a system call.
#[derive(Clone)]
pub(crate) struct Health {
    /// Without these no Pod can be run here, and the node says so too.
    pods: Vec<(&'static str, Holds)>,
    /// Without these Services lead elsewhere than they should; Pods run.
    services: Vec<(&'static str, Holds)>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all().map(|(name, _)| name)).finish()
    }
}

impl Health {
    /// What can be asked before anything else runs. Who has not begun is well.
    pub(crate) fn new(store: Arc<Embedded>, data_dir: &Path, node: &Pulses, proxy: &Pulse) -> Self {
        let state = data_dir.join("state");
        let pods: Vec<(&'static str, Holds)> = vec![
            // A full, a read-only, a broken and a silent disk, and a committer that died.
            ("store", Arc::new(move || store.health().map_err(|err| err.to_string()))),
            ("data-directory", Arc::new(move || is_there(&state))),
            ("pod-dispatcher", turns(&node.dispatcher, DISPATCHER_AT_MOST)),
            ("container-runtime", turns(&node.runtime, RUNTIME_AT_MOST)),
        ];
        Self { pods, services: vec![("service-proxy", turns(proxy, PROXY_AT_MOST))] }
    }

    fn all(&self) -> impl Iterator<Item = &(&'static str, Holds)> {
        self.pods.iter().chain(&self.services)
    }

    /// As the server takes them.
    pub(crate) fn checks(&self) -> Vec<Check> {
        let check = |(name, holds): &(&'static str, Holds)| Check { name, holds: holds.clone() };
        self.all().map(check).collect()
    }
}

impl NotReady for Health {
    fn reasons(&self) -> Vec<String> {
        self.pods
            .iter()
            .filter_map(|(name, holds)| holds().err().map(|why| format!("{name}: {why}")))
            .collect()
    }
}

fn turns(pulse: &Pulse, at_most: Duration) -> Holds {
    let pulse = pulse.clone();
    Arc::new(move || pulse.holds(Instant::now(), at_most))
}

/// Somebody may have removed it under the running program, which holds its files open and would not notice.
fn is_there(state: &Path) -> Result<(), String> {
    let here = std::fs::metadata(state.join("store.log"));
    here.map(drop).map_err(|err| format!("{}: {err}", state.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the checks that do not hold.
    fn failing(health: &Health) -> Vec<&'static str> {
        health.checks().iter().filter(|check| (check.holds)().is_err()).map(|check| check.name).collect()
    }

    fn health_of(directory: &Path, node: &Pulses, proxy: &Pulse) -> Health {
        let state = directory.join("state");
        let store = Embedded::open(&state, server::stamp, store::History::default()).expect("opens");
        Health::new(Arc::new(store), directory, node, proxy)
    }

    #[test]
    fn a_data_directory_that_was_removed_is_a_reason() {
        let directory = tempfile::tempdir().expect("a directory");
        let health = health_of(directory.path(), &Pulses::default(), &Pulse::default());
        assert_eq!((health.reasons(), failing(&health)), (Vec::new(), Vec::new()));
        std::fs::rename(directory.path().join("state"), directory.path().join("gone")).expect("moved away");
        let reasons = health.reasons();
        assert!(reasons.len() == 1 && reasons[0].starts_with("data-directory: "), "{reasons:?}");
    }

    #[test]
    fn a_loop_that_is_stuck_is_named_and_that_of_services_leaves_the_node_ready() {
        let directory = tempfile::tempdir().expect("a directory");
        let (node, proxy) = (Pulses::default(), Pulse::default());
        let health = health_of(directory.path(), &node, &proxy);
        let long_ago = Instant::now().checked_sub(RUNTIME_AT_MOST).expect("the host is up for longer");
        proxy.failed("nft is not on this host".to_owned(), long_ago);
        assert_eq!((health.reasons(), failing(&health)), (Vec::new(), vec!["service-proxy"]));
        for pulse in [&node.dispatcher, &node.runtime] {
            pulse.begin(long_ago);
        }
        assert_eq!(failing(&health), ["pod-dispatcher", "container-runtime", "service-proxy"]);
        assert_eq!(health.reasons().len(), 2);
        node.dispatcher.rest();
        assert_eq!(failing(&health), ["container-runtime", "service-proxy"]);
    }
}
