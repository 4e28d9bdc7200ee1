//! Logs and watches over a WebSocket: browsers cannot read a body while it grows.
//!
//! The request is answered as any other; then its body goes out as messages.

use api::status::Status;
use wire::websocket::{self, Messages};
use wire::{Request, Response};

use crate::call::Call;

/// Takes the connection out of a request that asks to become a WebSocket.
pub(crate) fn handshake(call: &mut Call) -> Option<Request> {
    let mut request = Request::new(wire::empty());
    *request.method_mut() = call.parts.method.clone();
    *request.headers_mut() = call.parts.headers.clone();
    if !websocket::is_upgrade(&request) {
        return None;
    }
    *request.extensions_mut() = std::mem::take(&mut call.parts.extensions);
    Some(request)
}

/// Sends what was answered as messages to whoever asked for that.
pub(crate) fn upgrade(
    handshake: Option<Request>,
    answered: Response,
    messages: Messages,
) -> Result<Response, Status> {
    let Some(mut handshake) = handshake else { return Ok(answered) };
    let (response, pending) = websocket::accept(&mut handshake, websocket::SINGLE_STREAM)
        .map_err(|refused| Status::bad_request(refused.to_string()))?;
    // It ends with its connection, with the body, or with the listener.
    pending.sessions().spawn(async move {
        let sent = async { pending.connect().await?.send_body(answered.into_body(), messages).await };
        if let Err(error) = sent.await {
            tracing::debug!(%error, "a WebSocket broke");
        }
    });
    Ok(response)
}
