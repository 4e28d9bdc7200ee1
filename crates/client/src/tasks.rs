//! Tasks that belong together: when one of them panics, what they do together is not done any more.

use tokio::task::{JoinError, JoinSet};

/// Waits for all tasks of a room. A panic in one of them goes on here, so that the room ends by it.
pub async fn finish(mut tasks: JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        resume(ended);
    }
}

/// Goes on with the panic that a task has ended by, if it did.
pub fn resume(ended: Result<(), JoinError>) {
    if let Err(err) = ended
        && err.is_panic()
    {
        std::panic::resume_unwind(err.into_panic());
    }
}

/// Runs `work` beside the tasks it relies on; a panic in one of them goes on here at once.
/// Cancel-safe as far as `work` is.
pub async fn beside<T>(tasks: &mut JoinSet<()>, work: impl Future<Output = T>) -> T {
    let panicked = async {
        while let Some(ended) = tasks.join_next().await {
            resume(ended);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Both may be dropped: joined tasks are done with, and the others stay in their set.
        done = work => done,
        () = panicked => unreachable!("it is pending or panics"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_one_task_ends_the_room() {
        for beside_work in [false, true] {
            let room = tokio::spawn(async move {
                let mut tasks = JoinSet::new();
                tasks.spawn(std::future::pending());
                tasks.spawn(async { panic!("for the test") });
                if beside_work {
                    beside(&mut tasks, std::future::pending::<()>()).await;
                }
                finish(tasks).await;
            });
            assert!(room.await.expect_err("it panicked").is_panic());
        }
    }

    #[tokio::test]
    async fn a_task_that_ends_in_order_ends_nothing() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        assert_eq!(beside(&mut tasks, async { 7 }).await, 7);
        finish(tasks).await;
    }
}
