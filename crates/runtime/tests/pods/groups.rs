//! The groups above those of Pods.

use std::path::Path;

use runtime::{QosClass, Runtime};

use super::setting::Setting;

/// What a group weighs on this machine: shares on version 1, a weight on version 2.
fn weight(setting: &Setting, group: &str) -> u64 {
    let path = format!("monopod-{}/{group}", setting.instance);
    let places = ["cpu/{}/cpu.shares", "cpu,cpuacct/{}/cpu.shares", "{}/cpu.weight"];
    let text = places.iter().find_map(|place| {
        std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(place.replace("{}", &path))).ok()
    });
    text.expect("the group is there").trim().parse().expect("a number")
}

/// The same wish in the numbers of both versions, by the kubelet's formulas.
fn is_weight(weight: u64, milli_cpu: u64) -> bool {
    let shares = (milli_cpu * 1024 / 1000).max(2);
    [shares, 1 + (shares - 2) * 9999 / 262_142].contains(&weight)
}

pub(crate) async fn the_group_of_burstable_pods_weighs_what_they_ask_for_in_sum(setting: Setting) {
    let node = setting.node().await;
    assert!(is_weight(weight(&setting, "kubepods/burstable"), 0));
    let mut sandboxes = Vec::new();
    for (uid, qos, cpu_request) in
        [("a", QosClass::Burstable, 250), ("b", QosClass::Burstable, 1500), ("c", QosClass::Guaranteed, 500)]
    {
        let mut config = node.sandbox(uid);
        (config.qos, config.cpu_request) = (qos, cpu_request);
        sandboxes.push(node.run(config).await);
    }
    assert!(is_weight(weight(&setting, "kubepods/burstable"), 1750));
    assert!(is_weight(weight(&setting, "kubepods/besteffort"), 0));
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(is_weight(weight(&setting, "kubepods"), cpus * 1000));
    let second = setting.open().await;
    assert!(is_weight(weight(&setting, "kubepods/burstable"), 1750), "adopted Pods count");
    second.stop_sandbox(&sandboxes[1].id).await.unwrap();
    assert!(is_weight(weight(&setting, "kubepods/burstable"), 250));
    second.remove_sandbox(&sandboxes[0].id).await.unwrap();
    assert!(is_weight(weight(&setting, "kubepods/burstable"), 0));
}
