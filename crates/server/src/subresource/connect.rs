//! Log, exec, attach and port-forward: handed to the handler of the Pod's node.
//!
//! The server decides what upstream's API server decides (does the Pod exist, which
//! container, which node) and rewrites the path to the kubelet's; the node answers,
//! and speaks WebSocket or SPDY itself.

use api::field::{Error, ErrorList, Path};
use api::meta::Object as _;
use api::status::{GroupKind, Status};
use http::{StatusCode, Uri};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use wire::{Body, Request, Response};

use crate::call::Call;
use crate::object;
use crate::query::Query;

/// How much of a node's words about a failure is read.
const ERROR_MAX: usize = 50_000;

/// What is asked of a Pod's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// The log of a container.
    Log,
    /// A command in a container.
    Exec,
    /// The streams of a container.
    Attach,
    /// Connections to a Pod's ports.
    PortForward,
}

/// Answers one of the streaming subresources. `body` is what is left of the
/// request once its head was read.
pub(crate) async fn connect(call: &mut Call, stream: Stream, body: Body) -> Result<Response, Status> {
    let pod = object::read(&call.current().await?.value)?;
    let container = match stream {
        Stream::PortForward => String::new(),
        _ => choose_container(&pod, call.query.text("container"))?,
    };
    let query = match stream {
        Stream::Log => log_query(&call.query, &call.target.name)?,
        Stream::Exec | Stream::Attach => exec_query(call, stream)?,
        Stream::PortForward => call.parts.uri.query().unwrap_or_default().to_owned(),
    };
    let name = call.target.name.as_str();
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return match stream {
            // As upstream: nothing has been logged yet.
            Stream::Log => Ok(no_content()),
            _ => Err(Status::bad_request(format!("pod {name} does not have a host assigned"))),
        };
    }
    let namespace = call.target.namespace.as_str();
    let path = match stream {
        Stream::Log => format!("/containerLogs/{namespace}/{name}/{container}"),
        Stream::Exec => format!("/exec/{namespace}/{name}/{container}"),
        Stream::Attach => format!("/attach/{namespace}/{name}/{container}"),
        Stream::PortForward => format!("/portForward/{namespace}/{name}"),
    };
    let path = if query.is_empty() { path } else { format!("{path}?{query}") };
    let node = node.to_owned();
    let response = hand_over(call, &node, &path, body).await?;
    match stream {
        Stream::Log => checked(call, response).await,
        // Clients of a stream read the node's own words: `unable to upgrade connection: …`.
        _ => Ok(response),
    }
}

/// What admission sees of a connection: the options that upstream decodes the query into.
pub(crate) fn options(call: &Call) -> Value {
    let query = &call.query;
    let mut options = json!({"apiVersion": "v1", "kind": call.subresource().map(|part| &part.kind)});
    match call.target.subresource.as_str() {
        "exec" | "attach" => {
            for stream in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|name| query.flag(name)) {
                options[stream] = true.into();
            }
            if query.has("container") {
                options["container"] = query.text("container").into();
            }
            if query.has("command") {
                options["command"] = query.all("command").collect();
            }
        }
        "portforward" if query.has("ports") => {
            options["ports"] = query.all("ports").filter_map(|port| port.parse::<u16>().ok()).collect();
        }
        "proxy" => options["path"] = format!("/{}", call.target.rest).into(),
        _ => {}
    }
    options
}

/// What the node says is wrong as a Status: upstream's GenericHttpResponseChecker.
async fn checked(call: &Call, response: Response) -> Result<Response, Status> {
    let code = response.status();
    if (200..=206).contains(&code.as_u16()) {
        return Ok(response);
    }
    let text = text_of(response.into_body()).await;
    Err(match code {
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => {
            // The node does not know the Pod yet, or no more.
            let mut status = Status::no_such_resource();
            let (resource, name) = (&*call.resource.plural, &call.target.name);
            status.message = format!("{} ( {resource}/log {name})", status.message);
            status
        }
        code => Status::service_unavailable(format!("the node answered {code}: {text}")),
    })
}

/// Gives the request, with its upgrade, to a node under another path.
pub(crate) async fn hand_over(
    call: &mut Call,
    node: &str,
    path: &str,
    body: Body,
) -> Result<Response, Status> {
    let handler = call.state.config.nodes.handler(node);
    let handler =
        handler.ok_or_else(|| Status::service_unavailable(format!("node {node:?} cannot be reached")))?;
    let uri: Uri =
        path.parse().map_err(|_| Status::bad_request(format!("the path {path:?} is not valid")))?;
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = call.parts.version;
    *request.headers_mut() = call.parts.headers.clone();
    *request.extensions_mut() = std::mem::take(&mut call.parts.extensions);
    Ok(handler.handle(request).await)
}

fn no_content() -> Response {
    let mut response = Response::new(wire::empty());
    *response.status_mut() = http::StatusCode::NO_CONTENT;
    response
}

/// The beginning of a body, as far as it comes.
async fn text_of(mut body: Body) -> String {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(frame.data_ref().map(AsRef::as_ref).unwrap_or_default());
        if bytes.len() > ERROR_MAX {
            bytes.truncate(ERROR_MAX);
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Upstream's validateContainer.
fn choose_container(pod: &Value, asked: &str) -> Result<String, Status> {
    let pod_name = pod.meta().name();
    let names = |field: &str| -> Vec<&str> {
        let containers = pod["spec"][field].as_array().into_iter().flatten();
        containers.filter_map(|container| container["name"].as_str()).collect()
    };
    let (containers, init) = (names("containers"), names("initContainers"));
    if !asked.is_empty() {
        let known = [containers, init, names("ephemeralContainers")].concat().contains(&asked);
        return if known {
            Ok(asked.to_owned())
        } else {
            Err(Status::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
        };
    }
    if let [only] = containers.as_slice() {
        return Ok((*only).to_owned());
    }
    let mut why = format!("a container name must be specified for pod {pod_name}");
    if !containers.is_empty() {
        why += &format!(", choose one of: [{}]", containers.join(" "));
        if !init.is_empty() {
            why += &format!(" or one of the init containers: [{}]", init.join(" "));
        }
    }
    Err(Status::bad_request(why))
}

/// The parameters of a log, checked as upstream's ValidatePodLogOptions does.
fn log_query(query: &Query, pod: &str) -> Result<String, Status> {
    let mut errors = ErrorList::new();
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        if let Some(number) = query.number(name)?
            && number < least
        {
            let why =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.push(Error::invalid(&Path::new(name), number, why));
        }
    }
    if query.has("sinceSeconds") && query.has("sinceTime") {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(Error::forbidden(&Path::new(""), why));
    }
    if !errors.is_empty() {
        return Err(Status::invalid(GroupKind { group: "", kind: "PodLogOptions" }, pod, &errors));
    }
    Ok(query.without("container").encode())
}

/// From the parameters of PodExecOptions to the kubelet's.
fn exec_query(call: &Call, stream: Stream) -> Result<String, Status> {
    let mut query = Query::default();
    for (from, to) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if call.query.flag(from) {
            query.push(to, "1");
        }
    }
    if stream == Stream::Exec {
        let commands: Vec<_> = call.query.all("command").collect();
        if commands.iter().all(|command| command.is_empty()) {
            let errors = ErrorList(vec![Error::required(&Path::new("command"), "")]);
            return Err(Status::invalid(GroupKind { group: "", kind: "PodExecOptions" }, "", &errors));
        }
        for command in commands {
            query.push("command", command);
        }
    }
    Ok(query.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "two"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}})
    }

    fn refused(pod: &Value, asked: &str) -> String {
        choose_container(pod, asked).expect_err("refused").message
    }

    #[test]
    fn the_container_is_chosen_as_upstream_does() {
        assert_eq!(
            refused(&pod(), ""),
            "a container name must be specified for pod two, choose one of: [a b]"
        );
        assert_eq!(refused(&pod(), "nosuch"), "container nosuch is not valid for pod two");
        let mut with_init = pod();
        with_init["spec"]["initContainers"] = json!([{"name": "i"}]);
        let text = "a container name must be specified for pod two, choose one of: [a b] or one of the init containers: [i]";
        assert_eq!(refused(&with_init, ""), text);
        assert_eq!(choose_container(&with_init, "i").expect("known"), "i");
        let one = json!({"metadata": {"name": "one"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(choose_container(&one, "").expect("the only one"), "a");
    }

    #[test]
    fn the_parameters_of_a_log_are_checked() {
        let query = |text: &str| log_query(&Query::parse(Some(text)), "web");
        assert_eq!(query("container=a&follow=true&tailLines=3").expect("fine"), "follow=true&tailLines=3");
        let negative = query("tailLines=-1").expect_err("negative");
        let text = "PodLogOptions \"web\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0";
        assert_eq!((negative.code(), negative.message.as_str()), (422, text));
        assert_eq!(query("sinceSeconds=1&sinceTime=x").expect_err("both").code(), 422);
    }
}
