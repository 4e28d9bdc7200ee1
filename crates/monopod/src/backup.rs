//! The cluster's data in one file, and back: what cannot be made again from anything else.
//!
//! A backup is a tar archive of the store, the keys and certificates, and the address ranges. Images
//! and the contents of volumes are not in it; what runs is found again by observation.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use store::Damaged;

use crate::instance::{self, canonical, need_root};
use crate::say;

/// First in the archive: says what it is.
const MANIFEST: &str = "monopod-backup.json";
/// The version of the archive's layout.
const FORMAT: u32 = 1;
const STORE: &str = "state/store.log";
const RANGES: &str = "state/ranges.json";
/// Keys and certificates are files of this folder.
const PKI: &str = "pki";
/// More than any store that memory could hold.
const PART_MAX: u64 = 16 << 30;

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    monopod: String,
    created: String,
}

/// Writes the backup of an instance, which may run meanwhile; `-` for standard output.
pub(crate) fn run(data_dir: &Path, file: &Path) -> Result<()> {
    need_root("backup", "it reads keys and Secrets")?;
    let data_dir = canonical(data_dir);
    let parts = parts(&data_dir)?;
    write_file(&parts, file)?;
    if file == Path::new("-") {
        return Ok(());
    }
    let bytes: usize = parts.iter().map(|(_, content)| content.len()).sum();
    say(&format!(
        "wrote {} ({bytes} bytes; images and the contents of volumes are not in it)",
        file.display()
    ))
}

/// Writes an archive to a file for its owner's eyes only; `-` for standard output.
pub(crate) fn write_file(parts: &[(String, Vec<u8>)], file: &Path) -> Result<()> {
    if file == Path::new("-") {
        return write_archive(parts, io::stdout().lock());
    }
    // Written beside its place and moved there when whole: nobody finds half of it.
    let partial = file.with_extension("partial");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut out = options.open(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
    let finished = write_archive(parts, &mut out).and_then(|()| {
        out.sync_all()
            .and_then(|()| fs::rename(&partial, file))
            .with_context(|| format!("cannot finish {}", file.display()))
    });
    finished.inspect_err(|_| drop(fs::remove_file(&partial)))
}

fn parts(data_dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let manifest = Manifest {
        format: FORMAT,
        monopod: crate::version().to_owned(),
        created: jiff::Timestamp::now().to_string(),
    };
    let mut parts = vec![(MANIFEST.to_owned(), serde_json::to_vec_pretty(&manifest)?)];
    // The store before the rest: keys that are made meanwhile do no harm, objects without theirs would.
    let store = store::backup(&data_dir.join("state"));
    parts.push((
        STORE.to_owned(),
        store.with_context(|| format!("nothing to back up in {}", data_dir.display()))?,
    ));
    let read = |name: String| {
        let path = data_dir.join(&name);
        fs::read(&path)
            .with_context(|| format!("cannot read {}", path.display()))
            .map(|content| (name, content))
    };
    // Services have their addresses in the store: a range chosen anew would not be theirs.
    parts.push(read(RANGES.to_owned())?);
    let pki = data_dir.join(PKI);
    let mut names = Vec::new();
    for entry in fs::read_dir(&pki).with_context(|| format!("cannot read {}", pki.display()))? {
        let entry = entry?;
        // What is being written just now is not there yet.
        if entry.file_type()?.is_file() && entry.path().extension().is_none_or(|end| end != "new") {
            names.push(format!("{PKI}/{}", entry.file_name().to_string_lossy()));
        }
    }
    // In one order: backups of one state differ in the time alone.
    names.sort();
    for name in names {
        parts.push(read(name)?);
    }
    Ok(parts)
}

fn write_archive(parts: &[(String, Vec<u8>)], out: impl Write) -> Result<()> {
    let mut archive = tar::Builder::new(out);
    for (name, content) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        // It holds keys and Secrets: whoever unpacks it by hand gets them for their own eyes only.
        header.set_mode(0o600);
        archive.append_data(&mut header, name, content.as_slice()).context("cannot write the archive")?;
    }
    // A pipe that is closed early is told here, and not taken for a whole backup.
    archive.into_inner().and_then(|mut out| out.flush()).context("cannot write the archive")
}

/// Makes the data of an instance from a backup; `-` for standard input.
pub(crate) fn restore(data_dir: &Path, file: &Path) -> Result<()> {
    need_root("restore", "it writes keys and Secrets")?;
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
        bytes
    } else {
        fs::read(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    let parts =
        read_archive(&bytes).with_context(|| format!("{} is no backup of monopod", file.display()))?;
    let data_dir = canonical(data_dir);
    // Read whole before anything is written: what is no backup leaves no trace.
    refuse_what_is_there(&data_dir)?;
    for part in ["", "state", PKI] {
        let dir = data_dir.join(part);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.with_context(|| format!("cannot make {}", dir.display()))?;
    }
    for (name, content) in parts.iter().filter(|(name, _)| name.starts_with(PKI) || name == RANGES) {
        wire::pki::write_private(&data_dir.join(name), content)?;
    }
    // Last: with it, the instance is there.
    let image = parts.iter().find(|(name, _)| name == STORE).map(|(_, image)| image);
    let image = image.context("the backup has no store in it")?;
    let restored = store::restore(&data_dir.join("state"), file, image)?;
    say(&format!("restored {} objects to {}; start it with `monopod up`", restored.keys, data_dir.display()))
}

/// Nothing is overwritten: what is there may be all that is left.
fn refuse_what_is_there(data_dir: &Path) -> Result<()> {
    let state = data_dir.join("state");
    if let Some(pid) = instance::running(&state) {
        bail!("{} is in use by process {pid}: stop it first", data_dir.display());
    }
    // The second is that of releases before the log.
    for name in [STORE, "state/store.redb"] {
        ensure!(
            !data_dir.join(name).exists(),
            "{} has a store already: move {} away, or restore to another --data-dir",
            data_dir.display(),
            data_dir.join(name).display()
        );
    }
    Ok(())
}

/// The parts of an archive by name; anything that a backup does not have makes it none.
fn read_archive(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut archive = tar::Archive::new(Cursor::new(bytes));
    let mut parts = Vec::new();
    for entry in archive.entries()? {
        let entry = entry?;
        let name = entry.path()?.to_str().context("a name that is not UTF-8")?.to_owned();
        // Its names become paths below the data directory, written as root.
        ensure!(is_known(&name) && entry.header().entry_type().is_file(), "{name:?} does not belong in one");
        let mut content = Vec::new();
        // Its length is what the archive says.
        entry.take(PART_MAX).read_to_end(&mut content)?;
        parts.push((name, content));
    }
    let manifest =
        parts.first().filter(|(name, _)| name == MANIFEST).context("it does not say that it is one")?;
    let manifest: Manifest = serde_json::from_slice(&manifest.1)?;
    // Older ones are read for ever; a newer one may have parts that must not be left out.
    ensure!(
        manifest.format <= FORMAT,
        "monopod {} wrote it in format {}, this one knows {FORMAT}",
        manifest.monopod,
        manifest.format
    );
    Ok(parts)
}

/// What a backup has in it: three files, and plain ones in one folder.
fn is_known(name: &str) -> bool {
    let key = name.strip_prefix("pki/");
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
    matches!(name, MANIFEST | STORE | RANGES) || key.is_some_and(plain)
}

/// Keeps what is whole of a damaged store and says what is not.
pub(crate) fn repair(data_dir: &Path) -> Result<()> {
    need_root("repair", "it reads keys and Secrets")?;
    let data_dir = canonical(data_dir);
    let state = data_dir.join("state");
    ensure!(state.exists(), "{} is no data directory: there is nothing to repair", data_dir.display());
    let Some(repaired) = store::repair(&state)? else {
        return say("the store is whole: nothing to repair");
    };
    // Before the sum, and all of it: what is lost has to be made again by somebody.
    for damaged in &repaired.damage {
        say(&describe(damaged))?;
    }
    let original: PathBuf = repaired.original;
    say(&format!("kept {} objects; the file as it was is {}", repaired.kept, original.display()))
}

/// One line for a damaged part: which object, where it can still be told.
fn describe(damaged: &Damaged) -> String {
    let part = &damaged.part;
    let place = format!("bytes {} to {}", part.bytes.start, part.bytes.end);
    match (&part.key, damaged.kept_revision) {
        (Some((key, revision)), None) => format!("lost {key} (revision {revision}, {place})"),
        (Some((key, revision)), Some(kept)) if kept < *revision => {
            format!("{key} is as it was at revision {kept}: revision {revision} is lost ({place})")
        }
        (Some((key, revision)), Some(kept)) => {
            format!("{key} is whole at revision {kept}; an older one, {revision}, is lost ({place})")
        }
        (None, _) if part.bytes.is_empty() => format!("writes are missing before byte {}", part.bytes.start),
        (None, _) => format!("{place} cannot be read: which objects were written there is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_back_and_one_with_other_names_is_refused() {
        let manifest = br#"{"format":1,"monopod":"0","created":""}"#.to_vec();
        let mut parts = vec![(MANIFEST.to_owned(), manifest), ("pki/ca.key".to_owned(), b"k".to_vec())];
        let mut bytes = Vec::new();
        write_archive(&parts, &mut bytes).expect("written");
        assert_eq!(read_archive(&bytes).expect("read"), parts);
        for stranger in ["pki/a/b", "etc/passwd", "state/monopod.pid", "pki/.hidden"] {
            parts[1].0 = stranger.to_owned();
            let mut bytes = Vec::new();
            write_archive(&parts, &mut bytes).expect("written");
            assert!(read_archive(&bytes).is_err(), "{stranger}");
        }
        parts[0].1 = br#"{"format":2,"monopod":"9","created":""}"#.to_vec();
        parts[1].0 = "pki/ca.key".to_owned();
        let mut bytes = Vec::new();
        write_archive(&parts, &mut bytes).expect("written");
        assert!(read_archive(&bytes).expect_err("newer").to_string().contains("format 2"));
    }

    #[test]
    fn what_is_lost_is_told_in_a_line() {
        let key = Some(("/registry/pods/default/a".to_owned(), 7));
        let part = store::Damage { bytes: 10..20, key };
        let lost = describe(&Damaged { part: part.clone(), kept_revision: None });
        assert_eq!(lost, "lost /registry/pods/default/a (revision 7, bytes 10 to 20)");
        let older = describe(&Damaged { part, kept_revision: Some(3) });
        assert!(older.contains("is as it was at revision 3"), "{older}");
    }
}
