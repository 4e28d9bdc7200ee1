//! Logs go to standard error, one line an event: words for people, colours only on a terminal, or JSON.
//!
//! Events of the API are logged where they are recorded, by name of the object, so that the log alone tells of
//! a night; what is usual, and what was told before, is not.

use std::fmt;
use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How a line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs: an object a line
    Json,
}

/// Starts logging at the level asked for.
pub(crate) fn start(level: tracing::Level, format: Format) {
    let lines = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        // It would be said on standard error, by a macro that panics there: a log on a full disk must not
        // end the requests that are being served.
        .log_internal_errors(false);
    match format {
        Format::Text => lines.init(),
        Format::Json => lines.event_format(Json).init(),
    }
}

/// Upstream's names for what its JSON logs have: `ts`, `level`, `msg`; the fields beside them.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let about = event.metadata();
        let Fields(mut line) = fields;
        let message = line.remove("message").unwrap_or_default();
        let known = [
            ("ts", Value::from(jiff::Timestamp::now().to_string())),
            ("level", about.level().as_str().to_ascii_lowercase().into()),
            ("logger", about.target().into()),
            ("msg", message),
        ];
        line.extend(known.map(|(name, value)| (name.to_owned(), value)));
        writeln!(out, "{}", Value::Object(line))
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    /// A field that is given twice has the later value, as in any JSON object that people read.
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    /// What has no form of its own is shown as Rust shows it: better than not at all.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    /// With its causes: the last of them is often the only one that says anything.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let causes = std::iter::successors(value.source(), |cause| cause.source());
        self.put(field, causes.fold(value.to_string(), |text, cause| format!("{text}: {cause}")));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panics").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_an_object_whatever_is_in_its_fields() {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(Json).finish();
        tracing::subscriber::with_default(lines, || {
            let error = io::Error::other("no \"disk\"\n");
            tracing::warn!(
                pod = "default/web",
                count = 3,
                error = &error as &dyn std::error::Error,
                "a Pod failed"
            );
        });
        let text = String::from_utf8(kept.0.lock().expect("no writer panics").clone()).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&line["level"], &line["msg"]), (&"warn".into(), &"a Pod failed".into()), "{line}");
        assert_eq!((&line["pod"], &line["count"]), (&"default/web".into(), &3.into()), "{line}");
        assert_eq!(line["error"], "no \"disk\"\n");
        assert!(line["ts"].as_str().is_some_and(|ts| ts.parse::<jiff::Timestamp>().is_ok()));
    }
}
