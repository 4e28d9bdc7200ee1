//! Monopod: one program that is a complete Pod platform.
//!
//! ```text
//! main ─┬─ shim …            (before anything else: no runtime, no allocator-heavy code)
//!       ├─ up                 configuration → rooms → joined → drained
//!       ├─ down               everything this instance made, removed
//!       ├─ backup, restore, repair   the data, while it runs or while it does not
//!       └─ image, status, doctor, kubeconfig, version, completion
//! ```
//!
//! This crate knows every room and has no logic of its own: it reads the
//! configuration, builds the rooms, joins them and drains them.
//!
//! Start reading at [`up::run`].

mod access;
mod archives;
mod backup;
mod bundle;
mod cli;
mod config;
mod doctor;
mod down;
mod health;
mod image;
mod ingresses;
mod install;
mod instance;
mod keys;
mod kubeconfig;
mod logging;
mod metrics;
mod names;
mod network;
mod notify;
mod processes;
mod progress;
mod pull;
mod rooms;
mod signer;
mod status;
mod timeline;
mod up;
mod watchdog;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};

/// musl's own allocator is several times slower on JSON; this one stays small without huge pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A shim is this program again: it must become one before a thread or a large allocation exists.
    if std::env::args_os().nth(1).is_some_and(|word| word == "shim") {
        shim::main(std::env::args_os().skip(2));
    }
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("monopod: {err:#}");
            ExitCode::from(1)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Up(flags) => up::run(config::Settings::resolve(flags)?),
        Command::Down { instance, purge } => down::run(&instance.data_dir, purge),
        Command::Status { instance, output } => status::run(&instance.data_dir, output),
        Command::Timeline(flags) => timeline::run(&flags),
        Command::Backup { instance, file } => backup::run(&instance.data_dir, &file),
        Command::Restore { instance, file } => backup::restore(&instance.data_dir, &file),
        Command::Repair { instance } => backup::repair(&instance.data_dir),
        Command::SupportBundle { instance, file } => bundle::run(&instance.data_dir, &file),
        Command::Doctor { instance } => doctor::run(&instance.data_dir),
        Command::Image { instance, command } => image::run(&instance.data_dir, command),
        Command::Kubeconfig { instance, other } => kubeconfig::run(&instance.data_dir, &other),
        Command::Install(flags) => install::install(&flags),
        Command::Uninstall(flags) => install::uninstall(&flags),
        Command::Completion { shell } => completion(shell),
        Command::Version => say(&format!("monopod {} (Kubernetes {})", version(), up::KUBERNETES_VERSION)),
    }
}

/// The program's own version.
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn completion(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "monopod", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

/// Writes a line to standard output; a closed pipe is an error, not a panic.
fn say(line: &str) -> anyhow::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{line}").map_err(anyhow::Error::from)
}
