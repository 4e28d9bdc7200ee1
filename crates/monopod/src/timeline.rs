//! `monopod timeline POD`: what happened to a Pod as a picture over time.
//!
//! Read from the files that the node keeps (`node/src/timeline.rs`): the daemon need not run, and the Pod may
//! have gone.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use jiff::Timestamp;
use node::timeline::{Entry, Timeline};
use serde_json::json;

use crate::cli::{Picture, TimelineFlags};
use crate::instance::canonical;
use crate::say;

/// Prints the timeline of the latest Pod of that name, or of the one that is named by its UID.
pub(crate) fn run(flags: &TimelineFlags) -> Result<()> {
    let directory = canonical(&flags.instance.data_dir).join(node::timeline::DIRECTORY);
    let mut found = node::timeline::read(&directory, &flags.namespace, &flags.pod)?;
    if let Some(uid) = &flags.uid {
        found.retain(|one| one.uid == *uid);
    }
    let Some(timeline) = found.pop() else {
        bail!(
            "no timeline of Pod {}/{}: nothing of it was seen here, or it has gone for more than an hour",
            flags.namespace,
            flags.pod
        );
    };
    let shown = match flags.output {
        Picture::Text => text(&timeline),
        Picture::Json => format!("{:#}", as_json(&timeline)),
        Picture::Svg => svg(&timeline),
    };
    say(shown.trim_end())
}

/// Milliseconds since the first entry.
fn offset(from: Timestamp, at: Timestamp) -> f64 {
    at.duration_since(from).as_secs_f64() * 1000.0
}

fn first(timeline: &Timeline) -> Timestamp {
    timeline.entries.first().map_or(Timestamp::UNIX_EPOCH, |entry| entry.at)
}

/// Like `1.3 ms`, `2.045 s`, `3 m 20 s`: three figures that somebody reads.
fn span(milliseconds: f64) -> String {
    match milliseconds {
        ms if ms < 1000.0 => format!("{ms:.1} ms"),
        ms if ms < 60_000.0 => format!("{:.3} s", ms / 1000.0),
        ms => format!("{} m {:.0} s", (ms / 60_000.0).floor(), (ms % 60_000.0) / 1000.0),
    }
}

fn took(entry: &Entry) -> String {
    entry.took_ms.map(|ms| format!(" in {}", span(ms as f64))).unwrap_or_default()
}

fn text(timeline: &Timeline) -> String {
    let begin = first(timeline);
    let mut out = format!("{}/{} (uid {}), from {begin}\n", timeline.namespace, timeline.name, timeline.uid);
    let mut last = begin;
    for entry in &timeline.entries {
        let (since, step) = (offset(begin, entry.at), offset(last, entry.at));
        let (what, container) = (&entry.what, &entry.container);
        let cause = format!("{}{}", entry.cause, took(entry));
        let line = format!(
            "{:>12}  {:>12}  {what:<24}  {container:<16}  {cause}",
            span(since),
            format!("+{}", span(step))
        );
        let _ = writeln!(out, "{}", line.trim_end());
        last = entry.at;
    }
    out
}

fn as_json(timeline: &Timeline) -> serde_json::Value {
    let begin = first(timeline);
    let entries = timeline.entries.iter().map(|entry| {
        let mut value = json!(entry);
        value["ms"] = json!((offset(begin, entry.at) * 1000.0).round() / 1000.0);
        value
    });
    json!({
        "namespace": timeline.namespace, "name": timeline.name, "uid": timeline.uid,
        "entries": entries.collect::<Vec<_>>(),
    })
}

/// Pixels.
const LEFT: f64 = 170.0;
const WIDTH: f64 = 1000.0;
const LANE: f64 = 34.0;
const TOP: f64 = 40.0;

/// A lane for the Pod and one for each container: a bar while it runs, a mark for each entry, which tells
/// more when one points at it.
fn svg(timeline: &Timeline) -> String {
    let begin = first(timeline);
    let end = timeline.entries.last().map_or(begin, |entry| entry.at);
    let total = offset(begin, end).max(1.0);
    let x = |at: Timestamp| LEFT + offset(begin, at) / total * WIDTH;
    let mut lanes: Vec<&str> = vec![""];
    for entry in &timeline.entries {
        if !lanes.contains(&entry.container.as_str()) {
            lanes.push(&entry.container);
        }
    }
    let height = TOP + LANE * lanes.len() as f64 + 40.0;
    let title = escaped(&format!("{}/{}", timeline.namespace, timeline.name));
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<text x=\"10\" y=\"20\" font-size=\"14\">{title}, {begin}, {}</text>\n",
        LEFT + WIDTH + 40.0,
        span(total)
    );
    for (index, name) in lanes.iter().enumerate() {
        out += &lane(timeline, name, TOP + LANE * index as f64, end, x);
    }
    out.push_str("</svg>\n");
    out
}

/// What happened to one, as marks upon bars.
fn lane(timeline: &Timeline, lane: &str, y: f64, end: Timestamp, x: impl Fn(Timestamp) -> f64) -> String {
    let begin = first(timeline);
    let name = if lane.is_empty() { "Pod" } else { lane };
    let mut out = format!("<text x=\"10\" y=\"{}\">{}</text>\n", y + 18.0, escaped(name));
    let entries: Vec<&Entry> = timeline.entries.iter().filter(|entry| entry.container == lane).collect();
    for (from, to) in runs(&entries, end) {
        let (from, to, y) = (x(from), x(to), y + 8.0);
        let width = (to - from).max(1.0);
        let _ = writeln!(
            out,
            "<rect x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"12\" fill=\"#9ecae1\"/>"
        );
    }
    for entry in entries {
        let (at, y, fill) = (x(entry.at), y + 14.0, colour(&entry.what));
        let since = span(offset(begin, entry.at));
        let said = escaped(&format!("{} {}{} ({since})", entry.what, entry.cause, took(entry)));
        let _ = writeln!(
            out,
            "<circle cx=\"{at:.1}\" cy=\"{y}\" r=\"4\" fill=\"{fill}\"><title>{said}</title></circle>"
        );
    }
    out
}

/// From each start of a container to its end.
fn runs(entries: &[&Entry], end: Timestamp) -> Vec<(Timestamp, Timestamp)> {
    let mut all = Vec::new();
    let mut since = None;
    for entry in entries {
        match entry.what.as_str() {
            "Started" | "Restarted" => since = Some(entry.at),
            "Exited" => all.extend(since.take().map(|from| (from, entry.at))),
            _ => {}
        }
    }
    all.extend(since.map(|from| (from, end)));
    all
}

fn colour(what: &str) -> &'static str {
    match what {
        "Exited" | "Evicted" | "Refused" | "SandboxDied" => "#d62728",
        _ if what.ends_with("Failed") => "#d62728",
        "Ready" | "Started" | "Restarted" => "#2ca02c",
        "Deleted" | "Removed" | "NothingLeft" => "#7f7f7f",
        _ => "#1f77b4",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let entry = |ms: i64, what: &str, container: &str, cause: &str| Entry {
            at: Timestamp::from_millisecond(1_000_000 + ms).expect("in range"),
            what: what.into(),
            container: container.into(),
            cause: cause.into(),
            took_ms: (what == "ImageReady").then_some(1500),
        };
        let entries = vec![
            entry(0, "Scheduled", "", "to node <n1>"),
            entry(1600, "ImageReady", "c", "a:1"),
            entry(1650, "Started", "c", ""),
            entry(65_000, "Exited", "c", "Error (1)"),
        ];
        Timeline { namespace: "d".into(), name: "web".into(), uid: "u".into(), entries }
    }

    #[test]
    fn each_line_has_its_time_the_time_since_the_last_and_the_cause() {
        let text = text(&timeline());
        let words: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            words[1..],
            [
                "0.0 ms +0.0 ms Scheduled to node <n1>",
                "1.600 s +1.600 s ImageReady c a:1 in 1.500 s",
                "1.650 s +50.0 ms Started c",
                "1 m 5 s +1 m 3 s Exited c Error (1)",
            ]
        );
        assert_eq!(as_json(&timeline())["entries"][2]["ms"], 1650.0);
    }

    #[test]
    fn the_picture_has_a_lane_for_each_and_a_bar_while_it_runs() {
        let picture = svg(&timeline());
        assert!(picture.contains(">Pod</text>") && picture.contains(">c</text>"));
        assert!(picture.contains("to node &lt;n1&gt;") && !picture.contains("<n1>"));
        assert_eq!(picture.matches("<rect").count(), 1);
        assert_eq!(picture.matches("<circle").count(), 4);
    }
}
