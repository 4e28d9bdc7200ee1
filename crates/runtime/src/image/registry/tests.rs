//! Pulls from a small registry in this process that misbehaves on demand, and from Debian's
//! docker-registry where it is installed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::image::tests::{Tar, gzip};
use crate::image::{ImageError, ImageStore};

/// Content and manners of a registry.
#[derive(Default)]
struct Content {
    manifests: HashMap<String, (String, Vec<u8>)>,
    blobs: HashMap<String, Vec<u8>>,
    /// `user:password` that the token server wants.
    login: Option<&'static str>,
    /// Blobs are cut after so many bytes, once each.
    cut_at: Option<usize>,
    /// Blobs are elsewhere.
    redirect_to: Option<SocketAddr>,
    /// Every request, for the tests to look at.
    log: Vec<String>,
    /// What was asked for as of a proxy: login and URL.
    proxied: Vec<String>,
}

type Shared = Arc<Mutex<Content>>;

async fn serve(content: Shared) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let content = content.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(&content, address, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                // A cut connection is an error of the server too.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

fn answer(content: &Shared, own: SocketAddr, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut content = content.lock().unwrap();
    let path = request.uri().path().to_owned();
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (authorization, range) = (header("authorization").to_owned(), header("range").to_owned());
    content.log.push(format!("{} {path} auth={} range={range}", request.method(), !authorization.is_empty()));
    let login = header("proxy-authorization").to_owned();
    if !login.is_empty() {
        content.proxied.push(format!("{login} {}", request.uri()));
    }
    if path == "/token" {
        return token(&content, &authorization, request.uri().query().unwrap_or_default());
    }
    if content.login.is_some() && authorization != "Bearer let-me-in" {
        let challenge = format!("Bearer realm=\"http://{own}/token\",service=\"test\"");
        let mut denied = plain(StatusCode::UNAUTHORIZED, "");
        denied.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
        return denied;
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    if path.contains("/manifests/") {
        return manifest(&content, name);
    }
    blob(&mut content, name, &path, &range)
}

fn token(content: &Content, authorization: &str, query: &str) -> Response<Full<Bytes>> {
    use base64::Engine as _;
    assert!(query.contains("scope=repository%3Alib%2Fapp%3Apull"), "{query}");
    let login = content.login.unwrap_or_default();
    let wanted = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login));
    if authorization == wanted {
        return plain(StatusCode::OK, r#"{"token":"let-me-in"}"#);
    }
    plain(StatusCode::UNAUTHORIZED, "")
}

fn manifest(content: &Content, name: &str) -> Response<Full<Bytes>> {
    let Some((media_type, body)) = content.manifests.get(name) else {
        return plain(StatusCode::NOT_FOUND, "{}");
    };
    let digest = Digest::of(body).to_string();
    let mut found = plain(StatusCode::OK, body.clone());
    found.headers_mut().insert("content-type", media_type.parse().unwrap());
    found.headers_mut().insert("docker-content-digest", digest.parse().unwrap());
    found
}

fn blob(content: &mut Content, name: &str, path: &str, range: &str) -> Response<Full<Bytes>> {
    if let Some(other) = content.redirect_to {
        let mut moved = plain(StatusCode::TEMPORARY_REDIRECT, "");
        moved.headers_mut().insert("location", format!("http://{other}{path}").parse().unwrap());
        return moved;
    }
    let cut = content.cut_at.filter(|_| range.is_empty());
    let Some(body) = content.blobs.get(name) else { return plain(StatusCode::NOT_FOUND, "") };
    if let Some(from) = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')) {
        let from: usize = from.parse().unwrap();
        return plain(StatusCode::PARTIAL_CONTENT, body[from..].to_vec());
    }
    match cut {
        // As a cut connection looks to the client: the answer ends and says it was whole.
        Some(at) if body.len() > at => plain(StatusCode::OK, body[..at].to_vec()),
        _ => plain(StatusCode::OK, body.clone()),
    }
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// An image with one layer in an index for two platforms, under the tag `1`.
fn image(content: &mut Content) -> String {
    let layer = Tar::new().file("hello", &[7; 5000], 0o644).bytes();
    let packed = gzip(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/hello"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        Digest::of(&layer)
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"digest":"{}","size":{}}},"layers":[{{"digest":"{}","size":{}}}]}}"#,
        Digest::of(config.as_bytes()),
        config.len(),
        Digest::of(&packed),
        packed.len()
    );
    let digest = Digest::of(manifest.as_bytes()).to_string();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1,"platform":{{"architecture":"amd64","os":"linux"}}}}]}}"#
    );
    let target = Digest::of(index.as_bytes()).to_string();
    content.blobs.insert(Digest::of(config.as_bytes()).to_string(), config.into_bytes());
    content.blobs.insert(Digest::of(&packed).to_string(), packed);
    content.manifests.insert(digest, (MANIFEST.into(), manifest.into_bytes()));
    let index_type = "application/vnd.oci.image.index.v1+json";
    content.manifests.insert("1".into(), (index_type.into(), index.clone().into_bytes()));
    content.manifests.insert(target.clone(), (index_type.into(), index.into_bytes()));
    target
}

struct Setting {
    _directory: tempfile::TempDir,
    store: Arc<ImageStore>,
    content: Shared,
    address: SocketAddr,
    registries: Registries,
}

async fn setting() -> Setting {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(ImageStore::open(directory.path()).unwrap());
    let content = Shared::default();
    image(&mut content.lock().unwrap());
    let address = serve(content.clone()).await;
    Setting { _directory: directory, store, content, address, registries: Registries::default() }
}

impl Setting {
    async fn pull(&self, name: &str) -> Result<Image, ImageError> {
        self.pull_as(name, Vec::new()).await
    }

    async fn pull_as(&self, name: &str, credentials: Vec<Credentials>) -> Result<Image, ImageError> {
        let reference = format!("{}/{name}", self.address);
        self.store.clone().pull(&reference, &self.registries, credentials, Arc::new(Silent)).await
    }

    fn set(&self, change: impl FnOnce(&mut Content)) {
        change(&mut self.content.lock().unwrap());
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.content.lock().unwrap().log)
    }
}

use crate::interface::Image;

fn is_root() -> bool {
    rustix::process::geteuid().is_root() || {
        eprintln!("skipped: unpacking layers needs root");
        false
    }
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_through_an_index_and_only_once() {
    if !is_root() {
        return;
    }
    let setting = setting().await;
    let image = setting.pull("lib/app:1").await.unwrap();
    let name = format!("{}/lib/app", setting.address);
    assert_eq!(image.repo_tags, [format!("{name}:1")]);
    assert!(image.repo_digests[0].starts_with(&format!("{name}@sha256:")));
    assert_eq!((image.cmd.as_slice(), image.pinned), (&["/hello".to_owned()][..], false));
    let layer = setting.store.layer_directory(&image.layers[0]).unwrap();
    assert_eq!(std::fs::read(layer.join("hello")).unwrap(), [7; 5000]);
    assert_eq!(setting.log().len(), 5, "HEAD, index, manifest, configuration, layer");

    assert_eq!(setting.pull("lib/app:1").await.unwrap(), image);
    assert_eq!(setting.log().len(), 1, "HEAD");
    let by_digest =
        setting.pull(&image.repo_digests[0].replace(&format!("{}/", setting.address), "")).await.unwrap();
    assert_eq!(by_digest.id, image.id);
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_ended() {
    if !is_root() {
        return;
    }
    let setting = setting().await;
    setting.set(|c| c.cut_at = Some(30));
    setting.pull("lib/app:1").await.unwrap();
    let continued = setting.log().iter().filter(|l| l.ends_with("range=bytes=30-")).count();
    assert_eq!(continued, 2, "configuration and layer");
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_says_is_refused() {
    let setting = setting().await;
    setting.set(|c| c.blobs.values_mut().for_each(|blob| blob[0] ^= 1));
    let error = setting.pull("lib/app:1").await.unwrap_err().to_string();
    assert!(error.contains("unexpected digest of a blob from the registry"), "{error}");
    assert!(setting.store.list().unwrap().is_empty());
    let wrong = format!("lib/app@sha256:{}", "0".repeat(64));
    setting.set(|c| {
        let any = c.manifests["1"].clone();
        c.manifests.insert(format!("sha256:{}", "0".repeat(64)), any);
    });
    let error = setting.pull(&wrong).await.unwrap_err().to_string();
    assert!(error.contains("unexpected digest of the manifest"), "{error}");
}

#[tokio::test]
async fn tokens_are_fetched_with_the_credentials_that_are_right() {
    if !is_root() {
        return;
    }
    let setting = setting().await;
    setting.set(|c| c.login = Some("ann:secret"));
    let denied = setting.pull("lib/app:1").await.unwrap_err().to_string();
    let start = format!(
        "failed to pull and unpack image \"{0}/lib/app:1\": failed to resolve reference \"{0}/lib/app:1\": pull access denied, repository does not exist or may require authorization: ",
        setting.address
    );
    assert!(denied.starts_with(&start), "{denied}");
    let login =
        |user: &str| Credentials { username: user.into(), password: "secret".into(), ..Default::default() };
    setting.pull_as("lib/app:1", vec![login("bob"), login("ann")]).await.unwrap();
}

#[tokio::test]
async fn an_image_that_a_pod_pulled_is_for_those_who_could_pull_it() {
    if !is_root() {
        return;
    }
    let setting = setting().await;
    setting.set(|c| c.login = Some("ann:secret"));
    let login = |password: &str| Credentials {
        username: "ann".into(),
        password: password.into(),
        origin: format!("secret {password}"),
        ..Default::default()
    };
    let name = format!("{}/lib/app:1", setting.address);
    let may = |logins: &[Credentials]| setting.store.may_use(&name, logins).unwrap();
    assert!(!may(&[login("secret")]), "it is not here yet");
    let pull = |logins| setting.store.clone().pull_for_pod(&name, &setting.registries, logins);
    let image = pull(vec![login("wrong"), login("secret")]).await.unwrap();
    assert!(may(&[login("secret")]));
    assert!(!may(&[]) && !may(&[login("wrong")]), "only the login that was taken proves anything");
    assert!(!setting.store.may_use(&image.id, &[]).unwrap(), "the id is no way round");
    // The registry is opened to everybody; who asks it learns so.
    setting.set(|c| c.login = None);
    pull(Vec::new()).await.unwrap();
    assert!(may(&[]) && may(&[login("wrong")]));
}

#[tokio::test]
async fn an_image_that_was_put_here_by_hand_stays_everybodys() {
    if !is_root() {
        return;
    }
    let setting = setting().await;
    setting.pull("lib/app:1").await.unwrap();
    let name = format!("{}/lib/app:1", setting.address);
    assert!(setting.store.may_use(&name, &[]).unwrap());
    setting.set(|c| c.login = Some("ann:secret"));
    let ann = Credentials { username: "ann".into(), password: "secret".into(), ..Default::default() };
    setting.store.clone().pull_for_pod(&name, &setting.registries, vec![ann]).await.unwrap();
    assert!(setting.store.may_use(&name, &[]).unwrap());
}

#[tokio::test]
async fn another_host_does_not_get_the_authorisation() {
    if !is_root() {
        return;
    }
    let (setting, elsewhere) = (setting().await, setting().await);
    setting.set(|c| {
        c.login = Some("ann:secret");
        c.redirect_to = Some(elsewhere.address);
    });
    let ann = Credentials { username: "ann".into(), password: "secret".into(), ..Default::default() };
    setting.pull_as("lib/app:1", vec![ann]).await.unwrap();
    let seen = elsewhere.log();
    assert!(seen.len() == 2 && seen.iter().all(|l| l.contains("auth=false")), "{seen:?}");
}

#[tokio::test]
async fn errors_are_worded_as_containerds() {
    let mut setting = setting().await;
    let a = setting.address;
    let missing = setting.pull("lib/app:nope").await.unwrap_err().to_string();
    let name = format!("{a}/lib/app:nope");
    assert_eq!(
        missing,
        format!(
            "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found"
        )
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    setting.address = nobody;
    let refused = setting.pull("app").await.unwrap_err();
    assert!(matches!(&refused, ImageError::Registry { unreachable: true, .. }));
    let name = format!("{nobody}/app:latest");
    assert_eq!(
        refused.to_string(),
        format!(
            "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": failed to do request: \
             Head \"http://{nobody}/v2/app/manifests/latest\": dial tcp {nobody}: connect: connection refused"
        )
    );
}

#[tokio::test]
async fn a_server_without_tls_is_named_so() {
    let setting = setting().await;
    let client = http::Client::new(&[], Proxies::default()).unwrap();
    let url = http::Url::parse(&format!("https://{}/v2/", setting.address)).unwrap();
    let error = client.send(&url, &http::Ask::new(::http::Method::GET)).await.map(|_| ()).unwrap_err();
    assert!(error.message.ends_with("http: server gave HTTP response to HTTPS client"), "{}", error.message);
}

/// One whose name only the proxy knows.
#[tokio::test]
async fn a_registry_is_reached_by_the_proxy_of_the_environment() {
    if !is_root() {
        return;
    }
    let mut setting = setting().await;
    let proxy = format!("http://ann:secret@{}", setting.address);
    setting.registries.insecure.insert("registry.invalid".into());
    setting.registries.proxies = Proxies::of(|name| (name == "HTTP_PROXY").then(|| proxy.clone()));
    let name = "registry.invalid/lib/app:1";
    setting.store.clone().pull(name, &setting.registries, Vec::new(), Arc::new(Silent)).await.unwrap();
    let proxied = setting.content.lock().unwrap().proxied.clone();
    let first = "Basic YW5uOnNlY3JldA== http://registry.invalid/v2/lib/app/manifests/1";
    assert_eq!(proxied.first().map(String::as_str), Some(first));
    assert_eq!(proxied.len(), setting.log().len(), "all of it came by the proxy");
}

#[tokio::test]
async fn tls_goes_through_a_tunnel_that_the_proxy_makes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://ann:secret@{}", listener.local_addr().unwrap());
    let proxies = Proxies::of(|name| (name == "HTTPS_PROXY").then(|| proxy.clone()));
    let client = http::Client::new(&[], proxies).unwrap();
    let url = http::Url::parse("https://registry.invalid/v2/").unwrap();
    for answer in ["200 OK", "403 Forbidden"] {
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).await.unwrap();
            // The first byte of a handshake, or nothing.
            (String::from_utf8(head).unwrap(), stream.read_u8().await.ok())
        };
        let ask = http::Ask::new(::http::Method::GET);
        let (sent, (head, hello)) = tokio::join!(client.send(&url, &ask), serve);
        assert!(head.starts_with("CONNECT registry.invalid:443 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("proxy-authorization: Basic YW5uOnNlY3JldA=="), "{head}");
        assert_eq!(hello, (answer == "200 OK").then_some(22));
        let error = sent.map(drop).unwrap_err().message;
        assert!(error.starts_with("failed to do request: Get \"https://registry.invalid/v2/\": "), "{error}");
        assert!(answer == "200 OK" || error.ends_with(": Forbidden"), "{error}");
    }
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_after_it() {
    if !is_root() {
        return;
    }
    let (mut setting, mirror) = (setting().await, setting().await);
    let domain = setting.address.to_string();
    let mirrors = vec!["http://127.0.0.1:1".to_owned(), format!("http://{}", mirror.address)];
    setting.registries.mirrors.insert(domain, mirrors);
    let image = setting.pull("lib/app:1").await.unwrap();
    assert!(setting.log().is_empty());
    assert_eq!(image.repo_tags, [format!("{}/lib/app:1", setting.address)]);
    mirror.set(|c| c.manifests.clear());
    setting.store.remove(&image.id).unwrap();
    setting.pull("lib/app:1").await.unwrap();
    assert!(!setting.log().is_empty());
}
