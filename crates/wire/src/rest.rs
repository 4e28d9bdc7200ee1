//! What a handler leaves of a request's body.
//!
//! An answer that comes before the request is whole gets lost: over HTTP/2 the stream is reset
//! under a client that still sends, over HTTP/1.1 the connection is. So what is left of a body
//! is read to its end, and thrown away, before the answer goes out. One that has no end, or
//! does not come, is cut all the same.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// No client of the API sends more by mistake: ten times the largest object.
const REST_MAX: usize = 32 * 1024 * 1024;
/// A client that sends at all has sent the rest by then.
const REST_TIMEOUT: Duration = Duration::from_secs(10);

/// Splits a body into the one the handler gets and what is left when it has dropped that.
pub(crate) fn lend<B: Body + Unpin>(body: B) -> (Lent<B>, Rest<B>) {
    let (give_back, rest) = oneshot::channel();
    (Lent { body: Some(body), give_back: Some(give_back) }, Rest(rest))
}

/// A body in the hands of a handler; what it does not read goes back when this is dropped.
pub(crate) struct Lent<B: Body + Unpin> {
    body: Option<B>,
    give_back: Option<oneshot::Sender<B>>,
}

impl<B: Body + Unpin> Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body + Unpin> Drop for Lent<B> {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(body), Some(give_back)) = (left, self.give_back.take()) {
            // Nobody waits for it any more when the connection is gone.
            let _ = give_back.send(body);
        }
    }
}

/// Where an unread body comes back to.
pub(crate) struct Rest<B>(oneshot::Receiver<B>);

impl<B> Rest<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Reads what the handler left. A body that the handler still holds, because its answer is
    /// made from it, is left to it.
    pub(crate) async fn drain(mut self) {
        if let Ok(body) = self.0.try_recv() {
            // Whether it ended, was too long or too slow: the answer goes out now.
            let _ = timeout(REST_TIMEOUT, read_and_forget(body, REST_MAX)).await;
        }
    }
}

async fn read_and_forget<B: Body<Data = Bytes> + Unpin>(mut body: B, mut allowance: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, Buf::remaining);
        match allowance.checked_sub(length) {
            Some(left) => allowance = left,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt, stream};
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;

    type Sent = mpsc::UnboundedSender<Bytes>;

    fn body() -> (Sent, impl Body<Data = Bytes, Error = crate::BoxError> + Unpin) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let frames = stream::unfold(receiver, |mut receiver| async {
            let data = receiver.recv().await?;
            Some((Ok(Frame::data(data)), receiver))
        });
        (sender, StreamBody::new(frames.boxed()))
    }

    #[tokio::test]
    async fn the_answer_waits_for_the_end_of_a_body_that_nobody_read() {
        let (sender, body) = body();
        let (lent, rest) = lend(body);
        sender.send(Bytes::from_static(b"begun")).unwrap();
        drop(lent);
        let mut drained = Box::pin(rest.drain());
        assert!(drained.as_mut().now_or_never().is_none(), "answered while the client still sends");
        sender.send(Bytes::from_static(b"and ended")).unwrap();
        assert!(drained.as_mut().now_or_never().is_none());
        drop(sender);
        assert!(drained.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_body_without_end_is_cut() {
        let (sender, body) = body();
        let (lent, rest) = lend(body);
        drop(lent);
        let chunk = Bytes::from(vec![0; 1024 * 1024]);
        for _ in 0..=REST_MAX / chunk.len() {
            sender.send(chunk.clone()).unwrap();
        }
        rest.drain().await;
        assert!(sender.send(chunk).is_err(), "the body is still held");
    }

    #[tokio::test]
    async fn a_body_that_was_read_or_is_still_used_delays_nothing() {
        let (sender, read) = body();
        let (mut lent, rest) = lend(read);
        drop(sender);
        assert!(lent.frame().await.is_none());
        drop(lent);
        rest.drain().await;
        let (_sender, used) = body();
        let (_lent, rest) = lend(used);
        rest.drain().await;
    }
}
