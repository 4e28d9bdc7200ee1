//! What nobody can tell the node or a Pod over the Pods' network: Pods hold NET_RAW and send any packet.

use super::setting::{Node, Setting};

/// Kernel parameters below /proc/sys/net, for a link.
const REFUSED: [(&str, &str, &str); 4] = [
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "accept_source_route", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "disable_ipv6", "1"),
];

pub(crate) async fn nobody_shows_the_node_or_a_pod_another_way(setting: Setting) {
    let node = setting.node().await;
    let sandbox = node.run(node.sandbox("ways")).await;
    let id = node.start(&sandbox, "c", "exec sleep 1000").await;
    let bridge = format!("mp{}", setting.instance);
    for (family, name, value) in REFUSED {
        let path = |link: &str| format!("/proc/sys/net/{family}/conf/{link}/{name}");
        // A kernel may have no IPv6.
        let Ok(of_bridge) = std::fs::read_to_string(path(&bridge)) else {
            assert_eq!(family, "ipv6", "{}", path(&bridge));
            continue;
        };
        assert_eq!(of_bridge.trim(), value, "{}", path(&bridge));
        assert_eq!(read_inside(&node, &id, &path("eth0")).await, value, "{} of a Pod", path("eth0"));
    }
    let autoconf = format!("/proc/sys/net/ipv6/conf/{bridge}/autoconf");
    assert!(std::fs::read_to_string(autoconf).is_ok_and(|value| value.trim() == "0") || !has_ipv6());
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

async fn read_inside(node: &Node, id: &str, path: &str) -> String {
    let output = node.exec(id, &format!("cat {path}")).await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
