//! The images of a node; works whether the daemon runs or not.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use runtime::Image;
use runtime::image::{ImageError, ImageStore, ImportOptions};

use crate::cli::{ImageCommand, Output};
use crate::instance::{canonical, need_root};
use crate::pull::{self, Pull};
use crate::{progress, say};

/// Runs an image command on the instance's store.
pub(crate) fn run(data_dir: &Path, command: ImageCommand) -> Result<()> {
    need_root("image", "layers keep the owners and devices of their files")?;
    let store = match command {
        ImageCommand::Ls { .. } => ImageStore::look(&canonical(data_dir)),
        _ => {
            std::fs::create_dir_all(data_dir)
                .with_context(|| format!("cannot make {}", data_dir.display()))?;
            ImageStore::open(&canonical(data_dir)).map_err(told)?
        }
    };
    match command {
        ImageCommand::Import { file } => import(&store, &file),
        ImageCommand::Ls { output } => list(&store, output),
        ImageCommand::Rm { references } => remove(&store, &references),
        ImageCommand::Prune => prune(&store),
        ImageCommand::Export { reference, file } => export(&store, &[reference], &file),
        ImageCommand::Save { references, output } => {
            let output = output.unwrap_or_else(|| "-".into());
            // As docker: an archive is nothing for a terminal.
            ensure!(
                output != Path::new("-") || !io::stdout().is_terminal(),
                "cannot write an archive to a terminal: give -o FILE, or a pipe"
            );
            export(&store, &references, &output)
        }
        ImageCommand::Tag { source, target } => {
            say(&format!("tagged {}", store.tag(&source, &target).map_err(told)?))
        }
        ImageCommand::Pull { reference, username, registry_mirror, insecure_registry } => pull::run(
            store,
            Pull { reference, username, mirrors: registry_mirror, insecure: insecure_registry },
        ),
    }
}

/// The whole chain of causes in one sentence.
pub(crate) fn told(err: ImageError) -> anyhow::Error {
    anyhow::anyhow!(err.full_text())
}

fn import(store: &ImageStore, file: &Path) -> Result<()> {
    // Of a pipe nobody knows how long it is, so it gets no bar.
    let images = if file == Path::new("-") {
        store.import(io::stdin().lock(), &ImportOptions::default()).map_err(told)?
    } else {
        let archive = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        let bar = progress::bytes(archive.metadata()?.len(), "importing");
        let images =
            store.import(bar.wrap_read(BufReader::new(archive)), &ImportOptions::default()).map_err(told)?;
        bar.finish_and_clear();
        images
    };
    images.iter().flat_map(names).try_for_each(|name| say(&format!("imported {name}")))
}

/// What people call an image: its names, or its id when it has none.
fn names(image: &Image) -> Vec<String> {
    if image.repo_tags.is_empty() { vec![image.id.clone()] } else { image.repo_tags.clone() }
}

fn list(store: &ImageStore, output: Output) -> Result<()> {
    let images = store.list().map_err(told)?;
    if output == Output::Json {
        return say(&serde_json::to_string_pretty(&images)?);
    }
    say(&format!("{:<60} {:<16} {:>10}", "IMAGE", "ID", "SIZE"))?;
    for image in &images {
        let id = image.id.trim_start_matches("sha256:");
        for name in names(image) {
            // A line for each name, for `rm` takes names; the id is as long as other tools show it.
            say(&format!("{name:<60} {:<16} {:>10}", &id[..id.len().min(12)], size(image.size)))?;
        }
    }
    Ok(())
}

/// Bytes as people read them, in powers of a thousand as registries count.
fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

fn remove(store: &ImageStore, references: &[String]) -> Result<()> {
    // What went before a name that is not known stays gone, and has been said.
    for reference in references {
        let removed = store.remove(reference).map_err(told)?;
        removed.untagged.iter().try_for_each(|name| say(&format!("untagged {name}")))?;
        removed.deleted.iter().try_for_each(|id| say(&format!("deleted {id}")))?;
    }
    Ok(())
}

fn prune(store: &ImageStore) -> Result<()> {
    let pruned = store.prune(true).map_err(told)?;
    pruned.images.iter().try_for_each(|id| say(&format!("deleted {id}")))?;
    say(&format!("{} images deleted, {} freed", pruned.images.len(), size(pruned.bytes)))
}

fn export(store: &ImageStore, references: &[String], file: &Path) -> Result<()> {
    if file == Path::new("-") {
        return store.export(references, io::stdout().lock()).map_err(told);
    }
    // Written beside its place and moved there when whole: nobody finds half an archive.
    let partial = file.with_extension("partial");
    let mut out = File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
    let written = store.export(references, &mut out).map_err(told);
    let finished = written.and_then(|()| Ok(out.flush().and_then(|()| std::fs::rename(&partial, file))?));
    finished.inspect_err(|_| drop(std::fs::remove_file(&partial)))
}

/// Reads a password from the environment or, where it is a pipe, from standard input.
pub(crate) fn password() -> Result<String> {
    // Never an argument: those of all processes can be read by everybody.
    if let Ok(password) = std::env::var("MONOPOD_REGISTRY_PASSWORD") {
        return Ok(password);
    }
    let mut password = String::new();
    // What is longer is no password, and a device may never end.
    io::stdin().lock().take(4096).read_to_string(&mut password).context("cannot read the password")?;
    // `echo` and editors end with a line break.
    Ok(password.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_in_powers_of_a_thousand() {
        assert_eq!(
            (size(999), size(4_270_000), size(1_000)),
            ("999 B".into(), "4.3 MB".into(), "1.0 kB".into())
        );
    }
}
