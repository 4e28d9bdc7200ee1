//! Pulls from a registry that takes its time: how many there are, and when they end.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use runtime::{Error, Image, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::setting::Setting;

type Pull<'a> = BoxFuture<'a, Result<Image, Error>>;

/// The next request, its head read, while these pulls go on.
async fn request(registry: &TcpListener, pulls: &mut [Pull<'_>]) -> TcpStream {
    let arrive = async {
        let (mut stream, _) = registry.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream
    };
    tokio::select! {
        // Nothing is lost when it is dropped: the test ends then.
        stream = arrive => stream,
        ended = join_all(pulls.iter_mut()) => panic!("no pull ends unanswered: {ended:?}"),
    }
}

pub(super) async fn a_pull_ends_with_the_last_who_waits_for_it(setting: Setting) {
    let node = setting.node().await;
    let registry = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("localhost:{}/app:1", registry.local_addr().unwrap().port());
    let mut both = vec![node.native.pull_image(&name, Vec::new()), node.native.pull_image(&name, Vec::new())];
    let mut stream = request(&registry, &mut both).await;
    drop(both.remove(0));
    stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut again = request(&registry, &mut both).await;
    drop(both);
    // The far end is gone: without an answer, nothing else would end the connection so soon.
    assert_eq!(again.read(&mut [0; 16]).await.unwrap(), 0);
    let mut anew = vec![node.native.pull_image(&name, Vec::new())];
    request(&registry, &mut anew).await;
}

pub(super) async fn a_burst_of_pulls_is_taken_in_turns(setting: Setting) {
    let node = setting.node().await;
    let registry = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = registry.local_addr().unwrap().port();
    let names: Vec<String> = (0..5).map(|number| format!("localhost:{port}/app-{number}:1")).collect();
    let mut pulls: Vec<Pull> = names.iter().map(|name| node.native.pull_image(name, Vec::new())).collect();
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(request(&registry, &mut pulls).await);
    }
    assert!(registry.accept().now_or_never().is_none(), "a fifth at the same time");
    drop(pulls.remove(0));
    streams.push(request(&registry, &mut pulls).await);
}
