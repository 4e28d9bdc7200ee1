//! Which users of the node are those of a Pod with `hostUsers: false` (upstream's `userns` manager).
//!
//! A file in the Pod's directory says which range it has, and is the reservation: it is on the disk before
//! anything of the Pod runs, holds over a restart, and goes with the directory when nothing of the Pod is left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use runtime::IdRange;
use serde::{Deserialize, Serialize};

/// Ids of one Pod.
const IDS_PER_POD: u32 = 65_536;
/// The user whose ranges are the node's Pods'.
const USER: &str = "kubelet";
/// Upstream's name of the file.
const FILE: &str = "userns";
/// Two Pods that begin at the same time must not find the same range free.
static TURN: Mutex<()> = Mutex::new(());

/// Ids of the node that its Pods may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    first: u32,
    pods: u32,
}

impl Ranges {
    /// Those of the user `kubelet`; without such a user those from `default` on, one for each Pod.
    pub(crate) fn of_host(default: u32, max_pods: u32) -> Result<Self, String> {
        Self::read(Path::new("/etc"), default, max_pods)
    }

    fn read(etc: &Path, default: u32, max_pods: u32) -> Result<Self, String> {
        let text = |file: &str| fs::read_to_string(etc.join(file)).unwrap_or_default();
        let user = text("passwd").lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(USER)).then(|| fields.nth(1).unwrap_or_default().to_owned())
        });
        let Some(number) = user else { return Ok(Self { first: default, pods: max_pods }) };
        let [users, groups] = ["subuid", "subgid"].map(|file| only_range(&text(file), &number, file));
        let (users, groups) = (users?, groups?);
        if users != groups {
            return Err(format!("mismatched subuids and subgids for user {USER:?}"));
        }
        Self::check(users, max_pods)
    }

    /// In upstream's words.
    fn check((first, length): (u32, u32), max_pods: u32) -> Result<Self, String> {
        if !first.is_multiple_of(IDS_PER_POD) {
            return Err(format!("kubelet user assigned ID {first} is not a multiple of {IDS_PER_POD}"));
        }
        if first < IDS_PER_POD {
            return Err(format!(
                "kubelet user assigned ID {first} must be greater or equal to {IDS_PER_POD}"
            ));
        }
        if !length.is_multiple_of(IDS_PER_POD) || first.checked_add(length).is_none() {
            return Err(format!(
                "kubelet user assigned IDs length {length} is not a multiple of {IDS_PER_POD}"
            ));
        }
        let pods = length / IDS_PER_POD;
        if pods < max_pods {
            return Err(format!("kubelet user assigned IDs are not enough to support {max_pods} pods"));
        }
        Ok(Self { first, pods })
    }

    /// One that serves to try whether the host has what such Pods need.
    pub(crate) fn any(self) -> IdRange {
        IdRange { first: self.first, length: IDS_PER_POD }
    }

    /// The range of a Pod, reserved from now on. `pods`: the directories of all Pods.
    pub(crate) fn of_pod(self, pods: &Path, uid: &str) -> Result<IdRange, String> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let own = pods.join(uid);
        if let Some(first) = kept(&own)? {
            return Ok(IdRange { first, length: IDS_PER_POD });
        }
        let mut taken = BTreeSet::new();
        for entry in fs::read_dir(pods).map_err(|err| failed("read", pods, &err))?.flatten() {
            taken.extend(kept(&entry.path())?);
        }
        let all =
            (0..self.pods).filter_map(|number| self.first.checked_add(number.checked_mul(IDS_PER_POD)?));
        let first = all.into_iter().find(|first| !taken.contains(first));
        let first = first.ok_or("could not find an empty slot to allocate a user namespace")?;
        keep(&own, first).map_err(|err| failed("write", &own.join(FILE), &err))?;
        Ok(IdRange { first, length: IDS_PER_POD })
    }
}

fn failed(what: &str, path: &Path, err: &std::io::Error) -> String {
    format!("failed to {what} {}: {err}", path.display())
}

/// The one line of a user in a file of subuid(5).
fn only_range(text: &str, number: &str, file: &str) -> Result<(u32, u32), String> {
    let of_user = |line: &&str| line.split(':').next().is_some_and(|name| name == USER || name == number);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(of_user).collect();
    let [line] = lines[..] else {
        let count = lines.len();
        return Err(format!("/etc/{file} must have one line of user {USER:?}, and has {count}"));
    };
    let numbers: Result<Vec<u32>, _> = line.split(':').skip(1).map(str::parse).collect();
    match numbers.as_deref() {
        Ok([first, length]) => Ok((*first, *length)),
        _ => Err(format!("error parsing line {line:?} of /etc/{file}")),
    }
}

/// As the kubelet writes it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    uid_mappings: [Mapping; 1],
    gid_mappings: [Mapping; 1],
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// The first id of a Pod that has a range.
fn kept(directory: &Path) -> Result<Option<u32>, String> {
    let path = directory.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        // Something else than a directory is no Pod's.
        Err(err)
            if matches!(err.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(err) => return Err(failed("read", &path, &err)),
    };
    // A range that is not known could be given a second time: nothing is given before that is mended.
    let found: Mappings = serde_json::from_slice(&text)
        .map_err(|err| format!("invalid user namespace mappings file {}: {err}", path.display()))?;
    Ok(Some(found.uid_mappings[0].host_id))
}

/// Durable when this returns.
fn keep(directory: &Path, first: u32) -> std::io::Result<()> {
    let mapping = [Mapping { host_id: first, container_id: 0, length: IDS_PER_POD }];
    let text = serde_json::to_vec(&Mappings { uid_mappings: mapping, gid_mappings: mapping })?;
    fs::create_dir_all(directory)?;
    let (path, temporary): (PathBuf, PathBuf) = (directory.join(FILE), directory.join("userns.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(passwd: &str, subuid: &str, subgid: &str) -> Result<Ranges, String> {
        let etc = tempfile::tempdir().unwrap();
        for (file, text) in [("passwd", passwd), ("subuid", subuid), ("subgid", subgid)] {
            fs::write(etc.path().join(file), text).unwrap();
        }
        Ranges::read(etc.path(), 65_536, 110)
    }

    #[test]
    fn ranges_are_those_of_the_user_kubelet_in_upstreams_terms() {
        let (user, other) = ("root:x:0:0\nkubelet:x:998:998::/:/bin/false\n", "pat:100000:65536\n");
        assert_eq!(read("root:x:0:0\n", other, other), Ok(Ranges { first: 65_536, pods: 110 }));
        let range = format!("{other}kubelet:131072:13107200\n");
        assert_eq!(read(user, &range, &range), Ok(Ranges { first: 131_072, pods: 200 }));
        let number = "998:131072:13107200\n";
        assert_eq!(read(user, &range, number), Ok(Ranges { first: 131_072, pods: 200 }));
        let refused = |line: &str| read(user, line, line).unwrap_err();
        assert!(refused("").contains("one line of user \"kubelet\", and has 0"), "{}", refused(""));
        assert!(refused("kubelet:1:2\nkubelet:3:4\n").contains("and has 2"));
        assert!(refused("kubelet:100000:13107200").contains("ID 100000 is not a multiple of 65536"));
        assert!(refused("kubelet:0:13107200").contains("must be greater or equal to 65536"));
        assert!(refused("kubelet:65536:65537").contains("length 65537 is not a multiple"));
        assert!(refused("kubelet:65536:65536").contains("not enough to support 110 pods"));
        assert!(refused("kubelet:x:65536").contains("error parsing line"));
        let mismatch = read(user, &range, "kubelet:65536:13107200").unwrap_err();
        assert_eq!(mismatch, "mismatched subuids and subgids for user \"kubelet\"");
    }

    #[test]
    fn a_range_is_one_pods_until_its_directory_is_gone() {
        let pods = tempfile::tempdir().unwrap();
        let ranges = Ranges { first: 131_072, pods: 2 };
        let of = |uid: &str| ranges.of_pod(pods.path(), uid).map(|range| range.first);
        fs::write(pods.path().join("a file"), "").unwrap();
        assert_eq!([of("a"), of("b"), of("a")], [Ok(131_072), Ok(196_608), Ok(131_072)]);
        assert_eq!(of("c").unwrap_err(), "could not find an empty slot to allocate a user namespace");
        sys::beneath::remove_tree(&pods.path().join("a")).unwrap();
        assert_eq!(of("c"), Ok(131_072));
        fs::write(pods.path().join("b").join(FILE), "{").unwrap();
        assert!(of("d").unwrap_err().starts_with("invalid user namespace mappings file"));
    }

    #[test]
    fn the_file_is_the_kubelets() {
        let pods = tempfile::tempdir().unwrap();
        Ranges { first: 131_072, pods: 1 }.of_pod(pods.path(), "a").unwrap();
        let text = fs::read_to_string(pods.path().join("a").join(FILE)).unwrap();
        let mapping = r#"[{"hostId":131072,"containerId":0,"length":65536}]"#;
        assert_eq!(text, format!(r#"{{"uidMappings":{mapping},"gidMappings":{mapping}}}"#));
    }
}
