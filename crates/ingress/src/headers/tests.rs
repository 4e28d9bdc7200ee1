//! Headers that go on, that stay, and that are made.

use super::*;

fn request(lines: &[(&str, &str)]) -> Request {
    let mut request = http::Request::builder().uri("/a?b");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(wire::empty()).unwrap()
}

fn names(request: &Request) -> Vec<&str> {
    let mut names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

const ORIGIN: Origin = Origin {
    peer: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 4711),
    is_tls: true,
    port: 443,
};

#[test]
fn what_belongs_to_one_connection_stays_on_it() {
    let mut request = request(&[
        ("connection", "keep-alive, X-Mine"),
        ("x-mine", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip, trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("proxy-authorization", "secret"),
        ("expect", "100-continue"),
        ("accept", "*/*"),
    ]);
    prepare(&mut request, "web.example.com:8443", ORIGIN);
    assert_eq!(
        names(&request),
        [
            "accept",
            "forwarded",
            "te",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-real-ip"
        ]
    );
    assert_eq!(request.headers()["te"], "trailers");
}

#[test]
fn a_pod_is_told_who_asked_and_not_what_the_client_says_of_that() {
    let lies = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];
    let mut request = request(&lies.map(|name| (name, "lie")));
    // A client cannot have them taken away either.
    request.headers_mut().insert("connection", HeaderValue::from_static("x-forwarded-for, x-real-ip"));
    prepare(&mut request, "Web.example.com:8443", ORIGIN);
    let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-forwarded-for"), "192.0.2.7");
    assert_eq!(header("x-real-ip"), "192.0.2.7");
    assert_eq!(header("x-forwarded-host"), "Web.example.com:8443");
    assert_eq!(header("x-forwarded-proto"), "https");
    assert_eq!(header("x-forwarded-port"), "443");
    assert_eq!(header("forwarded"), r#"for=192.0.2.7;host="Web.example.com:8443";proto=https"#);
}

#[test]
fn the_host_is_told_once_or_not_at_all() {
    let of = |request: &Request| authority(request).and_then(|authority| host_of(&authority));
    assert_eq!(of(&request(&[("host", "Web.Example.com.:80")])).as_deref(), Some("web.example.com"));
    assert_eq!(of(&request(&[("host", "[::1]:80")])).as_deref(), Some("[::1]"));
    assert_eq!(of(&request(&[("host", "a"), ("host", "a")])), None);
    assert_eq!(of(&request(&[("host", "a b")])), None);
    assert_eq!(of(&request(&[])), None, "HTTP/1.1 has a host");
    let mut absolute = request(&[("host", "other")]);
    *absolute.uri_mut() = "http://user@web/".parse().unwrap();
    assert_eq!(authority(&absolute).as_deref(), Some("web"), "the target counts");
}

#[test]
fn cookies_of_http2_become_one_header() {
    let mut request = request(&[("cookie", "a=1"), ("cookie", "b=2")]);
    prepare(&mut request, "", ORIGIN);
    let cookies: Vec<_> = request.headers().get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2"]);
}

#[test]
fn only_http1_is_upgraded_and_not_to_http2() {
    let wish = |protocol| request(&[("connection", "Keep-Alive, Upgrade"), ("upgrade", protocol)]);
    let asked = wish("websocket");
    assert_eq!(upgrade(Version::HTTP_11, asked.headers()).unwrap(), "websocket");
    assert_eq!(upgrade(Version::HTTP_2, asked.headers()), None);
    assert_eq!(upgrade(Version::HTTP_11, wish("h2c").headers()), None);
    assert_eq!(upgrade(Version::HTTP_11, request(&[("upgrade", "websocket")]).headers()), None);
}

#[test]
fn only_what_does_no_harm_twice_is_repeated() {
    let mut asked = request(&[]);
    assert!(repeatable(&asked).is_some());
    *asked.body_mut() = wire::full("x");
    assert!(repeatable(&asked).is_none());
    let mut post = request(&[]);
    *post.method_mut() = Method::POST;
    assert!(repeatable(&post).is_none());
}
