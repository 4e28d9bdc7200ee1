//! Ways out through the network: other Pods' and the host's addresses.

use serde_json::{Value, json};

use super::world::{World, check, shell};
use super::{Attack, Outcome};

pub(crate) fn attacks() -> Vec<Attack> {
    vec![Attack {
        name: "sender-of-another",
        attack: "send packets and ARP with the address of another Pod or of the host, also with the other's link-layer \
                 address, and past the gateway straight to a neighbour's, with NET_ADMIN and NET_RAW",
        class: "CVE-2020-8558, CVE-2020-10749",
        stopped_by: "each bridge port is locked to its station (from Linux 5.16), and frames enter the bridge only with the \
                     IPv4 address of their station, and only for the gateway; IPv6 does not enter it",
        run: sender_of_another,
    }]
}

/// What a Pod counts of packets that came to it: echo requests.
const ARRIVED: &str = "awk '/^Icmp:/ && !names { for (i = 1; i <= NF; i++) if ($i == \"InEchos\") at = i; names = 1; next } \
                       /^Icmp:/ { print $at }' /proc/net/snmp";

/// Its name, its address and its link-layer address, of three Pods: who is attacked, who is imitated, who attacks.
fn sender_of_another(world: &World) -> Outcome {
    let idle = || json!({"containers": [shell("trap exit TERM; sleep 3600 & wait")]});
    let mut attacker = idle();
    attacker["containers"][0]["securityContext"] = json!({"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}});
    let pods = [("sender-victim", idle()), ("sender-imitated", idle()), ("sender-attacker", attacker)];
    let result = pods.iter().try_for_each(|(name, spec)| begin(world, name, spec));
    let result = result.and_then(|()| imitate(world));
    for (name, _) in pods {
        world.delete(name);
    }
    result
}

fn begin(world: &World, name: &str, spec: &Value) -> Outcome {
    let refused = world.create(name, spec.clone());
    check(refused.is_empty(), &refused)?;
    let ended = world.until(name, |pod| pod["status"]["containerStatuses"][0]["ready"] == true);
    check(ended.phase == "Running", &format!("{ended:?}"))
}

fn imitate(world: &World) -> Outcome {
    let inside = |pod: &str, script: &str| world.instance.kubectl(&["exec", pod, "--", "sh", "-c", script]);
    let address = |pod: &str| world.instance.field(&format!("pod/{pod}"), "{.status.podIP}");
    let arrived = || inside("sender-victim", ARRIVED).out.trim().to_owned();
    let (victim, imitated) = (address("sender-victim"), address("sender-imitated"));
    let station = inside("sender-imitated", "cat /sys/class/net/eth0/address").out.trim().to_owned();
    let near = inside("sender-victim", "cat /sys/class/net/eth0/address").out.trim().to_owned();
    let gateway = inside("sender-victim", "ip route | awk '/^default/ { print $3 }'").out.trim().to_owned();

    let honest = inside("sender-attacker", &format!("ping -c 1 -W 5 {victim}"));
    check(
        honest.code == 0 && arrived() == "1",
        &format!("an honest packet: {honest:?}, {} came", arrived()),
    )?;

    let ping = |from: &str| format!("ping -c 2 -W 1 -I {from} {victim}");
    let script = format!(
        "ip addr add {imitated}/32 dev eth0 && ip addr add {gateway}/32 dev eth0 || exit 9
         own=$(cat /sys/class/net/eth0/address)
         {as_pod}; {as_host}
         ip link set eth0 address {station} && {as_pod}; ip link set eth0 address $own
         ip route add {victim}/32 dev eth0 && {as_pod}; {as_host}
         ip neigh replace {victim} lladdr {near} dev eth0 && ping -c 2 -W 1 {victim}
         arping -U -c 1 -I eth0 -s {gateway} {gateway}; echo tried",
        as_pod = ping(&imitated),
        as_host = ping(&gateway),
    );
    let tried = inside("sender-attacker", &script);
    check(tried.out.contains("tried"), &format!("{tried:?}"))?;
    check(arrived() == "1", &format!("{} packets came, of which one is honest: {tried:?}", arrived()))
}
