//! What goes through the interface of a sandbox, as the kernel counts it at the end that is on the host.

use std::fs;
use std::path::Path;

use crate::native::Inner;
use crate::usage::{Counters, Traffic};

/// The name that every sandbox's interface has inside.
const INSIDE: &str = "eth0";

/// The counts of all sandboxes that have an interface of their own. Reads files: call it where blocking is allowed.
pub(crate) fn traffic(inner: &Inner) -> Vec<Traffic> {
    let links = Path::new("/sys/class/net");
    let of = |id: &str| read(id, &links.join(inner.layout.veth(id)).join("statistics"));
    inner.all().iter().filter_map(|sandbox| of(sandbox.id())).collect()
}

fn read(sandbox: &str, statistics: &Path) -> Option<Traffic> {
    let count = |name: String| fs::read_to_string(statistics.join(name)).ok()?.trim().parse().ok();
    let counters = |direction: &str| {
        Some(Counters {
            bytes: count(format!("{direction}_bytes"))?,
            packets: count(format!("{direction}_packets"))?,
            errors: count(format!("{direction}_errors"))?,
            dropped: count(format!("{direction}_dropped"))?,
        })
    };
    // What leaves the host's end comes in at the other.
    let (received, transmitted) = (counters("tx")?, counters("rx")?);
    Some(Traffic { sandbox: sandbox.to_owned(), interface: INSIDE.to_owned(), received, transmitted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_sends_is_what_the_pod_receives() {
        let statistics = tempfile::tempdir().unwrap();
        for (name, value) in [("rx", 1), ("tx", 2)] {
            for (of, more) in [("bytes", 100), ("packets", 10), ("errors", 0), ("dropped", 0)] {
                fs::write(statistics.path().join(format!("{name}_{of}")), format!("{}\n", value * more))
                    .unwrap();
            }
        }
        let traffic = read("s", statistics.path()).unwrap();
        assert_eq!((traffic.received.bytes, traffic.transmitted.bytes), (200, 100));
        assert_eq!((traffic.received.packets, traffic.interface.as_str()), (20, "eth0"));
        assert_eq!(read("s", &statistics.path().join("gone")), None);
    }
}
