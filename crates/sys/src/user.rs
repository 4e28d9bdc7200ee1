//! Who a process will be: names and numbers looked up in an image's /etc/passwd and /etc/group.

/// A user as the kernel needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory; `/` for a user without an entry.
    pub home: String,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Number that overrides the user of `spec`.
    pub uid: Option<u32>,
    /// Number that overrides the group of `spec`.
    pub gid: Option<u32>,
    /// The image's USER: empty, `name`, `uid`, `user:group`.
    pub spec: &'a str,
    /// More groups.
    pub groups: &'a [u32],
    /// Leave the memberships of /etc/group out.
    pub strict: bool,
}

/// The image has no such user or group. Docker's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unable to find {kind} {name}: no matching entries in {file} file")]
pub struct UnknownName {
    kind: &'static str,
    name: String,
    file: &'static str,
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let home = fields.nth(1).unwrap_or("");
    Some(Entry { name, uid, gid, home })
}

fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    Some((name, fields.next()?.parse().ok()?, fields.next().unwrap_or("")))
}

/// Decides who the process is. A number needs no entry; a name does. Pure: `passwd` and `group`
/// are the texts of the image's files, empty when it has none.
///
/// # Errors
/// A name has no entry.
pub fn resolve(wanted: &Wanted<'_>, passwd: &str, group: &str) -> Result<User, UnknownName> {
    let (spec_user, spec_group) = wanted.spec.split_once(':').unwrap_or((wanted.spec, ""));
    let known = find_user(wanted.uid, spec_user, passwd);
    let uid = match (wanted.uid, &known, spec_user.parse()) {
        (Some(uid), _, _) => uid,
        (None, Some(entry), _) => entry.uid,
        (None, None, Ok(number)) => number,
        (None, None, Err(_)) if spec_user.is_empty() => 0,
        (None, None, Err(_)) => {
            return Err(UnknownName { kind: "user", name: spec_user.to_owned(), file: "passwd" });
        }
    };
    let gid = match wanted.gid {
        Some(gid) => gid,
        // The image's group belongs to the image's user: another user gets his own.
        None if !spec_group.is_empty() && wanted.uid.is_none() => find_group(spec_group, group)?,
        None => known.as_ref().map_or(0, |entry| entry.gid),
    };
    let name = known.as_ref().map_or("", |entry| entry.name);
    let memberships = if wanted.strict || name.is_empty() { Vec::new() } else { groups_of(name, group) };
    let mut groups = vec![gid];
    for one in memberships.iter().chain(wanted.groups) {
        if !groups.contains(one) {
            groups.push(*one);
        }
    }
    let home = known.map_or("", |entry| entry.home);
    Ok(User { uid, gid, groups, home: if home.is_empty() { "/".into() } else { home.to_owned() } })
}

fn find_user<'a>(uid: Option<u32>, name: &str, passwd: &'a str) -> Option<Entry<'a>> {
    let number = uid.or_else(|| if name.is_empty() { Some(0) } else { name.parse().ok() });
    let mut entries = passwd.lines().filter_map(entry);
    // As Docker: a name made of digits may be a name; a number given apart may not.
    entries.find(|entry| Some(entry.uid) == number || (uid.is_none() && entry.name == name))
}

fn find_group(name: &str, group: &str) -> Result<u32, UnknownName> {
    let number: Option<u32> = name.parse().ok();
    let found =
        group.lines().filter_map(group_line).find(|(known, gid, _)| *known == name || Some(*gid) == number);
    found.map(|(_, gid, _)| gid).or(number).ok_or_else(|| UnknownName {
        kind: "group",
        name: name.to_owned(),
        file: "group",
    })
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let lines = group.lines().filter_map(group_line);
    lines
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv/web:/bin/false\nbroken line\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlog:x:200:web,root\nssl:x:201:web\n";

    fn who(wanted: &Wanted<'_>) -> Result<User, UnknownName> {
        resolve(wanted, PASSWD, GROUP)
    }

    #[test]
    fn an_image_without_user_runs_as_root_with_roots_groups() {
        let user = who(&Wanted::default()).unwrap();
        assert_eq!(user, User { uid: 0, gid: 0, groups: vec![0, 200], home: "/root".into() });
    }

    #[test]
    fn a_name_brings_its_group_home_and_memberships() {
        let user = who(&Wanted { spec: "web", groups: &[7, 201], ..Wanted::default() }).unwrap();
        assert_eq!(
            user,
            User { uid: 101, gid: 102, groups: vec![102, 200, 201, 7], home: "/srv/web".into() }
        );
    }

    #[test]
    fn a_number_without_entry_has_group_0_and_home_root() {
        let user = who(&Wanted { uid: Some(4242), spec: "web:log", ..Wanted::default() }).unwrap();
        assert_eq!(user, User { uid: 4242, gid: 0, groups: vec![0], home: "/".into() });
    }

    #[test]
    fn group_of_the_image_and_of_the_pod() {
        assert_eq!(who(&Wanted { spec: "web:log", ..Wanted::default() }).unwrap().gid, 200);
        assert_eq!(who(&Wanted { spec: "5:6", ..Wanted::default() }).unwrap().gid, 6);
        assert_eq!(who(&Wanted { spec: "web", gid: Some(9), ..Wanted::default() }).unwrap().gid, 9);
    }

    #[test]
    fn strict_leaves_memberships_out() {
        let user = who(&Wanted { spec: "web", strict: true, groups: &[5], ..Wanted::default() }).unwrap();
        assert_eq!(user.groups, [102, 5]);
    }

    #[test]
    fn unknown_names_are_told_in_dockers_words() {
        let error = who(&Wanted { spec: "nobody", ..Wanted::default() }).unwrap_err();
        assert_eq!(error.to_string(), "unable to find user nobody: no matching entries in passwd file");
        let error = who(&Wanted { spec: "web:nobody", ..Wanted::default() }).unwrap_err();
        assert_eq!(error.to_string(), "unable to find group nobody: no matching entries in group file");
    }
}
