//! Hostile Pods and images on real containers, with the host compared before and after each.
//!
//! The attacks are rows of one table, from which `docs/security.md` is written. Each runs in the one
//! instance of this suite, several at a time, and says what it found instead of what it should have.
//! `cargo xtask test escape` runs them; `MONOPOD_ESCAPE=name,name` picks some.
//!
//! Start reading at [`Attack`].

mod devices;
mod files;
mod images;
mod network;
mod processes;
mod refused;
mod resources;
mod users;
mod world;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use world::{Host, World};

/// What an attack answers: `Err` with what it saw when it was not stopped as it should be.
type Outcome = Result<(), String>;

/// One way out, and why it is none.
pub(crate) struct Attack {
    /// The row's name; the Pods of it carry it.
    pub(crate) name: &'static str,
    /// What the attacker does, in a sentence.
    pub(crate) attack: &'static str,
    /// Where the kind was seen in public; empty where it has no number.
    pub(crate) class: &'static str,
    /// What stops it.
    pub(crate) stopped_by: &'static str,
    /// Carries it out.
    pub(crate) run: fn(&World) -> Outcome,
}

/// Attacks at the same time: they wait more than they work.
const AT_ONCE: usize = 4;

fn attacks() -> Vec<Attack> {
    [
        processes::attacks(),
        files::attacks(),
        images::attacks(),
        network::attacks(),
        devices::attacks(),
        resources::attacks(),
        refused::attacks(),
        users::attacks(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn nothing_gets_out_of_a_pod() {
    let chosen = std::env::var("MONOPOD_ESCAPE").unwrap_or_default();
    let attacks: Vec<Attack> = attacks()
        .into_iter()
        .filter(|attack| chosen.is_empty() || chosen.split(',').any(|name| name == attack.name))
        .collect();
    let world = World::start();
    let before = Host::look(&world);
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(attack) = attacks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = catch_unwind(AssertUnwindSafe(|| (attack.run)(&world)));
                    let outcome = outcome.unwrap_or_else(|_| Err("it panicked, see above".to_owned()));
                    let outcome = outcome.and_then(|()| before.compare(&Host::look(&world)));
                    if let Err(why) = outcome {
                        failures.lock().expect("no poison").push(format!("{}: {why}", attack.name));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no poison");
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), attacks.len(), failures.join("\n"));
}

#[test]
fn the_page_on_security_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security.md");
    let page = page(&attacks());
    if std::env::var_os("MONOPOD_WRITE_PAGES").is_some() {
        std::fs::write(&path, &page).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/security.md is not the table: run this test with MONOPOD_WRITE_PAGES=1");
}

fn page(attacks: &[Attack]) -> String {
    let mut page = "# What stops a hostile Pod\n\n\
        Each row is an attack that the end-to-end suite carries out with real containers (`cargo xtask test escape`),\n\
        comparing the host before and after. Written from the table in `crates/monopod/tests/e2e/escape`.\n\n\
        | attack | known as | what stops it | test |\n| --- | --- | --- | --- |\n"
        .to_owned();
    for Attack { name, attack, class, stopped_by, .. } in attacks {
        let _ = writeln!(page, "| {attack} | {class} | {stopped_by} | `{name}` |");
    }
    page
}
