//! Container logs in CRI format: `<RFC 3339 time> <stream> <F|P> <text>`.

/// One line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// As written: RFC 3339 with nanoseconds.
    pub(crate) time: &'a str,
    /// `stdout` or `stderr`.
    pub(crate) stream: &'a str,
    /// The line goes on in the next.
    pub(crate) partial: bool,
    /// What the container wrote, without the line feed.
    pub(crate) content: &'a [u8],
}

impl<'a> Line<'a> {
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = std::str::from_utf8(parts.next()?)
            .ok()
            .filter(|stream| matches!(*stream, "stdout" | "stderr"))?;
        let tags = parts.next()?;
        let content = parts.next().unwrap_or_default();
        let content = content.strip_suffix(b"\n").unwrap_or(content);
        Some(Self {
            time,
            stream,
            partial: tags.split(|byte| *byte == b':').next() == Some(b"P".as_slice()),
            content,
        })
    }

    /// What the container wrote.
    pub(crate) fn text(&self) -> Vec<u8> {
        let end: &[u8] = if self.partial { b"" } else { b"\n" };
        [self.content, end].concat()
    }
}
