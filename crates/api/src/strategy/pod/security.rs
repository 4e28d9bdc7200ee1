//! Security contexts of Pods and containers, and what an operating system forbids.

use std::collections::BTreeSet;

use serde_json::Value;

use super::spec::{Whole, each_container};
use super::volume::local_descending_path;
use crate::field::{Error, ErrorList, Path};
use crate::validate::view::View;
use crate::validate::{check, inclusive_range, is_dns1123_subdomain};

/// A user or group id.
fn id(holder: View<'_>, name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(number) = holder.get(name).as_int() {
        id_number(number, &path.child(name), errors);
    }
}

pub(super) fn id_number(number: i64, path: &Path<'_>, errors: &mut ErrorList) {
    if !(0..=i64::from(i32::MAX)).contains(&number) {
        errors.push(Error::invalid(path, number, inclusive_range(0, i64::from(i32::MAX))));
    }
}

/// An optional enumeration.
fn optional_one_of(
    holder: View<'_>,
    name: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let value = holder.get(name);
    if value.is_set() && !supported.contains(&value.text()) {
        errors.push(Error::not_supported(&path.child(name), value.text(), supported));
    }
}

/// The security context of the Pod.
pub(super) fn pod(spec: View<'_>, spec_path: &Path<'_>, errors: &mut ErrorList) {
    let (context, path) = (spec.get("securityContext"), spec_path.child("securityContext"));
    for name in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(context, name, &path, errors);
    }
    let groups = path.child("supplementalGroups");
    for (index, group) in context.list("supplementalGroups").enumerate() {
        id_number(group.as_int().unwrap_or(0), &groups.index(index), errors);
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let words = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Error::invalid(&path.child("shareProcessNamespace"), true, words));
    }
    sysctls(spec, &path.child("sysctls"), errors);
    optional_one_of(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], &path, errors);
    seccomp(context, &path, errors);
    windows_options(context, &path, errors);
    app_armor(context, &path, errors);
    optional_one_of(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &path, errors);
    optional_one_of(context, "seLinuxChangePolicy", &["MountOption", "Recursive"], &path, errors);
}

fn sysctls(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in spec.get("securityContext").list("sysctls").enumerate() {
        let (at, name) = (path.index(index), sysctl.str("name"));
        let field = at.child("name");
        if name.is_empty() {
            errors.push(Error::required(&field, ""));
        } else if !is_sysctl(name) {
            let words = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(Error::invalid(&field, name, words));
        } else if seen.contains(name) {
            errors.push(Error::duplicate(&field, name));
        }
        let dotted = name.replace('/', ".");
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix));
        if spec.flag("hostNetwork") && dotted.starts_with("net.") {
            errors.push(Error::invalid(&field, name, "may not be specified when 'hostNetwork' is true"));
        } else if spec.flag("hostIPC") && (ipc || dotted == "kernel.sem") {
            errors.push(Error::invalid(&field, name, "may not be specified when 'hostIPC' is true"));
        }
        seen.insert(name);
    }
}

fn is_sysctl(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |part: &str| match part.as_bytes() {
        [] => false,
        bytes => {
            edge(bytes[0])
                && edge(bytes[bytes.len() - 1])
                && bytes.iter().all(|b| edge(*b) || matches!(b, b'-' | b'_'))
        }
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

/// The security context of a container.
pub(super) fn container(context: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if !context.is_set() {
        return;
    }
    id(context, "runAsUser", path, errors);
    id(context, "runAsGroup", path, errors);
    optional_one_of(context, "procMount", &["Default", "Unmasked"], path, errors);
    if whole.host_users && context.str("procMount") == "Unmasked" {
        let words = "`hostUsers` must be false to use `Unmasked`";
        errors.push(Error::invalid(&path.child("procMount"), "Unmasked", words));
    }
    seccomp(context, path, errors);
    if context.opt_flag("allowPrivilegeEscalation") == Some(false) {
        if context.flag("privileged") {
            let words = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(Error::invalid(path, shown(context), words));
        }
        for _ in context.get("capabilities").list("add").filter(|cap| cap.text() == "CAP_SYS_ADMIN") {
            let words = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.push(Error::invalid(path, shown(context), words));
        }
    }
    windows_options(context, path, errors);
    app_armor(context, path, errors);
}

/// A container's security context as upstream shows it: its own Go struct.
fn shown(context: View<'_>) -> Value {
    super::internal::value("SecurityContext", context.json())
}

fn seccomp(context: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (profile, path) = (context.get("seccompProfile"), path.child("seccompProfile"));
    if !profile.is_set() {
        return;
    }
    let (kind, file, at) =
        (profile.str("type"), profile.get("localhostProfile"), path.child("localhostProfile"));
    match kind {
        "" => {
            errors.push(Error::required(&path.child("type"), "type is required when seccompProfile is set"))
        }
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        other => {
            let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(Error::not_supported(&path.child("type"), other, &supported));
        }
    }
    match (kind == "Localhost", file.is_set()) {
        (true, true) => local_descending_path(file.text(), &at, errors),
        (true, false) => errors.push(Error::required(&at, "must be set when seccomp type is Localhost")),
        (false, true) => {
            let value = super::internal::value("SeccompProfile", profile.json());
            errors.push(Error::invalid(&at, value, "can only be set when seccomp type is Localhost"));
        }
        (false, false) => {}
    }
}

fn app_armor(context: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (profile, path) = (context.get("appArmorProfile"), path.child("appArmorProfile"));
    if !profile.is_set() {
        return;
    }
    let (file, at) = (profile.get("localhostProfile"), path.child("localhostProfile"));
    match profile.str("type") {
        "Localhost" => {
            let name = file.text();
            if name.trim() != name {
                errors.push(Error::invalid(&at, name, "must not be padded with whitespace"));
            } else if name.is_empty() {
                errors.push(Error::required(&at, "must be set when AppArmor type is Localhost"));
            }
            if name.len() > 4095 {
                errors.push(Error::too_long(&at, 4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if file.is_set() {
                errors.push(Error::invalid(
                    &at,
                    file.json(),
                    "can only be set when AppArmor type is Localhost",
                ));
            }
        }
        "" => {
            errors.push(Error::required(&path.child("type"), "type is required when appArmorProfile is set"))
        }
        other => {
            let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(Error::not_supported(&path.child("type"), other, &supported));
        }
    }
}

fn windows_options(context: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let (options, path) = (context.get("windowsOptions"), path.child("windowsOptions"));
    let name = options.get("gmsaCredentialSpecName");
    if name.is_set() {
        check(is_dns1123_subdomain(name.text()), name.text(), &path.child("gmsaCredentialSpecName"), errors);
    }
    let spec = options.get("gmsaCredentialSpec");
    let words = match spec.text().len() {
        _ if !spec.is_set() => "",
        0 => "gmsaCredentialSpec cannot be an empty string",
        length if length > 64 * 1024 => "gmsaCredentialSpec size must be under 64 KiB",
        _ => "",
    };
    if !words.is_empty() {
        errors.push(Error::invalid(&path.child("gmsaCredentialSpec"), spec.text(), words));
    }
    let user = options.get("runAsUserName");
    if user.is_set() {
        windows_user(user.text(), &path.child("runAsUserName"), errors);
    }
}

fn windows_user(name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let mut refuse = |words: &str| errors.push(Error::invalid(path, name, words));
    if name.is_empty() {
        return refuse("runAsUserName cannot be an empty string");
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return refuse("runAsUserName cannot contain control characters");
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>().as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return refuse("runAsUserName cannot contain more than one backslash"),
    };
    if let Some(domain) = domain {
        if domain.len() >= 256 {
            refuse("runAsUserName's Domain length must be under 256 characters");
        }
        if !is_netbios(domain) && !is_windows_dns(domain) {
            refuse("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    match user.len() {
        0 => refuse("runAsUserName's User cannot be empty"),
        length if length > 104 => {
            refuse("runAsUserName's User length must not be longer than 104 characters")
        }
        _ => {}
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        refuse("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        refuse("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

fn is_netbios(domain: &str) -> bool {
    let length = domain.chars().count();
    (1..=15).contains(&length) && !domain.starts_with('.') && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
}

fn is_windows_dns(domain: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    domain.split('.').all(|part| {
        let bytes = part.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.len() <= 63
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    })
}

/// Windows' host-process containers: all or none, and only with the host's network.
pub(super) fn host_process(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let of = |holder: View<'_>| holder.at(&["securityContext", "windowsOptions"]).opt_flag("hostProcess");
    let pod = of(spec);
    let (mut all, mut privileged) = (0, 0);
    each_container(spec, path, |container, at| {
        all += 1;
        let own = of(container);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let words = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.push(Error::invalid(&at.child("securityContext.windowsOptions.hostProcess"), own, words));
        }
        privileged += usize::from(own.or(pod) == Some(true));
    });
    if privileged == 0 {
        return;
    }
    if privileged != all {
        let words =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(Error::invalid(path, "", words));
    }
    if !spec.flag("hostNetwork") {
        let words = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(Error::invalid(&path.child("hostNetwork"), false, words));
    }
}

/// A Pod in a user namespace of its own cannot share the host's other namespaces.
pub(super) fn host_users(spec: View<'_>, whole: &Whole<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if whole.host_users {
        return;
    }
    let words = "when `hostUsers` is false";
    for (field, name) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.flag(field) {
            errors.push(Error::forbidden(&path.child(name), words));
        }
    }
    each_container(spec, path, |container, at| {
        if container.has_items("volumeDevices") {
            errors.push(Error::forbidden(&at.child("volumeDevices"), words));
        }
    });
}

/// What `spec.os` forbids.
pub(super) fn os(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    if !spec.get("os").is_set() {
        return;
    }
    let at = path.child("os");
    match spec.at(&["os", "name"]).text() {
        "" => errors.push(Error::required(&at.child("name"), "")),
        "linux" => linux(spec, path, errors),
        "windows" => windows(spec, path, errors),
        other => errors.push(Error::not_supported(&at, other, &["linux", "windows"])),
    }
}

fn linux(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let field = "securityContext.windowsOptions";
    let mut refuse = |holder: View<'_>, at: &Path<'_>| {
        if holder.at(&["securityContext", "windowsOptions"]).is_set() {
            errors.push(Error::forbidden(&at.child(field), "windows options cannot be set for a linux pod"));
        }
    };
    refuse(spec, path);
    each_container(spec, path, |container, at| refuse(container, at));
}

fn windows(spec: View<'_>, path: &Path<'_>, errors: &mut ErrorList) {
    let words = "cannot be set for a windows pod";
    let (context, at) = (spec.get("securityContext"), path.child("securityContext"));
    for name in ["appArmorProfile", "seLinuxOptions"] {
        refuse(context, name, &at, words, errors);
    }
    refuse(spec, "hostUsers", path, words, errors);
    for name in ["hostPID", "hostIPC"].into_iter().filter(|name| spec.flag(name)) {
        errors.push(Error::forbidden(&path.child(name), words));
    }
    for name in ["seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls"] {
        refuse(context, name, &at, words, errors);
    }
    refuse(spec, "shareProcessNamespace", path, words, errors);
    for name in
        ["runAsUser", "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy"]
    {
        refuse(context, name, &at, words, errors);
    }
    each_container(spec, path, |container, at| {
        let (context, at) = (container.get("securityContext"), at.child("securityContext"));
        for name in [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ] {
            refuse(context, name, &at, words, errors);
        }
    });
}

fn refuse(holder: View<'_>, name: &str, path: &Path<'_>, words: &str, errors: &mut ErrorList) {
    if holder.get(name).is_set() {
        errors.push(Error::forbidden(&path.child(name), words));
    }
}
