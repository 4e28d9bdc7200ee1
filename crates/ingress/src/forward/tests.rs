//! A listener in front of real servers, each with a socket.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::table::{PathType, Route};
use crate::{Endpoints, Table, To, Upstream};

/// An ingress whose one rule leads to these.
struct Front {
    served: Served,
    endpoints: Endpoints,
    address: SocketAddr,
    shutdown: CancellationToken,
}

impl Front {
    async fn new() -> Self {
        let served = Served::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let forward = Forward { served: served.clone(), is_tls: false, port: address.port() };
        tokio::spawn(wire::serve(listener, None, Arc::new(forward), shutdown.clone()));
        Front { served, endpoints: Endpoints::default(), address, shutdown }
    }

    fn lead_to(&mut self, addresses: &[SocketAddr], h2c: bool) {
        self.endpoints.begin();
        let to = |address: &SocketAddr| To { address: *address, pod: address.port().to_string(), h2c };
        let upstream = Upstream::new(addresses.iter().map(|one| self.endpoints.of(to(one))).collect());
        let route = Route { path: "/".to_owned(), kind: PathType::Prefix, upstream: Arc::new(upstream) };
        let mut table = Table::default();
        table.hosts.insert("web".to_owned(), vec![route]);
        self.served.swap(table, self.endpoints.take_unused(), self.served.asked());
    }

    /// The whole answer to what is written.
    async fn ask(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, host: &str) -> String {
        self.ask(&format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A server of ours in a Pod's place.
async fn server(handler: impl Handler) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(wire::serve(listener, None, Arc::new(handler), CancellationToken::new()));
    address
}

/// Says what it got.
async fn mirror() -> SocketAddr {
    server(|request: Request| {
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let host = head.headers.get("host").cloned();
            let text = format!("{} {} {host:?} {}", head.method, head.uri, String::from_utf8_lossy(&body));
            Response::new(wire::full(text))
        }
        .boxed()
    })
    .await
}

/// An address where nobody is.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_request_reaches_the_pod_and_its_answer_the_client() {
    let mut front = Front::new().await;
    front.lead_to(&[mirror().await], false);
    let answer = front.get("WEB:80").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(r#"GET /a Some("WEB:80") "#), "{answer}");
    let post = "POST /b?c HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let answer = front.ask(post).await;
    assert!(answer.ends_with(r#"POST /b?c Some("web") abcde"#), "{answer}");
}

#[tokio::test]
async fn what_cannot_be_answered_is_told_by_its_number() {
    let mut front = Front::new().await;
    assert!(front.get("web").await.starts_with("HTTP/1.1 404 "));
    front.lead_to(&[], false);
    assert!(front.get("web").await.starts_with("HTTP/1.1 503 "));
    assert!(front.get("other").await.starts_with("HTTP/1.1 404 "));
    front.lead_to(&[nobody().await], false);
    assert!(front.get("web").await.starts_with("HTTP/1.1 502 "));
    let two = "GET / HTTP/1.1\r\nHost: web\r\nHost: web\r\nConnection: close\r\n\r\n";
    assert!(front.ask(two).await.starts_with("HTTP/1.1 400 "));
}

/// Whoever reads the one length would see another second request than whoever reads the other.
#[tokio::test]
async fn of_two_lengths_one_is_handed_on_and_what_follows_is_no_part_of_it() {
    let mut front = Front::new().await;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = seen.clone();
    let pod = server(move |request: Request| {
        let log = log.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let lengths = (head.headers.get("content-length"), head.headers.get("transfer-encoding"));
            let text = String::from_utf8_lossy(&body);
            log.lock().unwrap().push(format!("{} {} {lengths:?} {text}", head.method, head.uri.path()));
            Response::new(wire::full("got it"))
        }
        .boxed()
    })
    .await;
    front.lead_to(&[pod], false);
    let two = "POST /one HTTP/1.1\r\nHost: web\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n\
               2\r\nhi\r\n0\r\n\r\nGET /two HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    let answer = front.ask(two).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    // RFC 9112, 6.3: the connection may end after such a request; what follows is read anew or not at all.
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen[0], r#"POST /one (None, Some("chunked")) hi"#);
    assert!(seen[1..].iter().all(|other| other == "GET /two (None, None) "), "{seen:?}");
}

#[tokio::test]
async fn where_nobody_listens_another_pod_is_asked_also_for_what_must_not_be_done_twice() {
    let mut front = Front::new().await;
    front.lead_to(&[nobody().await, mirror().await, nobody().await], false);
    for _ in 0..4 {
        let post = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        let answer = front.ask(post).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(" hi"), "{answer}");
    }
}

/// Answers one request a connection and closes the next unanswered; says how many it has read.
async fn closes_the_second() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, read) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = read.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                for turn in 0..2 {
                    let length = stream.read(&mut buffer).await.unwrap_or_default();
                    if length == 0 || turn == 1 {
                        count.fetch_add(usize::from(length > 0), Ordering::SeqCst);
                        return;
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    });
    (address, read)
}

#[tokio::test]
async fn a_kept_connection_that_closes_costs_a_get_nothing_and_a_post_its_answer() {
    let mut front = Front::new().await;
    let (address, read) = closes_the_second().await;
    front.lead_to(&[address], false);
    assert!(front.get("web").await.ends_with("ok"));
    assert!(front.get("web").await.ends_with("ok"), "once more over a new connection");
    assert_eq!(read.load(Ordering::SeqCst), 3);
    let post = "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
    let answer = front.ask(post).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "nobody knows what came of it: {answer}");
    assert_eq!(read.load(Ordering::SeqCst), 4, "it was not sent twice");
}

#[tokio::test]
async fn a_web_socket_goes_through() {
    let mut front = Front::new().await;
    let echo = |mut request: Request| {
        let (response, pending) = wire::websocket::accept(&mut request, &[""]).unwrap();
        pending.sessions().spawn(async move {
            let socket = pending.connect().await.unwrap();
            let _ = socket.send_body(wire::full("hello"), wire::websocket::Messages::Parts).await;
        });
        async move { response }.boxed()
    };
    front.lead_to(&[server(echo).await], false);
    let handshake = "GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.windows(7).any(|part| part == b"\x82\x05hello") {
        let length = stream.read(&mut buffer).await.unwrap();
        assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..length]);
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ")
            && head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=")
    );
}

#[tokio::test]
async fn http2_is_spoken_where_the_service_says_so_and_trailers_arrive() {
    let mut front = Front::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let service =
                hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let text = format!("{:?} {}", request.version(), request.uri());
                    let trailers = http::HeaderMap::from_iter([(
                        http::HeaderName::from_static("grpc-status"),
                        HeaderValue::from_static("0"),
                    )]);
                    let body = http_body_util::Full::<bytes::Bytes>::from(text);
                    let body = body.with_trailers(async move { Some(Ok(trailers)) });
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                });
            let server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    front.lead_to(&[address], true);
    for _ in 0..2 {
        let request = "GET /a HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nConnection: close\r\n\r\n";
        let answer = front.ask(request).await;
        assert!(answer.contains("HTTP/2.0 http://web/a"), "{answer}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1, "both went over one");
}

/// The property that updates lose nothing by: a Pod is told to end only when those who chose it have an answer.
#[tokio::test]
async fn a_pod_is_withdrawn_when_those_who_chose_it_are_answered() {
    let mut front = Front::new().await;
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel::<tokio::sync::oneshot::Sender<()>>();
    let arrived = Mutex::new(arrived);
    let slow = server(move |_: Request| {
        let (go, went) = tokio::sync::oneshot::channel();
        arrived.lock().unwrap().send(go).unwrap();
        async move {
            let _ = went.await;
            Response::new(wire::full("slow"))
        }
        .boxed()
    })
    .await;
    front.lead_to(&[slow], false);
    let served = front.served.clone();
    let asked = {
        let (address, mut stream) = (front.address, TcpStream::connect(front.address).await.unwrap());
        tokio::spawn(async move {
            let text = "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            (address, answer)
        })
    };
    let go = arrivals.recv().await.unwrap();
    let uid = slow.port().to_string();
    let mut withdrawn = served.withdrawn(&uid).boxed();
    assert!(withdrawn.as_mut().now_or_never().is_none(), "no table knows of it yet");
    front.lead_to(&[mirror().await], false);
    assert!(withdrawn.as_mut().now_or_never().is_none(), "one request is under way");
    assert!(front.get("web").await.ends_with(r#"Some("web") "#), "new ones go elsewhere");
    go.send(()).unwrap();
    withdrawn.await;
    assert!(asked.await.unwrap().1.ends_with("slow"));
    // Who asks when nothing is led there waits for a table alone.
    let again = served.withdrawn("nosuch");
    let mut again = std::pin::pin!(again);
    assert!(again.as_mut().now_or_never().is_none());
    front.lead_to(&[], false);
    again.await;
}
