//! A ratchet: numbers of the source that no change may make worse.
//!
//! ```text
//! sources ─ measure ─▶ numbers ─ worse(recorded) ─▶ what the check says
//!                         └──── better(recorded) ──▶ ratchet.txt, by `cargo xtask ratchet`
//! ```
//!
//! Each number has an aim of the house. One that is beyond its aim moves as it likes there, so that a short
//! function that grows by a line is nobody's concern; one that has not reached it may only come nearer.
//! Recording takes what got better and nothing else: a step back is mended, or its line is edited by hand
//! in a commit that says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::host::root;
use crate::tidy::{self, Source};

/// What is measured. The texts are the first word of a line in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Measure {
    /// Lines of the longest function, by crate.
    LongestFunction,
    /// Lines that nine functions of ten do not exceed, by crate.
    NineOfTenFunctions,
    /// Lines of comment in a thousand of the product (no tests, no blank lines), by crate.
    CommentShare,
    /// Lines of a file that has too many.
    LongFile,
    /// Files that do not begin by saying what they are.
    Headless,
    /// Lines on the server's generic paths that name a kind, by file.
    KindNamed,
    /// Lines of the server that look into an object's metadata by a word that no compiler checks, by file.
    RawMetadata,
}

use Measure::{
    CommentShare, Headless, KindNamed, LongFile, LongestFunction, NineOfTenFunctions, RawMetadata,
};

const MEASURES: [Measure; 7] =
    [LongestFunction, NineOfTenFunctions, CommentShare, LongFile, Headless, KindNamed, RawMetadata];

impl Measure {
    fn word(self) -> &'static str {
        match self {
            LongestFunction => "longest-function",
            NineOfTenFunctions => "nine-of-ten-functions",
            CommentShare => "comment-share",
            LongFile => "long-file",
            Headless => "headless",
            KindNamed => "kind-named",
            RawMetadata => "raw-metadata",
        }
    }

    /// Where the house wants to be.
    fn aim(self) -> usize {
        match self {
            LongestFunction => 60,
            NineOfTenFunctions => 23,
            CommentShare => 150,
            LongFile => 600,
            Headless | KindNamed | RawMetadata => 0,
        }
    }

    /// Whether `now` is worse than what was recorded, where it matters.
    fn is_worse(self, now: usize, recorded: usize) -> bool {
        match self {
            // A share falls by one when a change without a comment is large: nobody should write a comment
            // for the number. The record never follows such a fall, so many small ones do not add up.
            CommentShare => now + SLACK < recorded.min(self.aim()),
            _ => now > recorded.max(self.aim()),
        }
    }

    fn better(self, now: usize, recorded: usize) -> usize {
        if self == CommentShare { now.max(recorded) } else { now.min(recorded) }
    }
}

/// By how many lines in a thousand a share may be below its record.
const SLACK: usize = 2;

/// Parts of the server that are about certain kinds by their nature: plugins of admission and what
/// authorisation asks, subresources that act, what nodes measure, what a fresh cluster holds. Everything else
/// is a path that all kinds take.
const ROOMS_OF_KINDS: &[&str] = &["admission/", "auth/", "subresource/", "metrics/", "bootstrap.rs"];

/// The numbers by measure and subject: a crate or a file.
type Numbers = BTreeMap<(Measure, String), usize>;

/// What was measured, and for each number where to look.
#[derive(Debug, Default)]
struct Measured {
    numbers: Numbers,
    places: BTreeMap<(Measure, String), Vec<String>>,
}

/// The check: fails when a number is worse than its record.
pub(crate) fn check() -> Result<()> {
    let worse = worse(&measure(&tidy::read_all(&root())?), &read(&std::fs::read_to_string(record())?)?);
    ensure!(
        worse.is_empty(),
        "{}\n(`cargo xtask ratchet` records what got better, never worse)",
        worse.join("\n")
    );
    Ok(())
}

/// The task `ratchet`: records what got better.
pub(crate) fn write() -> Result<()> {
    let recorded = match std::fs::read_to_string(record()) {
        Ok(text) => read(&text)?,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Numbers::new(),
        Err(err) => return Err(err).context("failed to read the record"),
    };
    let measured = measure(&tidy::read_all(&root())?);
    let better = better(&measured.numbers, &recorded);
    std::fs::write(record(), written(&better))?;
    worse(&measured, &better).iter().for_each(|line| println!("not recorded: {line}"));
    Ok(())
}

fn record() -> PathBuf {
    root().join("xtask/ratchet.txt")
}

fn measure(sources: &[Source]) -> Measured {
    let (kinds, tests) = (names_of_kinds(sources), modules_of_tests(sources));
    let mut measured = Measured::default();
    let mut crates: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for source in sources {
        crates.entry(crate_of(&source.path)).or_default().push(source);
        measured.file(source, &kinds, &tests);
    }
    for (name, sources) in crates {
        measured.functions(name, &sources);
        measured.comments(name, &sources, &tests);
    }
    measured
}

impl Measured {
    fn put(&mut self, measure: Measure, subject: &str, number: usize, places: Vec<String>) {
        let key = (measure, subject.to_owned());
        self.numbers.insert(key.clone(), number);
        self.places.insert(key, places);
    }

    fn file(&mut self, source: &Source, kinds: &BTreeSet<String>, tests: &BTreeSet<String>) {
        let Source { path, text } = source;
        let lines = text.lines().count();
        if lines > LongFile.aim() {
            self.put(LongFile, path, lines, Vec::new());
        }
        if !text.starts_with("//!") {
            self.put(Headless, path, 1, Vec::new());
        }
        let Some(path_in_server) = path.strip_prefix("crates/server/src/") else { return };
        let product = || product(source, tests).enumerate().filter(|(_, line)| !is_comment(line));
        let mut count = |measure, is_meant: &dyn Fn(&str) -> bool| {
            let meant = product().filter(|(_, line)| is_meant(line));
            let places: Vec<_> =
                meant.map(|(at, line)| format!("{path}:{}: {}", at + 1, line.trim())).collect();
            if !places.is_empty() {
                self.put(measure, path, places.len(), places);
            }
        };
        count(RawMetadata, &|line| line.contains("[\"metadata\"]"));
        if !ROOMS_OF_KINDS.iter().any(|room| path_in_server.starts_with(room)) {
            count(KindNamed, &|line| literals(line).any(|literal| kinds.contains(literal)));
        }
    }

    fn functions(&mut self, name: &str, sources: &[&Source]) {
        let mut functions = Vec::new();
        for source in sources {
            let lengths = tidy::function_lengths(&source.text).into_iter();
            functions.extend(lengths.map(|(length, line)| (length, format!("{}:{line}", source.path))));
        }
        let Some((length, place)) = functions.iter().max() else { return };
        self.put(LongestFunction, name, *length, vec![place.clone()]);
        self.put(NineOfTenFunctions, name, tidy::nine_of_ten(&functions), Vec::new());
    }

    fn comments(&mut self, name: &str, sources: &[&Source], tests: &BTreeSet<String>) {
        let lines =
            sources.iter().flat_map(|source| product(source, tests)).filter(|line| !line.trim().is_empty());
        let (comments, all) =
            lines.fold((0, 0), |(comments, all), line| (comments + usize::from(is_comment(line)), all + 1));
        let share: Option<usize> = (comments * 1000usize).checked_div(all);
        share.into_iter().for_each(|share| self.put(CommentShare, name, share, Vec::new()));
    }
}

/// `crates/api`, or the first folder of what is not in `crates`.
fn crate_of(path: &str) -> &str {
    let depth = if path.starts_with("crates/") { 2 } else { 1 };
    let end = path.match_indices('/').nth(depth - 1).map_or(path.len(), |(at, _)| at);
    &path[..end]
}

/// The files of modules that are compiled for tests only, `#[cfg(test)] mod properties;`, and those below them.
fn modules_of_tests(sources: &[Source]) -> BTreeSet<String> {
    let declared = sources.iter().flat_map(|source| {
        let lines: Vec<&str> = source.text.lines().collect();
        let after = |pair: &[&str]| (pair[0] == "#[cfg(test)]").then(|| pair[1].to_owned());
        let names = lines.windows(2).filter_map(after).collect::<Vec<_>>();
        let name = |line: String| Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned());
        names.into_iter().filter_map(name).map(|name| format!("{}/{name}.rs", folder_of(&source.path)))
    });
    let declared: BTreeSet<String> = declared.collect();
    let is_below =
        |path: &str| declared.iter().any(|test| path.starts_with(&format!("{}/", folder_of(test))));
    let below = sources.iter().map(|source| &source.path).filter(|path| is_below(path));
    below.cloned().chain(declared.iter().cloned()).collect()
}

/// Where the modules of a file are.
fn folder_of(path: &str) -> &str {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let is_root = ["mod.rs", "lib.rs", "main.rs"].iter().any(|root| path.ends_with(&format!("/{root}")));
    if is_root { folder } else { path.strip_suffix(".rs").unwrap_or(path) }
}

/// The lines of a file that are not tests of it; none of a file of tests.
fn product<'a>(source: &'a Source, tests: &BTreeSet<String>) -> impl Iterator<Item = &'a str> + use<'a> {
    let is_test = source.path.contains("/tests/") || tests.contains(&source.path);
    let text = if is_test { "" } else { source.text.as_str() };
    // A module that is declared for tests is a file of its own, and code follows; one with a body is the end.
    let end = text.find("\n#[cfg(test)]\nmod tests {").map_or(text.len(), |at| at + 1);
    text[..end].lines()
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// What stands between quotes on a line.
fn literals(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

/// The kinds that are built in and their plurals, as their table declares them: group, version, kind, plural.
fn names_of_kinds(sources: &[Source]) -> BTreeSet<String> {
    let table = sources.iter().filter(|source| source.path.starts_with("crates/api/src/kinds/"));
    let declared = table.flat_map(|source| {
        let text = source.text.as_str();
        let starts =
            ["cluster(", "namespaced(", "review("].into_iter().flat_map(|word| text.match_indices(word));
        starts.map(|(at, word)| text[at + word.len()..].split(')').next().unwrap_or_default())
    });
    let names = declared.flat_map(|arguments| {
        let kind = literals(arguments).skip_while(|literal| !literal.starts_with(char::is_uppercase));
        kind.take(2).map(str::to_owned)
    });
    names.collect()
}

fn worse(measured: &Measured, recorded: &Numbers) -> Vec<String> {
    let mut lines = Vec::new();
    for (key @ (measure, subject), now) in &measured.numbers {
        let bound = recorded.get(key).copied().unwrap_or(measure.aim());
        if measure.is_worse(*now, bound) {
            let mut line = format!("{} {subject} is {now}, and was {bound}", measure.word());
            for place in measured.places.get(key).into_iter().flatten() {
                let _ = write!(line, "\n    {place}");
            }
            lines.push(line);
        }
    }
    lines
}

/// The record after this measurement. What is not there any more is not recorded either: a file that was
/// cut, a crate that was taken out. What is new must have reached its aim, but for the first record of all.
fn better(now: &Numbers, recorded: &Numbers) -> Numbers {
    let of = |(key, now): (&(Measure, String), &usize)| {
        let number = match recorded.get(key) {
            Some(recorded) => key.0.better(*now, *recorded),
            None if recorded.is_empty() || !key.0.is_worse(*now, key.0.aim()) => *now,
            None => return None,
        };
        Some((key.clone(), number))
    };
    now.iter().filter_map(of).collect()
}

fn written(numbers: &Numbers) -> String {
    let mut text = "# What no change makes worse (xtask/src/ratchet.rs). `cargo xtask ratchet` records what got better.\n".to_owned();
    for ((measure, subject), number) in numbers {
        let _ = writeln!(text, "{} {subject} {number}", measure.word());
    }
    text
}

fn read(text: &str) -> Result<Numbers> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| parse(line).with_context(|| format!("no line of the record: {line}"))).collect()
}

fn parse(line: &str) -> Option<((Measure, String), usize)> {
    let mut words = line.split_whitespace();
    let (word, subject, number) = (words.next()?, words.next()?, words.next()?);
    let measure = MEASURES.into_iter().find(|measure| measure.word() == word)?;
    Some(((measure, subject.to_owned()), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn number(measured: &Measured, measure: Measure, subject: &str) -> Option<usize> {
        measured.numbers.get(&(measure, subject.to_owned())).copied()
    }

    #[test]
    fn a_crate_is_measured_by_its_product_and_its_functions() {
        let text = "//! A head.\n\nfn a() {\n    b();\n}\n\n#[cfg(test)]\nmod tests {\n    fn c() {\n        d();\n        e();\n    }\n}\n";
        let tests = "fn quiet() {\n}\n";
        let declared = "//! A head, and a module.\n#[cfg(test)]\nmod z;\nmod b;\n";
        let measured = measure(&[
            source("crates/x/src/lib.rs", text),
            source("crates/x/tests/y.rs", tests),
            source("crates/x/src/a.rs", declared),
            source("crates/x/src/a/z.rs", tests),
        ]);
        assert_eq!(number(&measured, LongestFunction, "crates/x"), Some(4));
        assert_eq!(measured.places[&(LongestFunction, "crates/x".to_owned())], ["crates/x/src/lib.rs:9"]);
        assert_eq!(
            number(&measured, CommentShare, "crates/x"),
            Some(250),
            "two heads and six lines, tests apart"
        );
        assert_eq!(number(&measured, Headless, "crates/x/tests/y.rs"), Some(1));
        assert_eq!(number(&measured, Headless, "crates/x/src/lib.rs"), None);
    }

    #[test]
    fn kinds_are_known_from_their_table_and_seen_on_paths_only() {
        let table = source(
            "crates/api/src/kinds/core.rs",
            "//!\nnamespaced(\"\", \"v1\", \"Pod\", \"pods\", \"pod\").short([\"po\"])\nreview(\"a\", \"Ask\", \"asks\", \"ask\")",
        );
        let path = "//! Says \"Pod\".\nif kind == \"Pod\" || plural == \"asks\" {\nlet po = \"po\";\n#[cfg(test)]\nmod tests {\n\"Pod\"\n";
        let sources =
            [table, source("crates/server/src/a.rs", path), source("crates/server/src/auth/b.rs", path)];
        let measured = measure(&sources);
        let named: Vec<_> =
            measured.places.iter().filter(|((measure, _), _)| *measure == KindNamed).collect();
        let expected =
            vec!["crates/server/src/a.rs:2: if kind == \"Pod\" || plural == \"asks\" {".to_owned()];
        assert_eq!(named, [(&(KindNamed, "crates/server/src/a.rs".to_owned()), &expected)]);
    }

    #[test]
    fn looking_into_metadata_by_a_word_is_counted_in_the_server() {
        let text = "//!\nobject[\"metadata\"][\"nmae\"];\n";
        let measured =
            measure(&[source("crates/server/src/a.rs", text), source("crates/node/src/a.rs", text)]);
        assert_eq!(number(&measured, RawMetadata, "crates/server/src/a.rs"), Some(1));
        assert_eq!(number(&measured, RawMetadata, "crates/node/src/a.rs"), None);
    }

    #[test]
    fn what_has_not_reached_its_aim_may_only_come_nearer() {
        assert!(LongestFunction.is_worse(81, 80) && !LongestFunction.is_worse(80, 80));
        assert!(!LongestFunction.is_worse(40, 20), "both are within the aim");
        assert!(
            CommentShare.is_worse(97, 100)
                && !CommentShare.is_worse(98, 100)
                && !CommentShare.is_worse(160, 190)
        );
        assert!(Headless.is_worse(1, 0) && LongFile.is_worse(601, 600));
    }

    #[test]
    fn only_what_got_better_is_recorded() {
        let numbers = |text: &str| read(text).expect("a record");
        let recorded = numbers("long-file a 700\nlong-file b 700\nlong-file gone 700\ncomment-share c 100\n");
        let now = numbers("long-file a 650\nlong-file b 750\ncomment-share c 90\nheadless d 1\n");
        let expected = numbers("long-file a 650\nlong-file b 700\ncomment-share c 100\n");
        assert_eq!(better(&now, &recorded), expected);
        assert_eq!(better(&now, &Numbers::new()), now, "the first record takes all as it is");
        let told = worse(&Measured { numbers: now, places: BTreeMap::new() }, &recorded);
        let of = |line: &String| line.split(' ').nth(1).unwrap_or_default().to_owned();
        assert_eq!(told.iter().map(of).collect::<Vec<_>>(), ["c", "b", "d"]);
        assert_eq!(read(&written(&expected)).expect("reads back"), expected);
        assert!(read("long-file a many\n").is_err());
    }
}
