//! The program inside the test images: an HTTP server that misbehaves on request.
//!
//! ```text
//! testserver [serve] [--port N]… [--udp N]… [--slow-start SECONDS] [--slow-stop SECONDS] [--drain 1] [--exit-code N]
//! testserver exit N            end at once with N
//! testserver fetch URL         GET over plain HTTP, print the body (a curl for images without one)
//! testserver reach TARGET…     who answers of tcp/HOST:PORT, udp/HOST:PORT, icmp/HOST:0
//! testserver talk HOST:PORT    ask again and again over one connection, say ok or lost
//! ```
//!
//! | path | answer |
//! | --- | --- |
//! | `/` | `hello from <hostname>` |
//! | `/healthz`, `/actuator/health` | 200 or 503, as switched |
//! | `/health/on`, `/health/off` | switches |
//! | `/exit?code=N` | the process ends with N |
//! | `/eat?mib=N` | keeps N MiB more of touched memory |
//! | `/burn?ms=N` | N milliseconds of CPU |
//! | `/slow?ms=N` | answers after N milliseconds |
//! | `/env`, `/file?path=P`, `/args` | dumps |
//! | `/log?line=L` | writes L to standard output |
//! | `/echo` | the request's body |
//! | `/peer` | the address that the request came from |
//!
//! On TERM it waits `--slow-stop` seconds and ends with `--exit-code` (0). With `--drain 1` it first does
//! what Go's `Shutdown` does: it stops listening and finishes the requests that are open, and no more.

mod drain;
mod reach;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bodies beyond this are refused: the server is a test double, not a store.
const BODY_LIMIT: usize = 16 << 20;

#[derive(Debug, Default)]
struct Options {
    ports: Vec<u16>,
    udp: Vec<u16>,
    slow_start: Duration,
    slow_stop: Duration,
    drain: bool,
    exit_code: i32,
}

#[derive(Debug)]
struct Shared {
    healthy: AtomicBool,
    eaten: Mutex<Vec<Vec<u8>>>,
    open: Arc<drain::Open>,
}

impl Shared {
    fn new() -> Self {
        Shared { healthy: AtomicBool::new(true), eaten: Mutex::default(), open: Arc::default() }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("exit") => exit(args.get(1).and_then(|n| n.parse().ok()).unwrap_or(0)),
        Some("fetch") => fetch(args.get(1).map_or("", String::as_str)),
        Some("reach") => reach::reach(&args[1..]),
        Some("talk") => reach::talk(args.get(1).map_or("", String::as_str)),
        Some("serve") => parse(&args[1..]).and_then(serve),
        _ => parse(&args).and_then(serve),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("testserver: {why}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = args.iter();
    while let Some(flag) = words.next() {
        let value: f64 = words
            .next()
            .and_then(|v| v.parse().ok())
            .filter(|v: &f64| *v >= 0.0)
            .ok_or_else(|| format!("{flag} needs a number"))?;
        match flag.as_str() {
            "--port" => options.ports.push(value as u16),
            "--udp" => options.udp.push(value as u16),
            "--slow-start" => options.slow_start = Duration::from_secs_f64(value),
            "--slow-stop" => options.slow_stop = Duration::from_secs_f64(value),
            "--drain" => options.drain = value > 0.0,
            "--exit-code" => options.exit_code = value as i32,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    if options.ports.is_empty() {
        options.ports.push(std::env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(8080));
    }
    Ok(options)
}

fn serve(options: Options) -> Result<(), String> {
    std::thread::sleep(options.slow_start);
    let shared = Arc::new(Shared::new());
    let accepting = listen(&options.ports, &shared)?;
    options.udp.iter().try_for_each(|port| reach::answer_datagrams(*port))?;
    say(&format!("listening on {:?}", options.ports));
    wait_for_term()?;
    say("got TERM");
    if options.drain {
        shared.open.close(&options.ports);
        accepting.into_iter().for_each(|thread| drop(thread.join()));
        shared.open.wait_for_the_end();
    }
    std::thread::sleep(options.slow_stop);
    say("stopped");
    exit(options.exit_code)
}

fn listen(ports: &[u16], shared: &Arc<Shared>) -> Result<Vec<std::thread::JoinHandle<()>>, String> {
    let begin = |port: &u16| {
        let listener = TcpListener::bind(("0.0.0.0", *port)).map_err(|err| format!("port {port}: {err}"))?;
        let shared = shared.clone();
        Ok(std::thread::spawn(move || accept(listener, &shared)))
    };
    ports.iter().map(begin).collect()
}

/// PID 1 of a namespace gets no default action for TERM: without this it would only die by KILL.
fn wait_for_term() -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
        tokio::select! {
            // Both are cancel-safe: a signal that is not taken stays pending.
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

fn accept(listener: TcpListener, shared: &Arc<Shared>) {
    while let Ok((connection, _)) = listener.accept() {
        if shared.open.is_closing() {
            // What the kernel has accepted is served; after that there is nobody to connect to.
            let _ = listener.set_nonblocking(true);
        }
        let _ = connection.set_nonblocking(false);
        // Before anything is read: whoever connects means to ask.
        let request = shared.open.begin();
        let shared = shared.clone();
        std::thread::spawn(move || {
            // A client that goes away mid-request is its own business.
            let _ = converse(&connection, &shared, request);
            let _ = connection.shutdown(Shutdown::Both);
        });
    }
}

fn converse(connection: &TcpStream, shared: &Shared, first: drain::Request) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    let mut under_way = Some(first);
    while !reader.fill_buf()?.is_empty() {
        let _open = under_way.take().unwrap_or_else(|| shared.open.begin());
        let Some(request) = read_request(&mut reader)? else { break };
        let (code, body) = match (request.path.as_str(), connection.peer_addr()) {
            ("/peer", Ok(peer)) => (200, format!("{}\n", peer.ip()).into_bytes()),
            _ => answer(&request, shared),
        };
        let close = request.close || shared.open.is_closing();
        reply(connection, code, body, close)?;
        if close {
            break;
        }
    }
    Ok(())
}

/// In one piece, so that nobody sees half of it.
fn reply(mut connection: &TcpStream, code: u16, body: Vec<u8>, close: bool) -> io::Result<()> {
    let reason = if code == 200 { "OK" } else { "Error" };
    let how = if close { "Connection: close\r\n" } else { "" };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: text/plain\r\n{how}Content-Length: {length}\r\n\r\n"
    );
    connection.write_all(&[head.into_bytes(), body].concat())
}

struct Request {
    path: String,
    query: String,
    body: Vec<u8>,
    close: bool,
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.take(8192).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut request = Request {
        path: path.to_owned(),
        query: query.to_owned(),
        body: Vec::new(),
        close: line.contains("HTTP/1.0"),
    };
    let mut length = 0usize;
    loop {
        let mut header = String::new();
        reader.take(8192).read_line(&mut header)?;
        let header = header.trim_end().to_ascii_lowercase();
        match header.split_once(':') {
            Some(("content-length", n)) => length = n.trim().parse().unwrap_or(0).min(BODY_LIMIT),
            Some(("connection", how)) => request.close |= how.trim() == "close",
            Some(_) => {}
            None => break,
        }
    }
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

fn answer(request: &Request, shared: &Shared) -> (u16, Vec<u8>) {
    let number =
        |name: &str| parameter(&request.query, name).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    match request.path.as_str() {
        "/" => (200, format!("hello from {}\n", hostname()).into_bytes()),
        "/healthz" | "/actuator/health" => health(shared),
        "/health/on" => switch(shared, true),
        "/health/off" => switch(shared, false),
        "/exit" => exit(number("code") as i32),
        "/eat" => eat(shared, number("mib")),
        "/burn" => burn(Duration::from_millis(number("ms"))),
        "/slow" => {
            std::thread::sleep(Duration::from_millis(number("ms")));
            (200, b"done\n".to_vec())
        }
        "/env" => (200, lines(std::env::vars().map(|(k, v)| format!("{k}={v}")))),
        "/args" => (200, lines(std::env::args())),
        "/file" => match std::fs::read(parameter(&request.query, "path").unwrap_or_default()) {
            Ok(content) => (200, content),
            Err(err) => (404, format!("{err}\n").into_bytes()),
        },
        "/log" => {
            say(&parameter(&request.query, "line").unwrap_or_default());
            (200, b"logged\n".to_vec())
        }
        "/echo" => (200, request.body.clone()),
        _ => (404, b"no such path\n".to_vec()),
    }
}

fn health(shared: &Shared) -> (u16, Vec<u8>) {
    if shared.healthy.load(Ordering::SeqCst) { (200, b"UP\n".to_vec()) } else { (503, b"DOWN\n".to_vec()) }
}

fn switch(shared: &Shared, on: bool) -> (u16, Vec<u8>) {
    shared.healthy.store(on, Ordering::SeqCst);
    (200, format!("health {}\n", if on { "on" } else { "off" }).into_bytes())
}

fn eat(shared: &Shared, mib: u64) -> (u16, Vec<u8>) {
    // Ones, not zeros: the kernel gives zeros away without using memory.
    let mut meal = vec![1u8; (mib as usize) << 20];
    meal.iter_mut().step_by(4096).for_each(|byte| *byte = 2);
    let mut eaten = shared.eaten.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    eaten.push(meal);
    (200, format!("{} MiB\n", eaten.iter().map(|m| m.len() >> 20).sum::<usize>()).into_bytes())
}

fn burn(time: Duration) -> (u16, Vec<u8>) {
    let start = Instant::now();
    let mut turns = 0u64;
    while start.elapsed() < time {
        turns = std::hint::black_box(turns + 1);
    }
    (200, format!("{turns} turns\n").into_bytes())
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn lines(items: impl Iterator<Item = String>) -> Vec<u8> {
    let mut sorted: Vec<String> = items.map(|line| line + "\n").collect();
    sorted.sort();
    sorted.concat().into_bytes()
}

/// A query parameter with `%XX` and `+` decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    let raw = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let pair = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn fetch(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("http://").ok_or("fetch takes an http:// URL")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let mut connection = TcpStream::connect(&address).map_err(|err| format!("{address}: {err}"))?;
    write!(connection, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n").map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).map_err(|e| e.to_string())?;
    let start = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no HTTP answer")? + 4;
    io::stdout().write_all(&answer[start..]).map_err(|e| e.to_string())
}

fn say(line: &str) {
    // The log may be closed; the server goes on.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_decoded() {
        assert_eq!(parameter("a=1&path=%2Fetc+x", "path").as_deref(), Some("/etc x"));
        assert_eq!(parameter("path=%2", "path"), None);
        assert_eq!(parameter("path", "path"), None);
    }

    #[test]
    fn the_switch_changes_the_health() {
        let shared = Shared::new();
        assert_eq!(health(&shared).0, 200);
        switch(&shared, false);
        assert_eq!(health(&shared).0, 503);
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        assert!(parse(&["--nosuch".into(), "1".into()]).is_err());
        assert_eq!(parse(&["--port".into(), "81".into()]).map(|o| o.ports), Ok(vec![81]));
    }
}
