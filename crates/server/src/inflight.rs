//! What clients may hold at once: requests being answered, streams, and bytes of bodies.
//!
//! ```text
//! request ─ class ─┬─ reads      400 ┐
//!                  ├─ writes     200 ├─ each: so many of all, half of them for one user
//!                  ├─ streams  4 000 ┘
//!                  └─ bytes of bodies, held until the answer is out
//! ```
//!
//! As with upstream's `--max-requests-inflight` the one that is too many is told to come back
//! (429), nobody waits in a queue. That one user never gets more than half keeps a runaway
//! client from shutting the others out. The rooms of this process and `system:masters` are
//! not counted: whoever repairs the cluster must get in.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use api::status::Status;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{Semaphore, SemaphorePermit};
use wire::{Body, BoxError, Response};

use crate::call::BODY_MAX;

/// How much is allowed of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that only read: upstream's `--max-requests-inflight`.
    pub reads: usize,
    /// Requests that write: upstream's `--max-mutating-requests-inflight`.
    pub writes: usize,
    /// Watches, logs and what else lasts.
    pub streams: usize,
    /// Bytes of the bodies of requests and of large answers.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reads: 400, writes: 200, streams: 4_000, bytes: 48 * 1024 * 1024 }
    }
}

/// What kind of request it is, for its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It only reads.
    Read,
    /// It writes.
    Write,
    /// It lasts: a watch, a log, a command's streams.
    Stream,
}

/// All that is held, of every class.
#[derive(Debug)]
pub(crate) struct InFlight {
    reads: Arc<Pool>,
    writes: Arc<Pool>,
    streams: Arc<Pool>,
    bytes: Arc<Pool>,
    /// For the work on large bodies.
    turns: Semaphore,
    /// For the large bodies of those who are not counted.
    rooms: Semaphore,
}

impl InFlight {
    pub(crate) fn new(limits: Limits) -> Self {
        let pool = |most| Arc::new(Pool { most, held: Mutex::default() });
        Self {
            reads: pool(limits.reads),
            writes: pool(limits.writes),
            streams: pool(limits.streams),
            bytes: pool(limits.bytes),
            turns: Semaphore::new(1),
            rooms: Semaphore::new(limits.bytes / 2),
        }
    }

    /// Waits until a body of this size may be worked on; nobody who waits depends on a client.
    pub(crate) async fn turn(&self, size: usize) -> Option<SemaphorePermit<'_>> {
        if size < LONG_WORK_FROM { None } else { wait(&self.turns, 1).await }
    }

    /// Waits until a large body of somebody who is not counted may be kept. They are never sent
    /// away, but all of them together hold no more than this.
    pub(crate) async fn room(&self, announced: Option<u64>) -> Option<SemaphorePermit<'_>> {
        let size = announced.and_then(|size| usize::try_from(size).ok());
        match size.unwrap_or(BODY_MAX).min(BODY_MAX) {
            small if small < LONG_WORK_FROM => None,
            large => wait(&self.rooms, large).await,
        }
    }

    /// Counts a request of this user, or says that it is one too many.
    pub(crate) fn admit(&self, class: Class, user: &str) -> Result<Guest, Status> {
        let pool = match class {
            Class::Read => &self.reads,
            Class::Write => &self.writes,
            Class::Stream => &self.streams,
        };
        let user: Arc<str> = user.into();
        let place = Held::take(pool, &user, 1).ok_or_else(too_many)?;
        let bytes = Held { pool: Arc::clone(&self.bytes), user, amount: 0 };
        Ok(Guest { _place: place, bytes })
    }
}

async fn wait(semaphore: &Semaphore, amount: usize) -> Option<SemaphorePermit<'_>> {
    // An error would mean that the semaphore was closed, which nobody does.
    semaphore.acquire_many(u32::try_from(amount).unwrap_or(u32::MAX)).await.ok()
}

fn too_many() -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1)
}

/// So much may be held, and so much is, by whom.
#[derive(Debug)]
struct Pool {
    most: usize,
    held: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    all: usize,
    of: HashMap<Arc<str>, usize>,
}

/// Something held; dropping it gives it back.
#[derive(Debug)]
struct Held {
    pool: Arc<Pool>,
    user: Arc<str>,
    amount: usize,
}

impl Held {
    fn take(pool: &Arc<Pool>, user: &Arc<str>, amount: usize) -> Option<Self> {
        let mut held = Self { pool: Arc::clone(pool), user: Arc::clone(user), amount: 0 };
        held.grow(amount).then_some(held)
    }

    /// Takes more; false when that would be too much, of all or for one user.
    fn grow(&mut self, more: usize) -> bool {
        let mut count = self.pool.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = count.of.get(&self.user).copied().unwrap_or_default();
        if count.all.saturating_add(more) > self.pool.most || own.saturating_add(more) > self.pool.most / 2 {
            return false;
        }
        count.all += more;
        count.of.insert(Arc::clone(&self.user), own + more);
        self.amount += more;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.amount == 0 {
            return;
        }
        let mut count = self.pool.held.lock().unwrap_or_else(PoisonError::into_inner);
        count.all -= self.amount;
        if let Some(own) = count.of.get_mut(&self.user) {
            *own -= self.amount;
            if *own == 0 {
                count.of.remove(&self.user);
            }
        }
    }
}

/// A request that was let in, with what it holds.
#[derive(Debug)]
pub(crate) struct Guest {
    _place: Held,
    bytes: Held,
}

/// Ties what is held, if the request is counted, to its answer.
pub(crate) fn attend(guest: Option<Guest>, answer: Response) -> Result<Response, Status> {
    match guest {
        Some(guest) => guest.attend(answer),
        None => Ok(answer),
    }
}

/// Bodies from this size on take turns. A parsed object is ten times its text, and the work on
/// it holds one of the two threads that answer everybody; the other is free meanwhile.
const LONG_WORK_FROM: usize = 64 * 1024;

/// Answers up to this size are not counted: nearly all are smaller.
const COUNTED_FROM: usize = 64 * 1024;
/// A larger answer goes out in pieces of this size, each when the client has taken the last.
const PIECE: usize = 64 * 1024;

impl Guest {
    /// Counts bytes of a body that are kept.
    pub(crate) fn keep(&mut self, bytes: usize) -> Result<(), Status> {
        if self.bytes.grow(bytes) { Ok(()) } else { Err(too_many()) }
    }

    /// Ties what is held to the answer: it is given back when the client has taken that.
    pub(crate) fn attend(mut self, response: Response) -> Result<Response, Status> {
        let size = response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok());
        if let Some(size) = size.filter(|size| *size >= COUNTED_FROM) {
            // An answer larger than anybody's share still goes out, one at a time.
            let room = (self.bytes.pool.most / 2).saturating_sub(self.bytes.amount);
            self.keep(size.min(room))?;
        }
        let (head, body) = response.into_parts();
        let body = Attended { body, rest: Bytes::new(), _guest: self };
        Ok(Response::from_parts(head, Body::new(body)))
    }
}

/// An answer's body, with what is held until it is out.
struct Attended {
    body: Body,
    /// Of a large frame what was not handed on yet.
    rest: Bytes,
    _guest: Guest,
}

impl http_body::Body for Attended {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        match hint.exact() {
            Some(exact) => hint.set_exact(exact + rest),
            None => hint.set_lower(hint.lower() + rest),
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn small() -> InFlight {
        InFlight::new(Limits { reads: 4, writes: 2, streams: 2, bytes: 1024 * 1024 })
    }

    #[test]
    fn one_user_gets_half_and_leaves_the_rest_to_others() {
        let all = small();
        let first: Vec<_> = (0..2).map(|_| all.admit(Class::Read, "greedy").expect("let in")).collect();
        let refused = all.admit(Class::Read, "greedy").expect_err("one too many");
        assert_eq!((refused.code(), refused.retry_after_seconds()), (429, Some(1)));
        let others: Vec<_> = (0..2).map(|_| all.admit(Class::Read, "other").expect("let in")).collect();
        assert!(all.admit(Class::Read, "third").is_err(), "all places are taken");
        assert!(all.admit(Class::Write, "greedy").is_ok(), "writes are counted apart");
        drop((first, others));
        assert!(all.admit(Class::Read, "greedy").is_ok(), "places come back");
        assert_eq!(all.reads.held.lock().unwrap().of.len(), 0, "nobody is remembered for ever");
    }

    #[test]
    fn bytes_of_bodies_are_bounded_over_all_requests_of_a_user() {
        let all = InFlight::new(Limits { bytes: 1000, ..Limits::default() });
        let mut one = all.admit(Class::Write, "a").expect("let in");
        one.keep(400).expect("within half");
        let mut two = all.admit(Class::Write, "a").expect("let in");
        assert_eq!(two.keep(200).expect_err("over half").code(), 429);
        drop(one);
        two.keep(200).expect("room again");
    }

    #[tokio::test]
    async fn large_bodies_of_those_who_are_not_counted_wait_for_each_other_and_small_ones_do_not() {
        let all = InFlight::new(Limits { bytes: 2 * BODY_MAX, ..Limits::default() });
        let (large, small) = (None, Some(1000));
        let held = all.room(large).await;
        assert!(held.is_some());
        assert!(futures_util::FutureExt::now_or_never(all.room(large)).is_none(), "both are held");
        assert!(all.room(small).await.is_none(), "a small one waits for nothing");
        drop(held);
        assert!(all.room(large).await.is_some());
    }

    #[tokio::test]
    async fn an_answer_is_counted_until_it_is_out_and_stays_what_it_was() {
        let all = small();
        let text = Bytes::from(vec![7; 300 * 1024]);
        let answer = || Response::new(wire::full(text.clone()));
        let first = all.admit(Class::Read, "a").expect("let in").attend(answer()).expect("fits");
        assert_eq!(first.body().size_hint().exact(), Some(300 * 1024));
        let second = all.admit(Class::Read, "a").expect("let in").attend(answer());
        assert_eq!(second.expect_err("two are over half").code(), 429);
        let mut pieces = 0;
        let mut body = first.into_body();
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            read.extend_from_slice(&frame.expect("a frame").into_data().expect("data"));
            pieces += 1;
        }
        assert_eq!((read.len(), pieces), (300 * 1024, 5));
        drop(body);
        assert!(all.admit(Class::Read, "a").expect("let in").attend(answer()).is_ok());
    }
}
