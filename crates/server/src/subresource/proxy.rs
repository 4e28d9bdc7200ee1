//! `/proxy`: HTTP to a Pod, a Service or a node through the API server.

use std::net::IpAddr;

use api::kinds;
use api::meta::Object as _;
use api::status::Status;
use http::{HeaderValue, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use store::Range;
use tokio::net::TcpStream;
use wire::{Body, BoxError, Request, Response};

use super::connect::hand_over;
use crate::call::Call;
use crate::object;
use crate::state::store_failed;

/// Headers of one connection, not of the message.
const HOP_BY_HOP: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"];

/// Answers any method on `/proxy` and below.
pub(crate) async fn proxy(call: &mut Call, body: Body) -> Result<Response, Status> {
    let asked = call.target.name.clone();
    let Some((scheme, name, port)) = split(&asked) else {
        return Err(Status::bad_request(format!("invalid {} request {asked:?}", call.resource.singular)));
    };
    let mut path = format!("/{}", call.target.rest);
    if let Some(query) = call.parts.uri.query() {
        path = format!("{path}?{query}");
    }
    call.target.name = name.to_owned();
    let (host, port) = match &*call.resource.kind {
        "Node" => return hand_over(call, name, &path, body).await,
        "Pod" => pod_address(call, port).await?,
        _ => service_address(call, port).await?,
    };
    if !is_proxyable(&host) {
        return Err(Status::bad_request("address not allowed"));
    }
    if scheme == "https" {
        return Err(Status::service_unavailable("the server does not proxy to https yet"));
    }
    forward(call, (&host, port), &path, body)
        .await
        .map_err(|err| Status::service_unavailable(format!("error trying to reach service: {err}")))
}

/// Upstream's IsProxyableIP: whoever may write a status must not reach what listens on the
/// host for the host alone. A name, which upstream would look up, is no address of a Pod.
fn is_proxyable(host: &str) -> bool {
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(v4)) => {
            let link_local_multicast = v4.octets()[..3] == [224, 0, 0];
            !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || link_local_multicast)
        }
        Ok(IpAddr::V6(v6)) => {
            // ff01::/16 is one interface's, ff02::/16 one link's.
            let narrow_multicast = matches!(v6.segments()[0] & 0xff0f, 0xff01 | 0xff02);
            !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified() || narrow_multicast)
        }
        Err(_) => false,
    }
}

/// `[scheme:]name[:port]`, as upstream's SplitSchemeNamePort.
fn split(asked: &str) -> Option<(&str, &str, &str)> {
    let parts: Vec<&str> = asked.split(':').collect();
    match *parts.as_slice() {
        [name] => Some(("http", name, "")),
        [name, port] => Some(("http", name, port)),
        [scheme @ ("http" | "https" | ""), name, port] => {
            Some((if scheme.is_empty() { "http" } else { scheme }, name, port))
        }
        _ => None,
    }
    .filter(|(_, name, _)| !name.is_empty())
}

async fn pod_address(call: &Call, port: &str) -> Result<(String, u16), Status> {
    let pod = object::read(&call.current().await?.value)?;
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let port = if port.is_empty() {
        ports
            .next()
            .and_then(|port| port["containerPort"].as_u64())
            .and_then(|port| u16::try_from(port).ok())
            .or(Some(80))
    } else {
        port.parse().ok()
    };
    let host = pod["status"]["podIP"].as_str().unwrap_or_default();
    match port {
        Some(port) if !host.is_empty() => Ok((host.to_owned(), port)),
        Some(_) => Err(Status::bad_request("address not allowed")),
        None => Err(Status::bad_request(format!("invalid port {:?}", port.unwrap_or_default()))),
    }
}

/// A ready endpoint of a Service, for the port of this name or number.
async fn service_address(call: &Call, port: &str) -> Result<(String, u16), Status> {
    let service = object::read(&call.current().await?.value)?;
    let name = call.target.name.as_str();
    let ports: Vec<&Value> = service["spec"]["ports"].as_array().into_iter().flatten().collect();
    let matches = |one: &&&Value| {
        one["name"].as_str().unwrap_or_default() == port
            || one["port"].as_u64().is_some_and(|number| number.to_string() == port)
    };
    let wanted = if port.is_empty() && ports.len() == 1 { ports.first() } else { ports.iter().find(matches) };
    let none = || Status::service_unavailable(format!("no endpoints available for service {name:?}"));
    let port_name = wanted.ok_or_else(none)?["name"].as_str().unwrap_or_default().to_owned();
    let slices = kinds::find("discovery.k8s.io", "v1", "endpointslices").ok_or_else(none)?;
    let prefix = object::prefix(slices, &call.target.namespace);
    let page = call.state.store.range(Range { prefix, ..Range::default() }).await.map_err(store_failed)?;
    let slices = page.entries.iter().filter_map(|entry| object::read(&entry.value).ok());
    let mut of_service =
        slices.filter(|slice| slice.meta().label("kubernetes.io/service-name") == Some(name));
    of_service.find_map(|slice| endpoint(&slice, &port_name)).ok_or_else(none)
}

fn endpoint(slice: &Value, port_name: &str) -> Option<(String, u16)> {
    let ports = slice["ports"].as_array()?;
    let port = ports.iter().find(|port| port["name"].as_str().unwrap_or_default() == port_name)?;
    let endpoints = slice["endpoints"].as_array()?;
    let ready = endpoints.iter().find(|endpoint| endpoint["conditions"]["ready"] != Value::Bool(false))?;
    Some((ready["addresses"][0].as_str()?.to_owned(), u16::try_from(port["port"].as_u64()?).ok()?))
}

async fn forward(call: &mut Call, to: (&str, u16), path: &str, body: Body) -> Result<Response, BoxError> {
    let uri: Uri = path.parse()?;
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    *request.uri_mut() = uri;
    *request.headers_mut() = call.parts.headers.clone();
    let host = if to.0.contains(':') { format!("[{}]:{}", to.0, to.1) } else { format!("{}:{}", to.0, to.1) };
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(&host)?);
    for name in HOP_BY_HOP {
        request.headers_mut().remove(*name);
    }
    // The connection is driven by the answer's body: nobody else needs it.
    let mut connection = Some(Box::pin(connection));
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    let response = loop {
        let Some(running) = connection.as_mut() else { break answer.await? };
        tokio::select! {
            biased;
            response = &mut answer => break response?,
            // A small answer with `Connection: close` is all there when the connection ends.
            done = running => {
                done?;
                connection = None;
            }
        }
    };
    let (mut parts, body) = response.into_parts();
    for name in HOP_BY_HOP {
        parts.headers.remove(*name);
    }
    let lines = futures_util::stream::unfold((body, connection), |(mut body, mut connection)| async move {
        let frame = match connection.as_mut() {
            Some(running) => tokio::select! {
                biased;
                frame = body.frame() => frame,
                _ = running => {
                    connection = None;
                    body.frame().await
                }
            },
            None => body.frame().await,
        };
        let data = frame?.map(|frame| frame.into_data().unwrap_or_default()).map_err(BoxError::from);
        Some((data, (body, connection)))
    });
    Ok(Response::from_parts(parts, wire::body_from_stream(lines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_host_alone_are_not_proxied_to() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "ff01::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "localhost",
            "",
        ] {
            assert!(!is_proxyable(address), "{address}");
        }
        for address in ["10.42.0.7", "192.168.1.4", "fd00::1", "2001:db8::1"] {
            assert!(is_proxyable(address), "{address}");
        }
    }

    #[test]
    fn names_carry_scheme_and_port() {
        assert_eq!(split("web"), Some(("http", "web", "")));
        assert_eq!(split("web:80"), Some(("http", "web", "80")));
        assert_eq!(split("https:web:443"), Some(("https", "web", "443")));
        assert_eq!(split("http:web:"), Some(("http", "web", "")));
        assert_eq!(split("ftp:web:1"), None);
        assert_eq!(split(""), None);
    }
}
