//! Who of the Pods that wish another size gets it: decided for all at once, so that two never get the same room.

use std::cmp::Reverse;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod};
use runtime::QosClass;
use tokio::sync::mpsc;

use crate::pod::admit;
use crate::pod::allocation::Allocation;
use crate::pod::event::Event;
use crate::pod::qos;
use crate::pod::resize::{Decision, Room};
use crate::pod::spec::spec;
use crate::shared::{Shared, Worker};
use crate::worker::Message;

impl Shared {
    /// Answers all Pods that wait for another size, the first in upstream's order first. What is granted is set
    /// apart at once: who comes next does not find it free.
    pub(crate) async fn decide_resizes(&self) {
        let node = self.node();
        for (inbox, decision) in self.decide(&node) {
            // A closed inbox means that the Pod is gone, and with it what was set apart.
            let _ = inbox.send(Message::Event(Event::ResizeDecided(decision))).await;
        }
    }

    fn decide(&self, node: &Node) -> Vec<(mpsc::Sender<Message>, Decision)> {
        let mut workers = self.workers();
        let mut waiting: Vec<_> = workers
            .iter()
            .filter(|(_, worker)| !worker.terminated)
            .filter_map(|(uid, worker)| Some((precedence(worker)?, uid.clone())))
            .collect();
        waiting.sort();
        let mut decisions = Vec::new();
        for (_, uid) in waiting {
            let Some(wish) = workers.get(&uid).and_then(|worker| worker.wish.as_ref()) else { continue };
            let others: Vec<&Pod> = workers
                .iter()
                .filter(|(other, worker)| **other != uid && worker.takes_room())
                .map(|(_, worker)| &*worker.allocated)
                .collect();
            let room = admit::resize(&wish.pod, node, &others);
            let pod = std::sync::Arc::clone(&wish.pod);
            let generation = pod.metadata.generation.unwrap_or_default();
            let decision = Decision { generation, allocation: Allocation::of(&pod), room: room.clone() };
            let Some(worker) = workers.get_mut(&uid) else { continue };
            match room {
                Room::Fits => {
                    worker.allocated = pod;
                    worker.wish = None;
                }
                // Nothing that frees room helps: the next try comes with another wish.
                Room::Infeasible(_) => worker.wish = None,
                Room::Deferred(_) => {}
            }
            decisions.push((worker.inbox.clone(), decision));
        }
        decisions
    }
}

/// Upstream's order: who gives back before who takes, then the more important, the Guaranteed, the longest waiting.
type Precedence = (bool, Reverse<i32>, bool, Instant);

fn precedence(worker: &Worker) -> Option<Precedence> {
    let wish = worker.wish.as_ref()?;
    let priority = spec(&wish.pod).priority.unwrap_or_default();
    let guaranteed = qos::class(&wish.pod) == QosClass::Guaranteed;
    Some((admit::takes_more(&wish.pod, &worker.allocated), Reverse(priority), !guaranteed, wish.since))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::shared::Wish;

    fn pod(cpu: &str, limit: Option<&str>, priority: i32) -> Arc<Pod> {
        let mut resources = json!({"requests": {"cpu": cpu, "memory": "1Mi"}});
        if let Some(limit) = limit {
            resources["limits"] = json!({"cpu": limit, "memory": "1Mi"});
        }
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]});
        Arc::new(serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    #[test]
    fn who_gives_back_comes_first_then_the_important_the_guaranteed_and_the_patient() {
        let begin = Instant::now();
        let later = begin + std::time::Duration::from_secs(1);
        let worker = |allocated: Arc<Pod>, wish: Arc<Pod>, since| Worker {
            wish: Some(Wish { pod: wish, since }),
            ..Worker::new(mpsc::channel(1).0, Arc::clone(&allocated), allocated)
        };
        let shrinks = worker(pod("2", None, 0), pod("1", None, 0), later);
        let important = worker(pod("1", None, 9), pod("2", None, 9), later);
        let guaranteed = worker(pod("1", Some("1"), 0), pod("2", Some("2"), 0), later);
        let patient = worker(pod("1", None, 0), pod("2", None, 0), begin);
        let last = worker(pod("1", None, 0), pod("2", None, 0), later);
        let order = [&shrinks, &important, &guaranteed, &patient, &last].map(precedence);
        assert!(order.is_sorted(), "{order:?}");
        assert!(order.windows(2).all(|pair| pair[0] != pair[1]), "{order:?}");
    }
}
