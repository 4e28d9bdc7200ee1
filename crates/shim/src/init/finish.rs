//! The last steps: who the program is, what it may do, and its execution.

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::path::Path;

use rustix::fs::FileType;
use rustix::process::{Gid, Signal, Uid};
use sys::beneath::{self, Directory, Links};
use sys::capability::Capabilities;
use sys::process;
use sys::seccomp::{self, Profile, Program};
use sys::{Context, Errno, errno_words};

use super::{Child, birth, lookup};
use crate::protocol::{Failure, FailureKind, ResolvedUser, Rlimit, Seccomp, Security, UserSpec};
use crate::users::{Mounts, Users};

/// More of /etc/passwd is not read: an image must not make the shim's child eat memory.
const DATABASE_MAX: u64 = 8 << 20;

/// Everything about the program that is executed.
pub(super) struct Identity<'a> {
    pub(super) user: &'a ResolvedUser,
    pub(super) security: &'a Security,
    pub(super) filter: Option<&'a Program>,
    pub(super) environment: Vec<String>,
    pub(super) argv: &'a [String],
    pub(super) cwd: &'a str,
    pub(super) rlimits: &'a [Rlimit],
    pub(super) mounts: Mounts,
}

/// What the program will be able to do. Privileged: all that this machine can give.
fn capabilities(security: &Security) -> Result<Capabilities, Failure> {
    if security.privileged {
        return Ok(Capabilities::of_this_machine());
    }
    Ok(Capabilities::chosen(&security.add_capabilities, &security.drop_capabilities)?)
}

/// The system call filter, while the node's profile files are still in sight. As in containerd a
/// privileged container has none.
pub(super) fn filter(security: &Security) -> Result<Option<Program>, Failure> {
    let capabilities = capabilities(security)?;
    let profile = match &security.seccomp {
        _ if security.privileged => return Ok(None),
        Seccomp::Unconfined => return Ok(None),
        Seccomp::RuntimeDefault => Profile::usual(capabilities),
        Seccomp::Localhost(path) => read_profile(path)?,
    };
    Ok(Some(profile.compile(capabilities)?))
}

fn read_profile(path: &Path) -> Result<Profile, Failure> {
    let cannot = |why: String| {
        let message = format!("cannot load seccomp profile {:?}: {why}", path.display().to_string());
        Failure::new(FailureKind::Invalid, message)
    };
    let text = fs::read(path).map_err(|error| cannot(sys::Error::io("open", &error).to_string()))?;
    serde_json::from_slice(&text).map_err(|error| cannot(error.to_string()))
}

/// Who the program will be, from the image's own files.
pub(super) fn resolve_user(user: &UserSpec) -> Result<(ResolvedUser, String), Failure> {
    let wanted = sys::user::Wanted {
        uid: user.uid,
        gid: user.gid,
        spec: &user.image_user,
        groups: &user.groups,
        strict: user.strict_groups,
    };
    let (passwd, group) = (database("/etc/passwd"), database("/etc/group"));
    let found = sys::user::resolve(&wanted, &passwd, &group)?;
    Ok((ResolvedUser { uid: found.uid, gid: found.gid, groups: found.groups }, found.home))
}

/// The text of a file of the image; empty when it has none, or something else than a file.
fn database(path: &str) -> String {
    let mut bytes = Vec::new();
    let root = Directory::open(Path::new("/"));
    // Through links, as everything of the image; a volume may hold it, and so anything else.
    if let Ok(file) = root.and_then(|root| root.file_by(path, Links::Inside, beneath::Mounts::Cross)) {
        let _ = file.take(DATABASE_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Becomes the user with its capabilities and executes the program; returns only a failure.
///
/// The order is runc's: a filter without `no_new_privs` needs `SYS_ADMIN` and so comes before
/// everything is given up; with it the filter comes last, so that it need not permit these steps.
pub(super) fn execute(child: &Child<'_>, identity: &Identity<'_>) -> Result<(), Failure> {
    let capabilities = capabilities(identity.security)?;
    let no_new_privs = identity.security.no_new_privileges || forbids_birth(child, identity.filter);
    for limit in identity.rlimits {
        set_limit(limit)?;
    }
    own_streams(identity.user, child.users);
    // Before anything is given up: root of the Pod's users has all to give up.
    child.users.map_or(Ok(()), |users| users.join(identity.mounts))?;
    // A kernel without keys, or a full quota, is no reason not to run.
    let _ = process::new_session_keyring();
    process::close_on_exec_from(3)?;
    process::reset_signals();
    if let (Some(filter), false) = (identity.filter, no_new_privs) {
        seccomp::install(filter)?;
    }
    capabilities.bound()?;
    become_user(identity.user, capabilities)?;
    // The change of user may have let others look into it again.
    process::forbid_inspection();
    change_directory(identity.cwd)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let (program, arguments, environment) = program(identity)?;
    if child.among.is_some() {
        birth::be_born(child)?;
    }
    // Without the shim the container is nobody's: it must not live on unseen.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).attempt(|| "set death signal")?;
    if no_new_privs {
        rustix::thread::set_no_new_privs(true).attempt(|| "set no_new_privs")?;
        if let Some(filter) = identity.filter {
            seccomp::install(filter)?;
        }
    }
    let errno = process::exec(&program, &arguments, &environment);
    Err(Failure::new(
        FailureKind::StartError,
        format!("exec {}: {}", program.to_string_lossy(), errno_words(errno)),
    ))
}

/// A filter that the last steps cannot be done under comes behind them.
fn forbids_birth(child: &Child<'_>, filter: Option<&Program>) -> bool {
    child.among.is_some() && filter.is_some_and(|filter| !birth::is_possible_under(filter))
}

fn set_limit(limit: &Rlimit) -> Result<(), Failure> {
    let resource = sys::limits::resource(&limit.kind)
        .ok_or_else(|| Failure::new(FailureKind::Invalid, format!("unknown rlimit {:?}", limit.kind)))?;
    Ok(sys::limits::set(resource, limit.soft, limit.hard)?)
}

/// Gives the standard streams to the user: programs open /dev/stdout anew. What is no pipe or
/// terminal of ours (/dev/null) stays as it is.
fn own_streams(user: &ResolvedUser, users: Option<&Users>) {
    let owner = users.map_or(user.uid, |users| users.outside(user.uid));
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let ours = rustix::fs::fstat(stream).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::Fifo || rustix::termios::isatty(stream)
        });
        if ours {
            let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(owner)), None);
        }
    }
}

fn become_user(user: &ResolvedUser, capabilities: Capabilities) -> Result<(), Failure> {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).attempt(|| "setgroups")?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).attempt(|| format!("setgid {}", user.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).attempt(|| format!("setuid {}", user.uid))?;
    // Leaving user 0 has taken all capabilities; exec would not give them back either.
    let left = if user.uid == 0 { capabilities } else { Capabilities::NONE };
    Ok(left.apply()?)
}

fn change_directory(cwd: &str) -> Result<(), Failure> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    rustix::process::chdir(cwd).map_err(|errno| {
        let message = format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", errno_words(errno));
        Failure::new(FailureKind::StartError, message)
    })?;
    // A link may lead to a directory that is none of the container's; the kernel then names it
    // with something else in front than a slash.
    match rustix::process::getcwd(Vec::new()) {
        Ok(real) if real.as_bytes().starts_with(b"/") => Ok(()),
        _ => {
            let message = "current working directory is outside of container mount namespace root";
            Err(Failure::new(
                FailureKind::StartError,
                format!("{message} -- possible container breakout detected"),
            ))
        }
    }
}

type Arguments = (CString, Vec<CString>, Vec<CString>);

fn program(identity: &Identity<'_>) -> Result<Arguments, Failure> {
    let path = identity.environment.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or("");
    let name = identity.argv.first().map_or("", String::as_str);
    let found = lookup::program(name, path)?;
    let strings = |list: &[String]| list.iter().map(|item| c_string(item)).collect::<Result<Vec<_>, _>>();
    Ok((sys::mount::c_path(&found)?, strings(identity.argv)?, strings(&identity.environment)?))
}

fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text)
        .map_err(|_| sys::Error::new(format!("pass {text:?} to the program"), Errno::INVAL).into())
}
