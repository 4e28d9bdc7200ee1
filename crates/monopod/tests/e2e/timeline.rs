//! `monopod timeline`: what happened to a Pod, also when it has gone.

use serde_json::Value;

use crate::harness::Instance;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  terminationGracePeriodSeconds: 5\n  \
    initContainers:\n  - {name: init, image: \"busybox:1.36\", command: [\"true\"]}\n  containers:\n  \
    - name: c\n    image: busybox:1.36\n    command: [sh, -c, \"trap 'exit 0' TERM; touch /tmp/up; while [ ! -e /tmp/go ]; do sleep 1 & wait; done; exit 7\"]\n    \
    readinessProbe: {exec: {command: [test, -e, /tmp/up]}, periodSeconds: 1}\n    \
    lifecycle: {postStart: {exec: {command: [\"true\"]}}, preStop: {exec: {command: [\"true\"]}}}\n";

/// The entries as `what container`.
fn entries(instance: &Instance) -> Vec<(String, Value)> {
    let said = instance.monopod(&["timeline", "web", "-o", "json"]).ok();
    let timeline: Value = serde_json::from_str(&said).expect("JSON");
    let entries = timeline["entries"].as_array().expect("a list").clone();
    let word = |entry: &Value| {
        format!("{} {}", entry["what"].as_str().unwrap(), entry["container"].as_str().unwrap_or(""))
    };
    entries.into_iter().map(|entry| (word(&entry).trim().to_owned(), entry)).collect()
}

/// Whether the words are among the entries, in this order.
fn has(entries: &[(String, Value)], words: &[&str]) -> bool {
    let mut left = entries.iter();
    words.iter().all(|word| left.any(|(entry, _)| entry == word))
}

/// In every form, while nothing runs.
fn it_is_shown(instance: &Instance) {
    let text = instance.monopod(&["timeline", "web"]).ok();
    assert!(text.starts_with("default/web (uid ") && text.contains("NothingLeft"), "{text}");
    let picture = instance.monopod(&["timeline", "web", "-o", "svg"]).ok();
    assert!(
        picture.starts_with("<svg ")
            && picture.contains(">init</text>")
            && picture.trim_end().ends_with("</svg>"),
        "{picture}"
    );
    let said = instance.monopod(&["timeline", "nobody"]).fails();
    assert!(said.contains("no timeline of Pod default/nobody"), "{said}");
}

/// Waits until all of the words are there, in their order.
fn wait(instance: &Instance, words: &[&str]) -> Vec<(String, Value)> {
    instance.eventually(&format!("{words:?}"), || {
        let entries = entries(instance);
        if has(&entries, words) { Ok(entries) } else { Err(format!("{entries:#?}")) }
    })
}

/// The cause of the latest entry of this word.
fn cause(seen: &[(String, Value)], word: &str) -> Option<String> {
    let (_, entry) = seen.iter().rev().find(|(entry, _)| entry == word)?;
    entry["cause"].as_str().map(str::to_owned)
}

#[test]
fn everything_has_its_time_and_its_cause_and_is_kept_when_the_pod_has_gone() {
    let mut instance = Instance::start(&["busybox.tar"]);
    instance.apply(POD);
    instance.wait("condition=Ready", "pod/web");
    let up = [
        "Scheduled",
        "VolumesMounted",
        "SandboxReady",
        "Started init",
        "Exited init",
        "Started c",
        "PostStartDone c",
        "Ready",
    ];
    let seen = wait(&instance, &up);
    assert!(has(&seen, &["PostStartDone c", "ReadinessProbePassed c"]), "{seen:#?}");
    assert!(has(&seen, &["ImageReady init", "Created init"]), "{seen:#?}");
    let times: Vec<f64> = seen.iter().map(|(_, entry)| entry["ms"].as_f64().expect("a number")).collect();
    assert!(times[0] == 0.0 && times.is_sorted(), "{times:?}");
    instance.kubectl(&["exec", "web", "-c", "c", "--", "touch", "/tmp/go"]).ok();
    let seen = wait(&instance, &["Exited c", "Restarted c"]);
    assert_eq!(cause(&seen, "Exited c"), Some("Error (7)".into()));
    assert_eq!(cause(&seen, "Restarted c"), Some("number 1, after Error (7)".into()));

    instance.crash();
    instance.up();
    wait(&instance, &["Restarted c", "TakenUp"]);
    instance.kubectl(&["delete", "pod", "web"]).ok();
    let seen = wait(
        &instance,
        &["TakenUp", "Deleted", "PreStopDone c", "Exited c", "SandboxStopped", "NothingLeft"],
    );
    assert_eq!(cause(&seen, "Deleted"), Some("grace period 5 s".into()));
    // The Pod has gone, and then its daemon.
    instance.crash();
    it_is_shown(&instance);
    instance.up();
}
