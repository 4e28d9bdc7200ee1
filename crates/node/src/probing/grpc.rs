//! The gRPC health check, by hand: one unary call of two small messages.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{OUTPUT_MAX, authority};
use crate::pod::probe::Outcome;

const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// Asks `grpc.health.v1.Health/Check`.
pub(crate) async fn probe(host: &str, port: u16, service: &str, at_most: Duration) -> Outcome {
    let address = authority(host, port);
    let seconds = at_most.as_secs();
    let Ok(connected) = timeout(at_most, TcpStream::connect((host, port))).await else {
        let text = format!(
            "timeout: failed to connect service {address:?} within {seconds}s: context deadline exceeded"
        );
        return Outcome::Failure(text);
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(err) => {
            let cause = super::dial_error(host, port, &err);
            return Outcome::Failure(format!("error: failed to connect service {address:?}: {cause}"));
        }
    };
    match timeout(at_most, check(stream, &address, service)).await {
        Err(_) => Outcome::Failure(format!("timeout: health rpc did not complete within {seconds}s")),
        Ok(Err(message)) => Outcome::Failure(format!("error: health rpc probe failed: {message}")),
        Ok(Ok(1)) => Outcome::Success,
        Ok(Ok(state)) => {
            let state = usize::try_from(state).ok().and_then(|state| STATES.get(state)).unwrap_or(&"UNKNOWN");
            Outcome::Failure(format!("service unhealthy (responded with {state:?})"))
        }
    }
}

async fn check(stream: TcpStream, authority: &str, service: &str) -> Result<u64, String> {
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(|err| err.to_string())?;
    let request = http::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(request_message(service)))
        .map_err(|err| err.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|err| err.to_string())?;
        let early = grpc_error(response.headers());
        let body =
            Limited::new(response.into_body(), OUTPUT_MAX).collect().await.map_err(|err| err.to_string())?;
        let late = body.trailers().and_then(grpc_error);
        match early.or(late) {
            Some(message) => Err(message),
            None => state_of(&body.to_bytes()).ok_or_else(|| "malformed answer".to_string()),
        }
    };
    tokio::pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        _ = connection => exchange.await,
    }
}

fn grpc_error(headers: &http::HeaderMap) -> Option<String> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string();
    let code = text("grpc-status");
    (!code.is_empty() && code != "0")
        .then(|| format!("rpc error: code = {code} desc = {}", text("grpc-message")))
}

/// A frame with `HealthCheckRequest { service = 1 }`.
fn request_message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put(message);
    frame.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The state in `HealthCheckResponse { status = 1 }`; an empty message is UNKNOWN.
fn state_of(frame: &[u8]) -> Option<u64> {
    let message = frame.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, rest @ ..] => rest.first().map(|byte| u64::from(*byte)),
        _ => None,
    }
}
