//! Images: hostile archives, registries that ask for a login or lie, words of failed pulls.

use std::path::Path;

use serde_json::Value;

use crate::archives::{Registry, Tar, digest, docker_archive, read_archive};
use crate::harness::{Instance, Said, test_image};

fn import(instance: &Instance, archive: &[u8]) -> Said {
    let file = instance.dir.path().join("archive.tar");
    std::fs::write(&file, archive).expect("written");
    instance.monopod(&["image", "import", &file.display().to_string()])
}

fn honest(tag: &str, layer: Tar) -> Vec<u8> {
    let layer = layer.bytes();
    docker_archive(tag, &layer, &digest(&layer))
}

fn listed(instance: &Instance) -> String {
    instance.monopod(&["image", "ls", "-o", "json"]).ok()
}

/// The busybox of the test images, to be put into a layer of one's own.
fn busybox() -> Vec<u8> {
    let files = read_archive(Path::new(&test_image("busybox.tar")));
    let (_, layer) = files.iter().find(|(name, _)| name.ends_with("layer.tar")).expect("a layer");
    let mut layer = tar::Archive::new(layer.as_slice());
    let mut entries = layer.entries().expect("an archive").map(|entry| entry.expect("an entry"));
    let mut entry = entries.find(|entry| entry.path_bytes().ends_with(b"bin/busybox")).expect("busybox");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut bytes).expect("readable");
    bytes
}

#[test]
fn hostile_archives_reach_nothing_outside_their_image() {
    let instance = Instance::start(&[]);
    let outside = tempfile::tempdir().expect("a temporary directory");
    let evil = outside.path().join("evil");
    let evil_text = evil.display().to_string();

    let said = import(&instance, &honest("evil:parent", Tar::new().file("../../../../../../evil", b"x")));
    assert!(said.fails().contains("path contains \"..\""), "the entry and the reason are named");
    // An absolute path, and one through a link, mean places inside the image.
    import(&instance, &honest("evil:absolute", Tar::new().file(&evil_text, b"x"))).ok();
    let through = Tar::new().symlink("out", &outside.path().display().to_string()).file("out/evil", b"x");
    let _ = import(&instance, &honest("evil:link", through));
    assert!(!evil.exists(), "a layer wrote outside its image");

    let layer = Tar::new().file("f", b"content").bytes();
    let lie = digest(b"something else");
    let err = import(&instance, &docker_archive("evil:lie", &layer, &lie)).fails();
    assert!(err.contains(&lie) && err.contains(&digest(&layer)), "both digests are named: {err}");
    let err = import(&instance, b"this is no archive").fails();
    assert_eq!(err.lines().count(), 1, "one sentence: {err}");
    let names = listed(&instance);
    assert!(
        !names.contains("evil:lie") && !names.contains("evil:parent"),
        "half an image is listed: {names}"
    );
    assert_eq!(instance.kubectl(&["get", "--raw", "/readyz"]).ok(), "ok");
}

#[test]
fn a_device_in_an_image_opens_nothing() {
    let instance = Instance::start(&[]);
    let root = std::fs::metadata("/").expect("a root");
    let device = std::os::unix::fs::MetadataExt::dev(&root);
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    let layer =
        Tar::new().file("bin/busybox", &busybox()).symlink("bin/sh", "busybox").block_device("disk", device);
    import(&instance, &honest("docker.io/library/disk:1", layer)).ok();
    instance.apply(
        r#"apiVersion: v1
kind: Pod
metadata: {name: disk}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "disk:1", imagePullPolicy: Never, command: [/bin/busybox, sh, -c, "busybox head -c 1 /disk >/dev/null && echo opened; true"]}
"#,
    );
    instance.wait("jsonpath={.status.phase}=Succeeded", "pod/disk");
    let log = instance.kubectl(&["logs", "disk"]).ok();
    assert!(!log.contains("opened") && (log.contains("not permitted") || log.contains("denied")), "{log}");
}

#[test]
fn an_image_is_pulled_by_hand_and_a_lying_registry_is_found_out() {
    let registry = Registry::open();
    let archive = test_image("busybox.tar");
    registry.push(Path::new(&archive), "lib/busybox", "1");
    let instance = Instance::start(&[]);
    let name = registry.name("lib/busybox:1");
    let said = instance.monopod(&["image", "pull", &name]).ok();
    assert_eq!(said, format!("pulled {name}\n"));
    let images: Value = serde_json::from_str(&listed(&instance)).expect("JSON");
    assert!(images.to_string().contains(&name), "{images}");
    instance.monopod(&["image", "rm", &name]).ok();
    assert_eq!(listed(&instance).trim(), "[]");

    let files = read_archive(Path::new(&archive));
    let layer = files.iter().find(|(name, _)| name.ends_with("layer.tar")).map(|(_, layer)| digest(layer));
    let layer = layer.expect("a layer");
    registry.corrupt(&layer);
    let err = instance.monopod(&["image", "pull", &name]).fails();
    assert!(err.contains(&layer), "the digest is named: {err}");
    assert_eq!(listed(&instance).trim(), "[]", "half an image is listed");
    let err = instance.monopod(&["image", "pull", &registry.name("lib/nosuch:1")]).fails();
    assert!(err.contains("not found") && err.lines().count() == 1, "{err}");
}

fn pod(name: &str, image: &str, secret: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [{{name: {secret}}}]
  containers:
  - {{name: c, image: "{image}", command: [sleep, "3600"]}}
"#
    )
}

fn messages(instance: &Instance, pod: &str) -> Vec<String> {
    let selector = format!("involvedObject.name={pod}");
    let path = r#"jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}"#;
    let said = instance.kubectl(&["get", "events", "--field-selector", &selector, "-o", path]).ok();
    said.lines().map(str::to_owned).collect()
}

fn secret(instance: &Instance, registry: &Registry, name: &str, password: &str) {
    let server = format!("--docker-server=localhost:{}", registry.port);
    let password = format!("--docker-password={password}");
    let words = ["create", "secret", "docker-registry", name, &server, "--docker-username=ann", &password];
    instance.kubectl(&words).ok();
}

#[test]
fn pods_pull_with_their_secrets_and_say_when_these_are_wrong() {
    let registry = Registry::with_login();
    registry.push(Path::new(&test_image("busybox.tar")), "lib/busybox", "1");
    let instance = Instance::start(&[]);
    let image = registry.name("lib/busybox:1");
    secret(&instance, &registry, "wrong", "guess");
    instance.apply(&pod("refused", &image, "wrong"));
    let failed =
        format!("Failed: Failed to pull image \"{image}\": failed to pull and unpack image \"{image}\"");
    let expected = [
        format!("Pulling: Pulling image \"{image}\""),
        "Failed: Error: ErrImagePull".to_owned(),
        format!("BackOff: Back-off pulling image \"{image}\""),
        "Failed: Error: ImagePullBackOff".to_owned(),
    ];
    instance.eventually("the words of a refused pull", || {
        let said = messages(&instance, "refused");
        let all = expected.iter().all(|word| said.contains(word))
            && said.iter().any(|one| one.starts_with(&failed));
        if all { Ok(()) } else { Err(said.join("\n")) }
    });
    let waiting = "{.status.containerStatuses[0].state.waiting.reason}";
    instance.eventually("the state of a refused pull", || {
        let reason = instance.field("pod/refused", waiting);
        if matches!(&*reason, "ImagePullBackOff" | "ErrImagePull") { Ok(()) } else { Err(reason) }
    });

    secret(&instance, &registry, "right", "secret");
    instance.apply(&pod("granted", &image, "right"));
    instance.wait("condition=Ready", "pod/granted");
    let said = messages(&instance, "granted");
    let pulled = format!("Pulled: Successfully pulled image \"{image}\" in ");
    assert!(said.iter().any(|one| one.starts_with(&pulled)), "{said:#?}");

    // The image is here now, but not for those who may not pull it; the next try with a right secret goes through.
    instance.kubectl(&["delete", "secret", "wrong"]).ok();
    secret(&instance, &registry, "wrong", "secret");
    instance.wait("condition=Ready", "pod/refused");
}

#[test]
fn a_private_image_that_is_here_is_for_those_who_could_pull_it() {
    let mut registry = Registry::with_login();
    registry.push(Path::new(&test_image("busybox.tar")), "lib/busybox", "1");
    let instance = Instance::start(&[]);
    let image = registry.name("lib/busybox:1");
    let with = |name: &str, secret: &str, policy: &str| {
        pod(name, &image, secret).replace("command:", &format!("imagePullPolicy: {policy}, command:"))
    };
    secret(&instance, &registry, "right", "secret");
    secret(&instance, &registry, "wrong", "guess");
    instance.apply(&with("owner", "right", "IfNotPresent"));
    instance.wait("condition=Ready", "pod/owner");

    // The image is here, and was pulled with a login that these do not bring.
    instance.apply(&with("stranger", "wrong", "IfNotPresent"));
    instance.apply(&with("never", "wrong", "Never"));
    let waiting = "{.status.containerStatuses[0].state.waiting.reason}";
    for (name, reasons) in
        [("stranger", ["ErrImagePull", "ImagePullBackOff"]), ("never", ["ErrImageNeverPull"; 2])]
    {
        instance.eventually("a Pod without the login waits", || {
            let reason = instance.field(&format!("pod/{name}"), waiting);
            if reasons.contains(&&*reason) { Ok(()) } else { Err(reason) }
        });
    }
    // Who brings the same login needs no registry.
    registry.stop();
    secret(&instance, &registry, "same", "secret");
    instance.apply(&with("friend", "same", "IfNotPresent"));
    instance.wait("condition=Ready", "pod/friend");
    assert_ne!(instance.field("pod/stranger", "{.status.phase}"), "Running");
}

#[test]
fn an_image_gets_another_name_is_saved_and_comes_back_by_the_drop_folder() {
    let instance = Instance::start(&["busybox.tar"]);
    let tagged = instance.monopod(&["image", "tag", "busybox:1.36", "registry.invalid/team/box:2"]).ok();
    assert_eq!(tagged.trim(), "tagged registry.invalid/team/box:2");
    let file = instance.dir.path().join("saved.tar");
    let path = file.display().to_string();
    instance.monopod(&["image", "save", "-o", &path, "registry.invalid/team/box:2"]).ok();
    let images: Value = serde_json::from_str(&listed(&instance)).expect("valid");
    instance.monopod(&["image", "rm", images[0]["id"].as_str().expect("an id")]).ok();
    assert_eq!(listed(&instance).trim(), "[]");
    std::fs::rename(&file, instance.dir.path().join("archives/box.tar")).expect("moved");
    instance.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: box}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {name: c, image: \"registry.invalid/team/box:2\", imagePullPolicy: Never, command: [sleep, \"3600\"]}\n",
    );
    instance.wait("condition=Ready", "pod/box");
    // It has an archive to come back from, and is not collected: it is imported.
    assert!(listed(&instance).contains("\"pinned\": true"));
    let err = instance.monopod(&["image", "tag", "nobody:1", "a:1"]).fails();
    assert!(err.contains("nobody:1"), "{err}");
}
