//! Which slices are written, so that they hold the endpoints of now.
//!
//! An endpoint stays in the slice that it is in. New ones go where something is written anyway, then into a
//! slice with room for all of them, then into a new slice (the upstream reconciler's order). So one Pod more or
//! less is one write, however many there are, and readers of the other slices hear nothing.
//!
//! The writes are in an order in which no endpoint that stays is ever in no slice: who gains goes first. A
//! slice that loses an endpoint to another gains none itself, so the order exists always.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// `--max-endpoints-per-slice`.
const ENDPOINTS_MAX: usize = 100;

/// Endpoints that see the same port numbers, and so share slices.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) ports: Vec<EndpointPort>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// One write.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Create(EndpointSlice),
    Replace(EndpointSlice),
    Delete(Arc<EndpointSlice>),
}

/// What tells an endpoint from others: its addresses and whom it leads to.
type Identity = (Vec<String>, Option<String>);

fn identity(endpoint: &Endpoint) -> Identity {
    (endpoint.addresses.clone(), endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()))
}

fn listed(slice: &EndpointSlice) -> &[Endpoint] {
    // The server keeps an empty list as an absent one.
    slice.endpoints.as_deref().unwrap_or_default()
}

fn ported(slice: &EndpointSlice) -> &[EndpointPort] {
    slice.ports.as_deref().unwrap_or_default()
}

/// A known slice and what it will hold.
struct Slot {
    old: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    /// An endpoint of it goes on in another slice.
    loses: bool,
}

impl Slot {
    fn changed(&self, template: &EndpointSlice) -> bool {
        self.endpoints != listed(&self.old) || self.old.metadata.labels != template.metadata.labels
    }

    fn room(&self) -> usize {
        if self.loses { 0 } else { ENDPOINTS_MAX.saturating_sub(self.endpoints.len()) }
    }
}

/// The writes that make the slices of a Service, `known`, those of the groups. `template` has the metadata
/// and the address type of all.
pub(super) fn plan(
    template: &EndpointSlice,
    groups: Vec<Group>,
    known: Vec<Arc<EndpointSlice>>,
) -> Vec<Write> {
    let groups: Vec<Group> = groups.into_iter().filter(|group| !group.endpoints.is_empty()).collect();
    let wanted: BTreeSet<Identity> =
        groups.iter().flat_map(|group| group.endpoints.iter().map(identity)).collect();
    let (mut usable, mut gone): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|slice| slice.address_type == template.address_type);
    usable.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let (mut creates, mut replaces) = (Vec::new(), Vec::new());
    for group in groups {
        let (same, others) = usable.into_iter().partition(|slice| ported(slice) == group.ports);
        usable = others;
        let (slots, new) = fill(template, group, same, &wanted);
        creates.extend(new);
        let (empty, kept): (Vec<Slot>, Vec<Slot>) =
            slots.into_iter().partition(|slot| slot.endpoints.is_empty());
        gone.extend(empty.into_iter().map(|slot| slot.old));
        replaces.extend(kept.into_iter().filter(|slot| slot.changed(template)));
    }
    gone.extend(usable);
    if wanted.is_empty() {
        keep_placeholder(template, &mut gone, &mut creates);
    }
    // Gaining first.
    replaces.sort_by_key(|slot| slot.loses);
    let mut replaces: Vec<EndpointSlice> = replaces
        .into_iter()
        .map(|slot| replaced(template, &slot.old, ported(&slot.old), slot.endpoints))
        .collect();
    take_the_place(template, &mut creates, &mut gone, &mut replaces, &wanted);
    let writes = creates.into_iter().map(Write::Create).chain(replaces.into_iter().map(Write::Replace));
    writes.chain(gone.into_iter().map(Write::Delete)).collect()
}

/// Puts a group's endpoints into its slices, and what finds no room into new ones.
fn fill(
    template: &EndpointSlice,
    group: Group,
    known: Vec<Arc<EndpointSlice>>,
    wanted: &BTreeSet<Identity>,
) -> (Vec<Slot>, Vec<EndpointSlice>) {
    let Group { ports, endpoints } = group;
    let mut left: BTreeMap<Identity, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut slots: Vec<Slot> = known.into_iter().map(|old| keep(old, &mut left, wanted)).collect();
    let mut left: Vec<Endpoint> = left.into_values().collect();
    let pour = |slot: &mut Slot, left: &mut Vec<Endpoint>| {
        let count = slot.room().min(left.len());
        slot.endpoints.extend(left.drain(..count));
    };
    let mut written: Vec<&mut Slot> = slots.iter_mut().filter(|slot| slot.changed(template)).collect();
    written.sort_by_key(|slot| slot.room());
    written.into_iter().for_each(|slot| pour(slot, &mut left));
    let mut new = Vec::new();
    while !left.is_empty() {
        let fitting = slots.iter_mut().filter(|slot| !slot.changed(template) && slot.room() >= left.len());
        if let Some(slot) = fitting.min_by_key(|slot| slot.room()) {
            pour(slot, &mut left);
        } else {
            let chunk = left.drain(..left.len().min(ENDPOINTS_MAX)).collect();
            new.push(EndpointSlice {
                endpoints: Some(chunk),
                ports: Some(ports.clone()),
                ..template.clone()
            });
        }
    }
    (slots, new)
}

/// What stays in a slice, as it is now. An endpoint that an earlier slice has is not kept twice.
fn keep(
    old: Arc<EndpointSlice>,
    left: &mut BTreeMap<Identity, Endpoint>,
    wanted: &BTreeSet<Identity>,
) -> Slot {
    let (mut endpoints, mut loses) = (Vec::new(), false);
    for endpoint in listed(&old) {
        let identity = identity(endpoint);
        match left.remove(&identity) {
            Some(endpoint) => endpoints.push(endpoint),
            None => loses |= wanted.contains(&identity),
        }
    }
    Slot { old, endpoints, loses }
}

/// One placeholder says that the Service is known and has nobody.
fn keep_placeholder(
    template: &EndpointSlice,
    gone: &mut Vec<Arc<EndpointSlice>>,
    creates: &mut Vec<EndpointSlice>,
) {
    let is_placeholder = |slice: &Arc<EndpointSlice>| {
        slice.address_type == template.address_type
            && listed(slice).is_empty()
            && ported(slice).is_empty()
            && slice.metadata.labels == template.metadata.labels
    };
    match gone.iter().position(is_placeholder) {
        Some(index) => drop(gone.remove(index)),
        None => creates.push(EndpointSlice {
            endpoints: Some(Vec::new()),
            ports: Some(Vec::new()),
            ..template.clone()
        }),
    }
}

/// A new slice takes the place of one that goes, if it has all that stays of that: one write for two.
fn take_the_place(
    template: &EndpointSlice,
    creates: &mut Vec<EndpointSlice>,
    gone: &mut Vec<Arc<EndpointSlice>>,
    replaces: &mut Vec<EndpointSlice>,
    wanted: &BTreeSet<Identity>,
) {
    let mut first = Vec::new();
    creates.retain_mut(|new| {
        let has: BTreeSet<Identity> = listed(new).iter().map(identity).collect();
        let covers = |old: &Arc<EndpointSlice>| {
            let mut staying = listed(old).iter().map(identity).filter(|identity| wanted.contains(identity));
            old.address_type == template.address_type && staying.all(|identity| has.contains(&identity))
        };
        let Some(index) = gone.iter().position(covers) else { return true };
        let old = gone.remove(index);
        let endpoints = new.endpoints.take().unwrap_or_default();
        first.push(replaced(template, &old, ported(new), endpoints));
        false
    });
    replaces.splice(0..0, first);
}

fn replaced(
    template: &EndpointSlice,
    old: &EndpointSlice,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            labels: template.metadata.labels.clone(),
            owner_references: template.metadata.owner_references.clone(),
            managed_fields: None,
            ..old.metadata.clone()
        },
        address_type: template.address_type.clone(),
        endpoints: Some(endpoints),
        ports: Some(ports.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::api::discovery::v1::EndpointConditions;
    use proptest::prelude::*;

    use super::*;

    fn template() -> EndpointSlice {
        let labels = Some([("kubernetes.io/service-name".to_owned(), "web".to_owned())].into());
        EndpointSlice {
            metadata: ObjectMeta { generate_name: Some("web-".into()), labels, ..ObjectMeta::default() },
            address_type: "IPv4".into(),
            ..EndpointSlice::default()
        }
    }

    fn endpoint(number: u16, ready: bool) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.{}.{}", number / 256, number % 256)],
            conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
            target_ref: Some(ObjectReference { uid: Some(number.to_string()), ..ObjectReference::default() }),
            ..Endpoint::default()
        }
    }

    /// Pods by number: whether they are ready, and which port they see.
    type Pods = BTreeMap<u16, (bool, i32)>;

    fn groups(pods: &Pods) -> Vec<Group> {
        let mut groups: BTreeMap<i32, Vec<Endpoint>> = BTreeMap::new();
        for (number, (ready, port)) in pods {
            groups.entry(*port).or_default().push(endpoint(*number, *ready));
        }
        let ports = |port| vec![EndpointPort { port: Some(port), ..EndpointPort::default() }];
        groups.into_iter().map(|(port, endpoints)| Group { ports: ports(port), endpoints }).collect()
    }

    /// What the server has.
    #[derive(Default)]
    struct Server {
        slices: BTreeMap<String, Arc<EndpointSlice>>,
        names: usize,
    }

    impl Server {
        fn write(&mut self, write: Write) {
            match write {
                Write::Create(mut slice) => {
                    self.names += 1;
                    let name = format!("web-{:04}", self.names);
                    slice.metadata.name = Some(name.clone());
                    self.slices.insert(name, Arc::new(slice));
                }
                Write::Replace(slice) => {
                    let name = slice.metadata.name.clone().expect("a name");
                    assert!(self.slices.insert(name, Arc::new(slice)).is_some(), "it is there");
                }
                Write::Delete(slice) => {
                    self.slices.remove(slice.metadata.name.as_deref().expect("a name")).expect("it is there");
                }
            }
        }

        fn plan(&self, pods: &Pods) -> Vec<Write> {
            plan(&template(), groups(pods), self.slices.values().cloned().collect())
        }

        fn endpoints(&self) -> Vec<(u16, bool, i32)> {
            let of = |slice: &Arc<EndpointSlice>| {
                let port = ported(slice).first().and_then(|port| port.port).unwrap_or_default();
                let all = listed(slice).iter().map(move |endpoint| {
                    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_ref());
                    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
                    (uid.expect("a UID").parse().expect("a number"), ready.expect("said"), port)
                });
                all.collect::<Vec<_>>()
            };
            let mut all: Vec<_> = self.slices.values().flat_map(of).collect();
            all.sort_unstable();
            all
        }

        /// Carries the plan out and looks after each write.
        fn settle(&mut self, before: &Pods, now: &Pods) -> usize {
            let writes = self.plan(now);
            let count = writes.len();
            for write in writes {
                self.write(write);
                let there: BTreeSet<u16> = self.endpoints().into_iter().map(|(number, ..)| number).collect();
                let staying = before.keys().filter(|number| now.contains_key(number));
                let missing: Vec<_> = staying.filter(|number| !there.contains(number)).collect();
                assert!(missing.is_empty(), "{missing:?} are in no slice between two writes");
            }
            let expected: Vec<_> =
                now.iter().map(|(number, (ready, port))| (*number, *ready, *port)).collect();
            assert_eq!(self.endpoints(), expected);
            assert!(self.slices.values().all(|slice| listed(slice).len() <= ENDPOINTS_MAX));
            let empty = self.slices.values().filter(|slice| listed(slice).is_empty()).count();
            assert_eq!(empty, usize::from(now.is_empty()), "a placeholder and no other empty slice");
            assert_eq!(self.plan(now), [], "nothing is left to write");
            count
        }
    }

    fn many(numbers: impl Iterator<Item = u16>) -> Pods {
        numbers.map(|number| (number, (true, 80))).collect()
    }

    #[test]
    fn many_pods_need_several_slices_and_none_have_a_placeholder() {
        let mut server = Server::default();
        server.settle(&Pods::new(), &Pods::new());
        assert_eq!(server.slices.len(), 1);
        server.settle(&Pods::new(), &many(0..250));
        let sizes: Vec<_> = server.slices.values().map(|slice| listed(slice).len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 250);
        assert_eq!(sizes.len(), 3);
        server.settle(&many(0..250), &Pods::new());
        assert_eq!(server.slices.len(), 1);
    }

    #[test]
    fn one_pod_more_or_less_or_changed_is_one_write() {
        let mut server = Server::default();
        let mut pods = many(100..350);
        server.settle(&Pods::new(), &pods);
        // The first by address: cut by position, it would move all others.
        for (number, now) in [(1, Some(true)), (120, None), (2, Some(true)), (2, Some(false)), (349, None)] {
            let before = pods.clone();
            match now {
                Some(ready) => drop(pods.insert(number, (ready, 80))),
                None => drop(pods.remove(&number)),
            }
            assert_eq!(server.settle(&before, &pods), 1, "{number} {now:?}");
        }
    }

    #[test]
    fn another_port_for_all_is_one_write_for_each_slice() {
        let mut server = Server::default();
        let pods = many(0..100);
        server.settle(&Pods::new(), &pods);
        let moved: Pods = pods.keys().map(|number| (*number, (true, 81))).collect();
        assert_eq!(server.settle(&pods, &moved), 1);
    }

    #[test]
    fn slices_of_another_family_go_after_the_new_ones_are_there() {
        let mut old = template();
        (old.address_type, old.metadata.name) = ("IPv6".into(), Some("old".into()));
        let writes = plan(&template(), groups(&many(0..1)), vec![Arc::new(old)]);
        assert!(matches!(&writes[..], [Write::Create(_), Write::Delete(_)]), "{writes:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_endpoint_that_stays_is_ever_in_no_slice(
            steps in prop::collection::vec(
                prop::collection::vec((0..260_u16, any::<bool>(), 80..83_i32, 0..3_u8), 0..180), 1..6),
        ) {
            let mut server = Server::default();
            let mut pods = Pods::new();
            server.settle(&Pods::new(), &pods);
            for step in steps {
                let before = pods.clone();
                for (number, ready, port, what) in step {
                    match what {
                        0 => drop(pods.remove(&number)),
                        _ => drop(pods.insert(number, (ready, port))),
                    }
                }
                let touched = server.slices.len() + pods.len() / ENDPOINTS_MAX + 4;
                let writes = server.settle(&before, &pods);
                prop_assert!(writes <= touched, "{writes} writes");
            }
        }
    }
}
