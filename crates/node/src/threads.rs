//! Threads of one Pod for what may hang: file operations on volumes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// File operations of one Pod at once. One that hangs for ever keeps its place.
const AT_MOST: usize = 4;
/// Longest wait for a place: then the Pod's file operations hang, and the user should hear of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The places.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    places: Arc<Semaphore>,
}

impl Default for Threads {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_MOST)) }
    }
}

impl Threads {
    /// Runs `work` on a thread of its own.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let place = timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await;
        // The semaphore is never closed.
        let Ok(Ok(place)) = place else {
            return Err(format!("{AT_MOST} earlier file operations of the Pod do not end"));
        };
        runtime::on_own_thread(place, work).await.map_err(|err| err.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn operations_that_hang_are_an_error_for_their_pod_and_nothing_to_others() {
        let (hung, other) = (Threads::default(), Threads::default());
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..AT_MOST {
            let (hung, wait) = (hung.clone(), Arc::clone(&wait));
            // The lock or the channel: each holds its thread until the test lets go.
            tasks.spawn(async move { hung.run(move || wait.lock().unwrap().recv().is_err()).await });
        }
        while hung.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = hung.run(|| ()).await.unwrap_err();
        assert!(refused.contains("do not end"), "{refused}");
        assert_eq!(other.run(|| 1).await, Ok(1));
        drop(release);
        while tasks.join_next().await.is_some() {}
        assert_eq!(hung.run(|| 2).await, Ok(2));
    }
}
