//! Threads for work that may never end: a look at a path of the user's may lead into a file
//! system whose server is gone, and then the thread hangs in the kernel until it is back.
//!
//! tokio's pool of blocking threads has a limit that all share: a few hung mounts would use it up
//! and stop the node. Work that may hang gets a thread of its own instead, which costs some 30 µs.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use crate::interface::Error;

/// More than a full node ever needs at once; beyond it something hangs on a grand scale.
const AT_MOST: usize = 512;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// One thread that is counted for as long as it lives.
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        let room = |running| (running < AT_MOST).then_some(running + 1);
        RUNNING.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok().map(|_| Counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs `work` on a thread of its own. `held` is dropped when the work has ended, also when nobody
/// waits for it any more. That no thread can be had, and that the work panicked, are errors.
pub async fn on_own_thread<T, H>(held: H, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error>
where
    T: Send + 'static,
    H: Send + 'static,
{
    let failed = |cause: &dyn std::fmt::Display| Error::host("failed to run on a thread", cause);
    let counted = Counted::new().ok_or_else(|| failed(&format!("{AT_MOST} of them hang")))?;
    let (sender, receiver) = oneshot::channel();
    let body = move || {
        let _until_done = (held, counted);
        // Whoever asked may have left.
        let _ = sender.send(work());
    };
    std::thread::Builder::new().name("files".into()).spawn(body).map_err(|e| failed(&e))?;
    receiver.await.map_err(|_| failed(&"it panicked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_on_the_thread_is_an_error_and_the_thread_is_not_counted_any_more() {
        let held = std::sync::Arc::new(());
        let result = on_own_thread(held.clone(), || -> u8 { panic!("as told") }).await;
        assert!(result.unwrap_err().to_string().contains("panicked"));
        assert_eq!(on_own_thread((), || 7).await.unwrap(), 7);
        // The thread drops it before it ends, and the answer came after the panic.
        while std::sync::Arc::strong_count(&held) > 1 {
            std::thread::yield_now();
        }
    }
}
