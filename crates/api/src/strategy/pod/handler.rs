//! Probes and lifecycle hooks.

use serde_json::Value;

use super::container::port_number;
use super::spec::Whole;
use crate::field::{Error, ErrorList, Path};
use crate::validate::view::View;
use crate::validate::{check, is_http_header_name, is_valid_port_name, non_negative};

/// Which probe of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    Liveness,
    Readiness,
    Startup,
}

impl Probe {
    const fn field(self) -> &'static str {
        match self {
            Probe::Liveness => "livenessProbe",
            Probe::Readiness => "readinessProbe",
            Probe::Startup => "startupProbe",
        }
    }
}

pub(super) fn probe(
    container: View<'_>,
    which: Probe,
    whole: &Whole<'_>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let (probe, path) = (container.get(which.field()), path.child(which.field()));
    if !probe.is_set() {
        return;
    }
    action(probe, &["exec", "httpGet", "tcpSocket", "grpc"], whole, &path, errors);
    for name in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        non_negative(probe.int(name), &path.child(name), errors);
    }
    let (grace, at) =
        (probe.get("terminationGracePeriodSeconds"), path.child("terminationGracePeriodSeconds"));
    if let Some(seconds) = grace.as_int().filter(|seconds| *seconds <= 0) {
        errors.push(Error::invalid(&at, seconds, "must be greater than 0"));
    }
    match which {
        Probe::Readiness if grace.is_set() => {
            errors.push(Error::invalid(&at, grace.json(), "must not be set for readinessProbes"));
        }
        Probe::Liveness | Probe::Startup if probe.int("successThreshold") != 1 => {
            let given = probe.int("successThreshold");
            errors.push(Error::invalid(&path.child("successThreshold"), given, "must be 1"));
        }
        _ => {}
    }
}

pub(super) fn lifecycle(container: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (lifecycle, path) = (container.get("lifecycle"), path.child("lifecycle"));
    for hook in ["postStart", "preStop"] {
        if lifecycle.get(hook).is_set() {
            let actions = ["exec", "httpGet", "tcpSocket", "sleep"];
            action(lifecycle.get(hook), &actions, whole, &path.child(hook), errors);
        }
    }
    if lifecycle.get("stopSignal").is_set() {
        stop_signal(lifecycle.str("stopSignal"), whole, &path.child("stopSignal"), errors);
    }
}

/// Exactly one action, and that one well-formed.
fn action(handler: View<'_>, kinds: &[&str], whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut chosen = false;
    for kind in kinds.iter().filter(|kind| handler.get(kind).is_set()) {
        let (at, spec) = (path.child(kind), handler.get(kind));
        if chosen {
            errors.push(Error::forbidden(&at, "may not specify more than 1 handler type"));
            continue;
        }
        chosen = true;
        match *kind {
            "exec" if !spec.has_items("command") => errors.push(Error::required(&at.child("command"), "")),
            "httpGet" => http_get(spec, &at, errors),
            "tcpSocket" => port(spec.get("port"), &at.child("port"), errors),
            "grpc" => port_number(spec.int("port"), &at.child("port"), errors),
            "sleep" => sleep(spec.int("seconds"), whole, &at, errors),
            _ => {}
        }
    }
    if !chosen {
        errors.push(Error::required(path, "must specify a handler type"));
    }
}

fn http_get(get: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if get.str("path").is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    }
    port(get.get("port"), &path.child("port"), errors);
    let scheme = get.str("scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.push(Error::not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in get.list("httpHeaders") {
        let name = header.str("name");
        check(is_http_header_name(name), name, &path.child("httpHeaders"), errors);
    }
}

/// A port by number or by name.
pub(in crate::strategy) fn port(port: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    match port.value() {
        Some(Value::String(name)) => check(is_valid_port_name(name), name, path, errors),
        _ => port_number(port.as_int().unwrap_or(0), path, errors),
    }
}

fn sleep(seconds: i64, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let Some(grace) = whole.grace else { return };
    if seconds < 0 || seconds > grace {
        let words = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(Error::invalid(path, seconds, words));
    }
}

const SIGNALS: [&str; 35] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
];

fn stop_signal(signal: &str, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut linux: Vec<String> = SIGNALS.iter().map(|name| (*name).to_owned()).collect();
    linux.extend((1..=15).map(|n| format!("SIGRTMIN+{n}")).chain((1..=14).map(|n| format!("SIGRTMAX-{n}"))));
    linux.push("SIGRTMAX".to_owned());
    linux.sort();
    let linux: Vec<&str> = linux.iter().map(String::as_str).collect();
    let supported: &[&str] = match whole.os {
        None => {
            errors.push(Error::forbidden(path, "may not be set for containers with empty `spec.os.name`"));
            return;
        }
        Some("windows") => &["SIGKILL", "SIGTERM"],
        Some("linux") => &linux,
        Some(_) => return,
    };
    if !supported.contains(&signal) {
        errors.push(Error::not_supported(path, signal, supported));
    }
}
