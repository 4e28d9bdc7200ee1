//! The difference of two texts, as the unified format shows it with three lines of context.

/// How many unchanged lines surround a change.
const CONTEXT: usize = 3;
/// Beyond this many lines on a side a changed region is shown as a whole: the table would grow too large.
const TABLE_MAX: usize = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// The hunks that lead from `old` to `new`, without the two lines of file names.
pub(super) fn unified(old: &str, new: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let edits = edits(&a, &b);
    let mut out = String::new();
    let (mut i, mut j, mut at) = (0, 0, 0);
    while at < edits.len() {
        if edits[at] == Edit::Keep {
            (i, j, at) = (i + 1, j + 1, at + 1);
            continue;
        }
        let end = hunk_end(&edits, at);
        let lead = CONTEXT.min(leading(&edits[..at]));
        (i, j) = hunk(&edits[at - lead..end], (&a, i - lead), (&b, j - lead), &mut out);
        at = end;
    }
    out
}

/// How many kept lines stand right before a change.
fn leading(before: &[Edit]) -> usize {
    before.iter().rev().take_while(|edit| **edit == Edit::Keep).count()
}

/// The end of the hunk that begins at `start`: changes less than twice the context apart belong together.
fn hunk_end(edits: &[Edit], start: usize) -> usize {
    let (mut last, mut at) = (start, start);
    while at < edits.len() && at - last <= 2 * CONTEXT {
        if edits[at] != Edit::Keep {
            last = at;
        }
        at += 1;
    }
    edits.len().min(last + 1 + CONTEXT)
}

/// Writes one hunk; answers with the positions behind it.
fn hunk(
    edits: &[Edit],
    (a, i): (&[&str], usize),
    (b, j): (&[&str], usize),
    out: &mut String,
) -> (usize, usize) {
    let removed = edits.iter().filter(|edit| **edit != Edit::Add).count();
    let added = edits.iter().filter(|edit| **edit != Edit::Remove).count();
    out.push_str(&format!("@@ -{} +{} @@\n", range(i, removed), range(j, added)));
    let (mut left, mut right) = (i, j);
    for edit in edits {
        let (sign, line) = match edit {
            Edit::Keep => (' ', a[left]),
            Edit::Remove => ('-', a[left]),
            Edit::Add => ('+', b[right]),
        };
        left += usize::from(*edit != Edit::Add);
        right += usize::from(*edit != Edit::Remove);
        out.push(sign);
        out.push_str(line);
        out.push('\n');
    }
    (left, right)
}

fn range(start: usize, length: usize) -> String {
    match length {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        _ => format!("{},{length}", start + 1),
    }
}

/// The longest common subsequence as a list of edits, removals before additions.
fn edits(a: &[&str], b: &[&str]) -> Vec<Edit> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (left, right) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut all = vec![Edit::Keep; head];
    if left.len() > TABLE_MAX || right.len() > TABLE_MAX {
        all.extend(vec![Edit::Remove; left.len()]);
        all.extend(vec![Edit::Add; right.len()]);
    } else {
        middle(left, right, &mut all);
    }
    all.extend(vec![Edit::Keep; tail]);
    all
}

fn middle(a: &[&str], b: &[&str], out: &mut Vec<Edit>) {
    let width = b.len() + 1;
    let mut longest = vec![0u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = match a[i] == b[j] {
                true => longest[(i + 1) * width + j + 1] + 1,
                false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let step = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) if x == y => Edit::Keep,
            (Some(_), Some(_)) if longest[i * width + j + 1] > longest[(i + 1) * width + j] => Edit::Add,
            (Some(_), _) => Edit::Remove,
            (None, _) => Edit::Add,
        };
        i += usize::from(step != Edit::Add);
        j += usize::from(step != Edit::Remove);
        out.push(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let new = "a\nb\nc\nd\nE\nf\ng\nh\n";
        assert_eq!(unified(old, new), "@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n");
    }

    #[test]
    fn distant_changes_are_separate_hunks_and_near_ones_are_not() {
        let old: String = (0..30).map(|n| format!("{n}\n")).collect();
        let near = old.replace("\n5\n", "\nx\n").replace("\n10\n", "\ny\n");
        assert_eq!(unified(&old, &near).matches("@@ -").count(), 1);
        let far = old.replace("\n5\n", "\nx\n").replace("\n20\n", "\ny\n");
        assert_eq!(unified(&old, &far).matches("@@ -").count(), 2);
    }

    #[test]
    fn additions_and_removals_at_the_ends_are_counted() {
        assert_eq!(unified("a\n", "a\nb\n"), "@@ -1 +1,2 @@\n a\n+b\n");
        assert_eq!(unified("a\nb\n", "b\n"), "@@ -1,2 +1 @@\n-a\n b\n");
        assert_eq!(unified("a\n", "a\n"), "");
    }
}
