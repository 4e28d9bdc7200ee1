//! The queue of events to the node.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::interface::Event;

/// A node with 110 Pods that all end at once has room; a node that does not read gets
/// [`Event::Overflow`] instead of more.
const QUEUE: usize = 1024;

/// Where events are put.
#[derive(Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Event>,
    receiver: Mutex<Option<mpsc::Receiver<Event>>>,
    overflowed: Arc<AtomicBool>,
    tasks: TaskTracker,
}

impl Events {
    pub(crate) fn new(tasks: TaskTracker) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Events {
            sender,
            receiver: Mutex::new(Some(receiver)),
            overflowed: Arc::new(AtomicBool::new(false)),
            tasks,
        }
    }

    /// The reader's end. A second caller gets a queue that is closed.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<Event> {
        let first = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// Puts an event, never waiting.
    pub(crate) fn put(&self, event: Event) {
        if self.overflowed.load(Ordering::Acquire) {
            return;
        }
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(event) {
            self.overflow();
        }
    }

    /// One `Overflow` goes in as soon as there is room; until then nothing else does.
    fn overflow(&self) {
        if self.overflowed.swap(true, Ordering::AcqRel) {
            return;
        }
        let (sender, overflowed) = (self.sender.clone(), self.overflowed.clone());
        self.tasks.spawn(async move {
            if let Ok(room) = sender.reserve().await {
                // First: what happens from here on is an event again.
                overflowed.store(false, Ordering::Release);
                room.send(Event::Overflow);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(n: usize) -> Event {
        Event::ContainerExited { pod_uid: "u".into(), container_id: n.to_string() }
    }

    #[tokio::test]
    async fn a_full_queue_ends_in_one_overflow() {
        let events = Events::new(TaskTracker::new());
        let mut reader = events.subscribe();
        for n in 0..QUEUE + 10 {
            events.put(exited(n));
        }
        for n in 0..QUEUE {
            assert_eq!(reader.recv().await, Some(exited(n)));
        }
        assert_eq!(reader.recv().await, Some(Event::Overflow));
        events.put(exited(7));
        assert_eq!(reader.recv().await, Some(exited(7)));
    }
}
