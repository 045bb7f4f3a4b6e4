//! Text for people: tables, times and colours.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Whether to use colours there: on a terminal, unless `NO_COLOR` is set.
pub fn has_colours(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !refused
}

/// A table with a heading for each column.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(headings: &[&'static str]) -> Table {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Writes it, each column as wide as its widest cell. The headings are bold, with colours.
    pub fn write(&self, out: &mut impl Write, colours: bool) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width());
            cells.chain([self.headings[column].len()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width.saturating_sub(cell.width()))));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let headings = line(&mut self.headings.iter().copied());
        match colours {
            true => writeln!(out, "\x1b[1m{headings}\x1b[0m")?,
            false => writeln!(out, "{headings}")?,
        }
        for row in &self.rows {
            writeln!(out, "{}", line(&mut row.iter().map(String::as_str)))?;
        }
        Ok(())
    }
}

/// How long ago a node was created, by our clock: `3m 20s`. Two units at most.
pub fn age(created: Option<SystemTime>, now: SystemTime) -> String {
    match created {
        Some(created) => span(now.duration_since(created).unwrap_or_default()),
        None => "?".to_owned(),
    }
}

/// A time in two units at most.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |big: u64, unit: &str, small: u64, part: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit} {small}{part}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// What another client has written, so that it cannot harm a terminal: one line without control characters, and not
/// longer than `width` columns.
pub fn foreign(text: &str, width: usize) -> String {
    let mut shown = String::new();
    let mut used = 0;
    for c in text.chars() {
        let c = if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        used += c.width().unwrap_or(1);
        if used > width {
            shown.pop();
            shown.push('…');
            break;
        }
        shown.push(c);
    }
    shown
}

/// A word of a command line that users copy to a shell: quoted, unless no shell finds a meaning in it.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/_-.,:@%+=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The id of a session, as ZooKeeper's own tools write it.
pub fn session(session: Option<i64>) -> String {
    session.map_or_else(|| "none".to_owned(), |session| format!("{session:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(&["PATH", "N"]);
        table.row(vec!["/a".into(), "1".into()]);
        table.row(vec!["/路径/b".into(), "22".into()]);
        let mut out = Vec::new();
        table.write(&mut out, false).expect("written");
        assert_eq!(String::from_utf8(out).expect("text"), "PATH     N\n/a       1\n/路径/b  22\n");
    }

    #[test]
    fn times_have_two_units_at_most() {
        let spans = [0, 59, 60, 61, 3600, 3661, 90_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["0s", "59s", "1m", "1m 1s", "1h", "1h 1m", "1d 1h"]);
    }

    #[test]
    fn a_shell_takes_words_as_they_are() {
        assert_eq!(shell_word("/locks/a-1"), "/locks/a-1");
        let hostile = "/locks/it's $(echo x); `echo y`";
        let script = format!("printf %s {}", shell_word(hostile));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("it starts");
        assert_eq!(String::from_utf8(output.stdout).expect("text"), hostile);
    }

    #[test]
    fn what_others_wrote_is_one_harmless_line() {
        assert_eq!(foreign("a\x1b[31m\nb", 80), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(foreign("billing-7", 6), "billi…");
        assert_eq!(foreign("billing-7", 9), "billing-7");
    }
}
