//! A request on its way to a Pod and its answer on the way back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use wire::{Handler, Peer, Request, Response, Takeover};

use crate::endpoint::{Failure, Unanswered};
use crate::headers::{self, Origin};
use crate::table::Matched;
use crate::{Endpoint, Served};

/// A Pod that has not begun to answer by then will not.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);
/// Endpoints that are asked for one request, as long as nothing of it was sent.
const TRIES: usize = 3;

/// Answers the requests of one listener.
#[derive(Debug, Clone)]
pub(crate) struct Forward {
    pub(crate) served: Served,
    pub(crate) is_tls: bool,
    pub(crate) port: u16,
}

impl Handler for Forward {
    fn handle(&self, request: Request) -> BoxFuture<'static, Response> {
        self.clone().answer(request).boxed()
    }
}

/// What is known of a request that is on its way.
struct Way {
    served: Served,
    host: String,
    path: String,
    authority: String,
}

impl Forward {
    async fn answer(self, mut request: Request) -> Response {
        let bad = || said(StatusCode::BAD_REQUEST, "400 bad request\n");
        let Some(authority) = headers::authority(&request) else { return bad() };
        let Some(host) = headers::host_of(&authority) else { return bad() };
        if request.method() == Method::CONNECT {
            return said(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n");
        }
        let peer = request.extensions().get::<Peer>().map_or(SocketAddr::from(([0; 4], 0)), |peer| peer.0);
        let upgrade = headers::upgrade(request.version(), request.headers());
        let takeover = upgrade.as_ref().and_then(|_| Takeover::of(&mut request));
        headers::prepare(&mut request, &authority, Origin { peer, is_tls: self.is_tls, port: self.port });
        if let (Some(protocol), Some(_)) = (upgrade, &takeover) {
            headers::set_upgrade(request.headers_mut(), protocol);
        }
        let path = request.uri().path().to_owned();
        let way = Way { served: self.served, host, path, authority };
        match way.send(request).await {
            Ok(response) => finish(response, takeover),
            Err(response) => response,
        }
    }
}

impl Way {
    /// The answer of a Pod, or ours.
    async fn send(&self, mut request: Request) -> Result<Response, Response> {
        let again = headers::repeatable(&request);
        let mut again = again.map(Box::new);
        let mut tried = Vec::new();
        while tried.len() < TRIES {
            let (endpoint, unanswered) = self.choose(&tried)?;
            headers::address(&mut request, &self.authority, endpoint.to().h2c);
            let sent = timeout(ANSWER_WITHIN, endpoint.send(request, &self.served)).await;
            drop(unanswered);
            match sent {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(Failure::Unsent(back, error))) => {
                    tracing::debug!(to = %endpoint.to().address, %error, "a Pod is not there");
                    request = *back;
                    tried.push(endpoint);
                }
                Ok(Err(Failure::Lost { error, kept })) => {
                    tracing::debug!(to = %endpoint.to().address, %error, kept, "a Pod has not answered");
                    // Once: what is closed twice is not closed by chance.
                    request = *again.take().filter(|_| kept).ok_or_else(bad_gateway)?;
                }
                Err(_) => return Err(said(StatusCode::GATEWAY_TIMEOUT, "504 gateway timeout\n")),
            }
        }
        Err(bad_gateway())
    }

    /// The endpoint whose turn it is, of those that were not tried yet.
    fn choose(&self, tried: &[Arc<Endpoint>]) -> Result<(Arc<Endpoint>, Unanswered), Response> {
        loop {
            let table = self.served.table();
            let upstream = match table.find(&self.host, &self.path) {
                Matched::Upstream(upstream) => upstream,
                Matched::Nothing => return Err(said(StatusCode::NOT_FOUND, "404 page not found\n")),
            };
            let mut is_old = false;
            for endpoint in upstream.in_turn() {
                if tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)) {
                    continue;
                }
                match endpoint.enter() {
                    Some(entered) => return Ok((endpoint.clone(), entered)),
                    None => is_old = true,
                }
            }
            // A table is replaced before what it led to is closed: the next look is at a newer one.
            if !is_old {
                return Err(match tried {
                    [] => said(StatusCode::SERVICE_UNAVAILABLE, "503 no available server\n"),
                    _ => bad_gateway(),
                });
            }
        }
    }
}

fn bad_gateway() -> Response {
    said(StatusCode::BAD_GATEWAY, "502 bad gateway\n")
}

/// An answer of our own.
fn said(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(wire::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// What the client gets of a Pod's answer.
fn finish(mut response: Response, takeover: Option<Takeover>) -> Response {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let protocol = response.headers().get(UPGRADE).cloned();
    headers::remove_hop_by_hop(response.headers_mut());
    if !switches {
        return response;
    }
    // Nobody has asked for it.
    let (Some(client), Some(protocol)) = (takeover, protocol) else { return bad_gateway() };
    headers::set_upgrade(response.headers_mut(), protocol);
    let pod = hyper::upgrade::on(&mut response);
    client.sessions().spawn(async move {
        let (Ok(mut client), Ok(pod)) = tokio::join!(client.connect(), pod) else { return };
        // Whoever ends it, and however: there is nobody else to tell.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut TokioIo::new(pod)).await;
    });
    response.map(|_| wire::empty())
}

#[cfg(test)]
mod tests;
