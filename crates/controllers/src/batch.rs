//! Many writes at once, but few while it is not known whether they succeed.

use client::Error;
use futures_util::future::join_all;

/// Upstream's largest batch.
const BATCH_MAX: usize = 500;

/// One, then two, then four side by side, until all are done or one of a batch fails. What would fail
/// for all (a quota that is used up) is so asked for once and not for each. Upstream's slowStartBatch.
pub(crate) async fn slow_start<T, F>(items: Vec<T>, act: impl Fn(T) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let mut items = items.into_iter().peekable();
    let mut size = 1;
    while items.peek().is_some() {
        let batch: Vec<F> = items.by_ref().take(size).map(&act).collect();
        for result in join_all(batch).await {
            result?;
        }
        size = (size * 2).min(BATCH_MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[tokio::test]
    async fn batches_grow_and_end_with_the_first_that_fails() {
        let done = RefCell::new(Vec::new());
        let act = |number: i32| {
            done.borrow_mut().push(number);
            std::future::ready(if number == 4 {
                Err(Error::Request { path: String::new(), reason: String::new() })
            } else {
                Ok(())
            })
        };
        assert!(slow_start((1..=3).collect(), act).await.is_ok());
        assert_eq!(done.take(), [1, 2, 3]);
        assert!(slow_start((1..=20).collect(), act).await.is_err());
        assert_eq!(done.take(), [1, 2, 3, 4, 5, 6, 7], "the batch of four is the last");
    }
}
