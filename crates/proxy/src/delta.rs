//! The change of a table as messages of our own, where nothing else has changed than who is behind Services.
//!
//! That is what happens many times in a second, and `nft` would read the whole table for each. What comes
//! seldom is left to it: policies, affinity, source ranges, a family that appears or goes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use sys::netlink::batch::{Batch, Field, Statement, TableFamily, Verdict};

use crate::policy::render::comment;
use crate::render::{HAIRPINS, MARK_BIT, NODE_PORTS, REFUSED, REFUSED_PORTS, SERVICES, chain_of, table_name};
use crate::{Entry, Family, Match, Protocol, Ruleset};

/// More than that is written faster by who reads the table once.
const BYTES_MAX: usize = 1 << 20;

impl Ruleset {
    /// The messages that make this table of the one that `before` describes; nothing where `nft` has to.
    pub fn delta(&self, before: &Ruleset) -> Option<Batch> {
        let same_policies = Arc::ptr_eq(&self.policies, &before.policies) || self.policies == before.policies;
        if self.instance != before.instance || !same_policies {
            return None;
        }
        let mut batch = Batch::new(table_name(&self.instance.id));
        for family in Family::ALL {
            match (self.has(family), before.has(family)) {
                // There is always a table of IPv4.
                (true, true) => {}
                _ if family == Family::V4 => {}
                (false, false) => continue,
                _ => return None,
            }
            Delta::between(before, self, family)?.write(&mut batch, self);
        }
        (batch.len() <= BYTES_MAX).then_some(batch)
    }
}

/// What of one family differs.
struct Delta<'a> {
    family: Family,
    /// The match, and its entries before and now.
    entries: Vec<(&'a Match, Option<&'a Entry>, Option<&'a Entry>)>,
    /// Pods that reach themselves by a Service, and did not or will not.
    hairpins: (BTreeSet<IpAddr>, BTreeSet<IpAddr>),
}

impl<'a> Delta<'a> {
    fn between(before: &'a Ruleset, now: &'a Ruleset, family: Family) -> Option<Self> {
        let mut entries = Vec::new();
        let of_family = |rules: &'a Ruleset| rules.entries.iter().filter(move |(m, _)| m.family() == family);
        for (matched, old) in of_family(before) {
            let new = now.entries.get(matched);
            if new != Some(old) {
                entries.push((matched, Some(old), new));
            }
        }
        let added = of_family(now).filter(|(matched, _)| !before.entries.contains_key(matched));
        entries.extend(added.map(|(matched, new)| (matched, None, Some(new))));
        let both: Vec<&Entry> = entries.iter().flat_map(|(_, old, new)| [*old, *new]).flatten().collect();
        let is_plain = |entry: &&Entry| entry.affinity.is_none() && entry.sources.is_empty();
        if !both.iter().all(is_plain) {
            return None;
        }
        let hairpins = hairpins(before, now, both.into_iter().flat_map(addresses).collect());
        Some(Delta { family, entries, hairpins })
    }

    /// What names something goes before it, and comes after it.
    fn write(&self, batch: &mut Batch, now: &Ruleset) {
        batch.turn_to(if self.family == Family::V4 { TableFamily::Ip } else { TableFamily::Ip6 });
        let (gone, come) = &self.hairpins;
        let chains: Vec<String> = self.entries.iter().map(|(matched, ..)| chain_of(matched)).collect();
        for ((matched, old, new), chain) in self.entries.iter().zip(&chains) {
            if let Some(old) = old
                .filter(|old| new.is_none_or(|new| place(matched, old, chain) != place(matched, new, chain)))
            {
                batch.delete_elements(place(matched, old, chain).0, [key(matched)]);
            }
        }
        batch.delete_elements(HAIRPINS, gone.iter().map(|address| vec![Field::Address(*address); 2]));
        for ((_, old, new), chain) in self.entries.iter().zip(&chains) {
            if !old.is_some_and(leads) {
                continue;
            }
            batch.flush_chain(chain);
            if !new.is_some_and(leads) {
                batch.delete_chain(chain);
            }
        }
        batch.add_elements(HAIRPINS, come.iter().map(|address| (vec![Field::Address(*address); 2], None)));
        for ((matched, old, new), chain) in self.entries.iter().zip(&chains) {
            let Some(new) = new else { continue };
            if leads(new) {
                batch.add_chain(chain);
                rules(batch, chain, matched, new, now);
            }
            let (set, verdict) = place(matched, new, chain);
            if old.is_none_or(|old| place(matched, old, chain) != (set, verdict)) {
                batch.add_elements(set, [(key(matched), Some(verdict))]);
            }
        }
    }
}

fn leads(entry: &Entry) -> bool {
    !entry.drop && !entry.targets.is_empty()
}

fn addresses(entry: &Entry) -> impl Iterator<Item = IpAddr> {
    let targets = if leads(entry) { entry.targets.as_slice() } else { &[] };
    targets.iter().map(|target| target.address)
}

/// Of these addresses, those that some entry led to before and none does now, and the other way round.
fn hairpins(before: &Ruleset, now: &Ruleset, of: BTreeSet<IpAddr>) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
    let led = |rules: &Ruleset| -> BTreeSet<IpAddr> {
        rules.entries.values().flat_map(addresses).filter(|address| of.contains(address)).collect()
    };
    let (before, now) = (led(before), led(now));
    (&before - &now, &now - &before)
}

/// Where the packets of a match are decided upon, and how.
fn place<'a>(matched: &Match, entry: &Entry, chain: &'a str) -> (&'static str, Verdict<'a>) {
    let (led, refused) = match matched {
        Match::Address(..) => (SERVICES, REFUSED),
        Match::NodePort(..) => (NODE_PORTS, REFUSED_PORTS),
    };
    if entry.drop {
        (refused, Verdict::Drop)
    } else if entry.targets.is_empty() {
        (refused, Verdict::Goto("rejecting"))
    } else {
        (led, Verdict::Goto(chain))
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn key(matched: &Match) -> Vec<Field> {
    match matched {
        Match::Address(address, protocol, port) => {
            vec![Field::Address(*address), Field::Protocol(number(*protocol)), Field::Port(*port)]
        }
        Match::NodePort(_, protocol, port) => vec![Field::Protocol(number(*protocol)), Field::Port(*port)],
    }
}

/// The rules of an entry's chain, as [`Ruleset::script`] has them.
fn rules(batch: &mut Batch, chain: &str, matched: &Match, entry: &Entry, now: &Ruleset) {
    let (Match::Address(_, protocol, _) | Match::NodePort(_, protocol, _)) = matched;
    let (family, by_address) = (matched.family(), matches!(matched, Match::Address(..)));
    let pods = now.instance.pod_cidrs.iter().find(|range| range.family() == family);
    match pods {
        _ if entry.keeps_sender => {}
        Some(pods) if !entry.from_outside && by_address => {
            let (network, bits) = pods.prefix();
            batch.add_rule(chain, &[Statement::IsNotFrom(network, bits), Statement::Mark(MARK_BIT)], "");
        }
        _ if entry.from_outside => batch.add_rule(chain, &[Statement::Mark(MARK_BIT)], ""),
        _ => {}
    }
    let targets: Vec<(IpAddr, u16)> =
        entry.targets.iter().map(|target| (target.address, target.port)).collect();
    let lead = [Statement::IsProtocol(number(*protocol)), Statement::LeadTo(&targets)];
    batch.add_rule(chain, &lead, comment(&entry.comment));
}

#[cfg(test)]
mod tests;
