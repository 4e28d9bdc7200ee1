//! What somebody needs to help from afar, in one archive: status, doctor, versions, logs, objects and what the
//! kernel has of the instance. No secret is in it: contents of Secrets are left out of the objects, and
//! wherever else one of them stands, in a log or in a Pod's environment, it is struck out.
//!
//! Each part is made on its own, and a part that cannot be made says why in its place: the archive is wanted
//! exactly when much does not work.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::Client;
use serde_json::Value;

use crate::instance::{self, canonical, need_root};
use crate::{access, backup, doctor, processes, say, status};

/// Of a log; its end tells most.
const LOG_MAX: u64 = 8 << 20;
/// All questions to the API together.
const PATIENCE: Duration = Duration::from_secs(60);
/// A shorter text is no secret worth the name, and striking it out would leave holes in everything.
const SECRET_MIN: usize = 6;
const STRUCK: &str = "[secret]";
/// kubectl keeps the whole object there, a Secret's contents included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

type Part = (String, Vec<u8>);

/// Writes the archive; `-` for standard output.
pub(crate) fn run(data_dir: &Path, file: &Path) -> Result<()> {
    need_root("support-bundle", "it looks at processes, tables and logs")?;
    let data_dir = canonical(data_dir);
    // First: its trials need a program of one thread.
    let mut parts = vec![text("doctor.txt", doctor::report(&data_dir)), text("about.txt", about())];
    parts.push(text("status.json", serde_json::to_string_pretty(&status::look(&data_dir))?));
    let mut secrets = keys(&data_dir);
    match objects(&data_dir) {
        Ok((objects, found)) => {
            parts.extend(objects);
            secrets.extend(found);
        }
        Err(err) => parts.push(text("objects/none.txt", format!("the API does not answer: {err:#}"))),
    }
    parts.extend(kernel(&data_dir));
    parts.push(text("files.txt", files(&data_dir)));
    parts.extend(logs(&data_dir));
    for (_, content) in &mut parts {
        *content = strike(std::mem::take(content), &secrets);
    }
    backup::write_file(&parts, file)?;
    if file == Path::new("-") {
        return Ok(());
    }
    say(&format!(
        "wrote {} ({} files; contents of Secrets and keys are not in it)",
        file.display(),
        parts.len()
    ))
}

/// A part of the archive that is text.
fn text(name: impl Into<String>, content: impl Into<String>) -> Part {
    (name.into(), content.into().into_bytes())
}

/// Which program, on which kernel, and when: the first questions of whoever helps.
fn about() -> String {
    let host = rustix::system::uname();
    let word = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    format!(
        "monopod {} (Kubernetes {})\n{} {} {} {}\nwritten {}\n",
        crate::version(),
        crate::up::KUBERNETES_VERSION,
        word(host.sysname()),
        word(host.release()),
        word(host.version()),
        word(host.machine()),
        jiff::Timestamp::now()
    )
}

/// What the instance's own keys look like, in case one got into a text.
fn keys(data_dir: &Path) -> Vec<Vec<u8>> {
    let read = |name: &str| fs::read(data_dir.join("pki").join(name)).unwrap_or_default();
    let authority = String::from_utf8_lossy(&read("ca.key")).into_owned();
    let lines =
        authority.lines().filter(|line| !line.starts_with("-----")).map(|line| line.as_bytes().to_vec());
    lines
        .chain([STANDARD.encode(read("sa.key")).into_bytes()])
        .filter(|key| key.len() >= SECRET_MIN)
        .collect()
}

/// All objects by kind, and the contents of Secrets, as they are and as base64.
fn objects(data_dir: &Path) -> Result<(Vec<Part>, Vec<Vec<u8>>)> {
    let access = access::own(data_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(Arc::new(client::Https::new(&access)?));
        tokio::time::timeout(PATIENCE, all_objects(&client)).await.context("it takes too long")?
    })
}

/// Everything that discovery lists, so that custom kinds are in it, too. Each list is asked for once;
/// what cannot be listed is left out, because the rest may still tell what is wrong.
async fn all_objects(client: &Client) -> Result<(Vec<Part>, Vec<Vec<u8>>)> {
    let (mut parts, mut secrets) = (Vec::new(), Vec::new());
    for path in group_versions(client).await? {
        let resources = get(client, &path).await?;
        let listed = |resource: &Value| {
            let name = resource["name"].as_str()?;
            let lists = resource["verbs"].as_array()?.iter().any(|verb| verb == "list");
            (lists && !name.contains('/')).then(|| name.to_owned())
        };
        for plural in resources["resources"].as_array().into_iter().flatten().filter_map(listed) {
            // What is measured for the answer may not be there yet: that is no reason to have nothing.
            let Ok(mut list) = get(client, &format!("{path}/{plural}")).await else { continue };
            for object in list["items"].as_array_mut().into_iter().flatten() {
                secrets.extend(redact(object, path == "/api/v1" && plural == "secrets"));
            }
            let name = format!(
                "objects{}/{plural}.json",
                path.trim_start_matches("/apis").trim_start_matches("/api")
            );
            parts.push(text(name, serde_json::to_string_pretty(&list)?));
        }
    }
    Ok((parts, secrets))
}

/// The paths of all groups in their preferred versions.
async fn group_versions(client: &Client) -> Result<Vec<String>> {
    let groups = get(client, "/apis").await?;
    let preferred =
        |group: &Value| Some(format!("/apis/{}", group["preferredVersion"]["groupVersion"].as_str()?));
    let groups = groups["groups"].as_array().into_iter().flatten().filter_map(preferred);
    Ok(["/api/v1".to_owned()].into_iter().chain(groups).collect())
}

/// An answer of the API as JSON.
async fn get(client: &Client, path: &str) -> Result<Value> {
    let answer = client.raw(http::Method::GET, path, "", Bytes::new()).await;
    Ok(serde_json::from_slice(&answer.with_context(|| format!("cannot get {path}"))?)?)
}

/// Takes the contents out of an object and gives them.
fn redact(object: &mut Value, is_secret: bool) -> Vec<Vec<u8>> {
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let mut found = Vec::new();
    let contents = object.get_mut("data").filter(|_| is_secret).and_then(Value::as_object_mut);
    for value in contents.into_iter().flat_map(|data| data.values_mut()) {
        let encoded = value.as_str().unwrap_or_default().to_owned();
        let plain = STANDARD.decode(&encoded).unwrap_or_default();
        *value = format!("[{} bytes]", plain.len()).into();
        // A text of some lines may be quoted line by line.
        let lines = plain.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
        found
            .extend(lines.chain([plain.clone(), encoded.into_bytes()]).filter(|one| one.len() >= SECRET_MIN));
    }
    found
}

/// Strikes out every one of `secrets`.
fn strike(content: Vec<u8>, secrets: &[Vec<u8>]) -> Vec<u8> {
    let mut content = content;
    for secret in secrets {
        if !contains(&content, secret) {
            continue;
        }
        let mut clean = Vec::with_capacity(content.len());
        let mut rest = &content[..];
        while let Some(at) = rest.windows(secret.len()).position(|window| window == secret) {
            clean.extend_from_slice(&rest[..at]);
            clean.extend_from_slice(STRUCK.as_bytes());
            rest = &rest[at + secret.len()..];
        }
        clean.extend_from_slice(rest);
        content = clean;
    }
    content
}

/// A look before the copy: most parts have none of the secrets in them.
fn contains(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len()).any(|window| window == part)
}

/// What the kernel has of the instance.
fn kernel(data_dir: &Path) -> Vec<Part> {
    let id = instance::id(data_dir);
    let mut parts = Vec::new();
    for (family, table) in [
        ("ip", proxy::table_name(&id)),
        ("ip", runtime::names(&id).table),
        ("bridge", runtime::names(&id).table),
    ] {
        let listed = sys::command::run("nft", &["list", "table", family, &table], b"");
        let listed = listed.map(|said| String::from_utf8_lossy(&said.stdout).into_owned());
        parts.push(text(
            format!("kernel/nft-{family}-{table}.txt"),
            listed.unwrap_or_else(|err| err.to_string()),
        ));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let place = data_dir.display().to_string();
    let ours = mounts.lines().filter(|line| line.contains(&place)).collect::<Vec<_>>();
    parts.push(text("kernel/mounts.txt", ours.join("\n")));
    let links = sys::netlink::Link::open().and_then(|links| links.list());
    let links = links.map(|links| links.iter().map(|link| format!("{link:?}\n")).collect::<String>());
    parts.push(text("kernel/links.txt", links.unwrap_or_else(|err| err.to_string())));
    let shims = processes::shims(data_dir).into_iter();
    let shims =
        shims.map(|(directory, shim)| format!("{} {} {}\n", shim.pid, shim.state, directory.display()));
    parts.push(text("kernel/shims.txt", shims.collect::<String>()));
    if let Some(daemon) = processes::daemon(&data_dir.join("state")) {
        for file in ["status", "limits", "cgroup"] {
            let content = fs::read_to_string(format!("/proc/{}/{file}", daemon.pid)).unwrap_or_default();
            parts.push(text(format!("kernel/daemon-{file}.txt"), content));
        }
    }
    parts
}

/// Names and sizes of the files that the instance goes by.
fn files(data_dir: &Path) -> String {
    let mut lines = Vec::new();
    for part in ["", "state", "pki", "pods"] {
        for entry in fs::read_dir(data_dir.join(part)).into_iter().flatten().filter_map(Result::ok) {
            let size = entry.metadata().map(|about| about.len()).unwrap_or_default();
            lines.push(format!("{size:>12} {}", entry.path().display()));
        }
    }
    lines.sort();
    lines.join("\n")
}

/// The ends of the daemon's logs: in files beside the data, or with the service manager.
fn logs(data_dir: &Path) -> Vec<Part> {
    let entries = fs::read_dir(data_dir).into_iter().flatten().filter_map(Result::ok);
    let log = |entry: fs::DirEntry| {
        let name = entry.file_name().to_str().filter(|name| name.starts_with("monopod.log"))?.to_owned();
        Some((format!("log/{name}"), end_of(&entry.path()).ok()?))
    };
    let mut parts: Vec<Part> = entries.filter_map(log).collect();
    let journal = ["--unit=monopod", "--lines=20000", "--no-pager", "--output=short-iso-precise"];
    if let Ok(said) = sys::command::run("journalctl", &journal, b"") {
        parts.push(("log/journal.txt".to_owned(), said.stdout));
    }
    parts
}

/// The last of a log. Its first line may be cut, which is better than an archive nobody can send.
fn end_of(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = fs::File::open(file)?;
    let skipped = file.metadata()?.len().saturating_sub(LOG_MAX);
    file.seek(SeekFrom::Start(skipped))?;
    let mut content = Vec::new();
    file.take(LOG_MAX).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn contents_of_secrets_are_taken_out_wherever_they_stand() {
        let applied = json!({ LAST_APPLIED: "{\"data\":{\"k\":\"aHVudGVyMi1odW50ZXI=\"}}" });
        let mut secret = json!({
            "metadata": { "name": "s", "annotations": applied },
            "data": { "k": STANDARD.encode("hunter2-hunter"), "short": STANDARD.encode("ab") },
        });
        let found = redact(&mut secret, true);
        assert_eq!(
            secret,
            json!({
                "metadata": { "name": "s", "annotations": {} },
                "data": { "k": "[14 bytes]", "short": "[2 bytes]" },
            })
        );
        let log = b"password=hunter2-hunter, ab, aHVudGVyMi1odW50ZXI= and hunter2-hunter".to_vec();
        assert_eq!(strike(log, &found), b"password=[secret], ab, [secret] and [secret]");
        let mut map = json!({ "metadata": {}, "data": { "k": "v" } });
        assert_eq!(redact(&mut map, false), Vec::<Vec<u8>>::new());
        assert_eq!(map["data"]["k"], "v", "what is no Secret is kept");
    }
}
