//! Makes the program a service of the host, and takes it away again.
//!
//! ```text
//! install ─ program, unit, completions ─ systemctl enable --now ─ kubeconfig merged into the user's
//! uninstall ─ systemctl disable --now ─ down --purge ─ the same files gone, and the entries in the kubeconfig
//! ```
//!
//! What it writes can be written again with the same outcome, so a second `install` is how a newer program or
//! other flags come into effect; and it never touches what another package owns.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, InstallFlags, UninstallFlags};
use crate::instance::{canonical, need_root};
use crate::{down, kubeconfig, say};

const UNIT: &str = "monopod.service";
const PROGRAM: &str = "usr/local/bin/monopod";
/// There exactly where the host's processes are managed by systemd (sd_booted(3)).
const BOOTED: &str = "run/systemd/system";
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "usr/share/bash-completion/completions/monopod"),
    (Shell::Zsh, "usr/share/zsh/site-functions/_monopod"),
    (Shell::Fish, "usr/share/fish/vendor_completions.d/monopod.fish"),
];

/// The unit for a data directory and flags of `up`.
fn unit(data_dir: &Path, flags: &[String]) -> String {
    let words = ["/usr/local/bin/monopod", "up"].map(str::to_owned).into_iter();
    let words = words.chain(["--data-dir".to_owned(), data_dir.display().to_string()]);
    let command = words.chain(flags.iter().cloned()).map(|word| quoted(&word)).collect::<Vec<_>>().join(" ");
    include_str!("../../../docs/monopod.service")
        .replace("ExecStart=/usr/local/bin/monopod up", &format!("ExecStart={command}"))
        .replace("RequiresMountsFor=/var/lib/monopod", &format!("RequiresMountsFor={}", data_dir.display()))
}

/// A word of systemd's command lines, where `%` and `$` mean something.
fn quoted(word: &str) -> String {
    let escaped = word.replace('%', "%%").replace('$', "$$").replace('\\', "\\\\").replace('"', "\\\"");
    if escaped.contains([' ', '\t', '"', '\\', '\'', ';']) { format!("\"{escaped}\"") } else { escaped }
}

/// Puts the files in place and starts the service.
pub(crate) fn install(flags: &InstallFlags) -> Result<()> {
    need_root("install", "it writes to /usr/local/bin and /etc/systemd")?;
    let root = &flags.root;
    let data_dir = canonical(&flags.instance.data_dir);
    // Refused before anything is written: a service that cannot start would be started again and again.
    let check = ["monopod", "up", "--data-dir"].map(str::to_owned).into_iter();
    let check = check.chain([data_dir.display().to_string()]).chain(flags.up.iter().cloned());
    let parsed = <Cli as clap::Parser>::try_parse_from(check);
    if let Err(err) = parsed {
        anyhow::bail!("flags of `up`: {}", err.to_string().lines().next().unwrap_or_default());
    }
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    put(
        &root.join(PROGRAM),
        &fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?,
        0o755,
    )?;
    put(&unit_file(root), unit(&data_dir, &flags.up).as_bytes(), 0o644)?;
    for (shell, place) in COMPLETIONS {
        let place = root.join(place);
        // Where nobody has the shell nobody wants a file for it.
        if place.parent().is_some_and(Path::is_dir) {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "monopod", &mut script);
            put(&place, &script, 0o644)?;
        }
    }
    if !is_booted(root) {
        return say("systemd does not run here: `systemctl enable --now monopod` starts it where it does");
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", UNIT])?;
    if flags.no_start {
        return say("`systemctl start monopod` starts it");
    }
    // Comes back when the node is Ready; one that ran before becomes this one, and its Pods stay.
    systemctl(&["restart", UNIT])?;
    say(
        "started the service monopod; `monopod status` says how it is, `journalctl -u monopod` what it logs",
    )?;
    let file = data_dir.join("kubeconfig");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    merge_for_user(&text)
}

/// Takes the service and everything of the instance away.
pub(crate) fn uninstall(flags: &UninstallFlags) -> Result<()> {
    need_root("uninstall", "it removes files of /usr/local/bin and /etc/systemd")?;
    let root = &flags.root;
    let file = unit_file(root);
    if is_booted(root) && file.exists() {
        systemctl(&["disable", "--now", UNIT])?;
    }
    if root == Path::new("/") {
        down::run(&flags.instance.data_dir, !flags.keep_data)?;
        forget_for_user()?;
    }
    let files = COMPLETIONS.iter().map(|(_, place)| root.join(place)).chain([file, root.join(PROGRAM)]);
    for file in files {
        match fs::remove_file(&file) {
            Ok(()) => say(&format!("removed {}", file.display()))?,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err).with_context(|| format!("cannot remove {}", file.display())),
        }
    }
    if is_booted(root) { systemctl(&["daemon-reload"]) } else { Ok(()) }
}

/// Where units of the host's administrator are; those of packages are elsewhere and are not touched.
fn unit_file(root: &Path) -> PathBuf {
    root.join("etc/systemd/system").join(UNIT)
}

/// Another root is that of a host that does not run.
fn is_booted(root: &Path) -> bool {
    root == Path::new("/") && root.join(BOOTED).is_dir()
}

/// Asks systemd for something and waits until it is done.
fn systemctl(words: &[&str]) -> Result<()> {
    let said = sys::command::run("systemctl", words, b"");
    said.map(drop)
        .with_context(|| format!("`systemctl {}` failed; `journalctl -u monopod` says more", words.join(" ")))
}

/// Writes a file whole or not at all: the program may be running.
fn put(file: &Path, content: &[u8], mode: u32) -> Result<()> {
    if fs::read(file).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let written = || {
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        let new = file.with_extension("new");
        fs::write(&new, content)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, file)
    };
    written().map_err(|err: io::Error| anyhow::anyhow!("cannot write {}: {err}", file.display()))?;
    say(&format!("wrote {}", file.display()))
}

/// The kubeconfig of whoever runs this, by sudo too; with who owns it.
fn users_file() -> Option<(PathBuf, u32, u32)> {
    let home = match std::env::var("SUDO_USER") {
        Ok(user) => home_of(&fs::read_to_string("/etc/passwd").ok()?, &user)?,
        Err(_) => PathBuf::from(std::env::var_os("HOME")?),
    };
    let owner = fs::metadata(&home).ok()?;
    Some((home.join(".kube/config"), owner.uid(), owner.gid()))
}

/// The home of a user by passwd(5). Who is known by another service only gets no merged file, and is told
/// nothing wrong: `monopod kubeconfig` prints it.
fn home_of(passwd: &str, user: &str) -> Option<PathBuf> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
    line.split(':').nth(5).map(PathBuf::from)
}

/// Adds the context to the file of whoever installs, so that the next command can be kubectl.
fn merge_for_user(ours: &str) -> Result<()> {
    let Some((file, uid, gid)) = users_file() else { return Ok(()) };
    let before = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(err) if err.kind() == io::ErrorKind::NotFound => String::new(),
        Err(err) => return Err(err).with_context(|| format!("cannot read {}", file.display())),
    };
    let merged =
        kubeconfig::merge(&before, ours).with_context(|| format!("cannot merge into {}", file.display()))?;
    replace(&file, &before, &merged, uid, gid)?;
    say(&format!("added the context monopod to {}", file.display()))
}

/// Takes the context out again. A file that never had it is not even written.
fn forget_for_user() -> Result<()> {
    let Some((file, uid, gid)) = users_file() else { return Ok(()) };
    let Ok(before) = fs::read_to_string(&file) else { return Ok(()) };
    let without = kubeconfig::without(&before).with_context(|| format!("cannot read {}", file.display()))?;
    let Some(without) = without else { return Ok(()) };
    replace(&file, &before, &without, uid, gid)?;
    say(&format!("removed the context monopod from {}", file.display()))
}

/// The file as it was is kept beside it: it may be the only way to other clusters.
fn replace(file: &Path, before: &str, text: &str, uid: u32, gid: u32) -> Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    if !directory.exists() {
        fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        chown(directory, Some(uid), Some(gid))?;
    }
    if !before.is_empty() {
        let kept = file.with_extension("before-monopod");
        wire::pki::write_private(&kept, before.as_bytes())?;
        chown(&kept, Some(uid), Some(gid))?;
    }
    wire::pki::write_private(file, text.as_bytes())?;
    chown(file, Some(uid), Some(gid))?;
    Ok(())
}

/// Of `--expires`: `90m`, `12h`, `30d`.
pub(crate) fn lifetime(text: &str) -> Result<jiff::SignedDuration> {
    let unit = text.chars().last().unwrap_or_default();
    let number: i64 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).unwrap_or(0);
    let minutes = match unit {
        'm' => 1,
        'h' => 60,
        'd' => 60 * 24,
        _ => 0,
    };
    let minutes = number.checked_mul(minutes).filter(|minutes| (1..=60 * 24 * 3650).contains(minutes));
    ensure!(minutes.is_some(), "{text:?} is no time like 90m, 12h or 30d, ten years at most");
    Ok(jiff::SignedDuration::from_mins(minutes.unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_in_the_docs_is_the_one_that_is_installed() {
        assert_eq!(
            unit(Path::new("/var/lib/monopod"), &[]).replace(" --data-dir /var/lib/monopod", ""),
            include_str!("../../../docs/monopod.service")
        );
        let flags = ["--node-name".to_owned(), "100% mine".to_owned()];
        let other = unit(Path::new("/srv/pods"), &flags);
        let line = "ExecStart=/usr/local/bin/monopod up --data-dir /srv/pods --node-name \"100%% mine\"\n";
        assert!(other.contains(line) && other.contains("RequiresMountsFor=/srv/pods\n"), "{other}");
    }

    #[test]
    fn the_service_never_gives_up_and_is_watched() {
        let unit = unit(Path::new("/x"), &[]);
        for line in ["Type=notify", "Restart=always", "StartLimitIntervalSec=0", "KillMode=process"] {
            assert!(unit.lines().any(|one| one == line), "{line}");
        }
        assert!(unit.contains("WatchdogSec="), "{unit}");
    }

    #[test]
    fn a_home_is_read_from_the_list_of_users() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/bash\n";
        assert_eq!(home_of(passwd, "ann"), Some(PathBuf::from("/home/ann")));
        assert_eq!(home_of(passwd, "bob"), None);
    }

    #[test]
    fn a_lifetime_has_a_unit() {
        assert_eq!(lifetime("30d").expect("valid"), jiff::SignedDuration::from_hours(720));
        assert_eq!(lifetime("90m").expect("valid"), jiff::SignedDuration::from_mins(90));
        for bad in ["", "30", "d", "-1d", "0h", "99999d", "1y", "9223372036854775807d"] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }
}
