//! One line of the log for each event, whatever strangers have called things.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Standard output, an event at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines;

/// Takes the text of one event.
#[derive(Debug)]
pub(super) struct Line;

impl MakeWriter<'_> for Lines {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line
    }
}

impl Write for Line {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stdout().write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Whether a byte is written out: it would end the line, or make a text file of the log no more. Colours begin with an escape.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\t' | 0x1b)
}

/// The text with its own end, and every other control character written out.
fn one_line(event: &[u8]) -> Cow<'_, [u8]> {
    let (text, end) = event.split_at(event.len() - usize::from(event.ends_with(b"\n")));
    if !text.iter().copied().any(is_control) {
        return Cow::Borrowed(event);
    }
    let mut line = Vec::with_capacity(event.len() + 16);
    for byte in text {
        match byte {
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            byte if is_control(*byte) => line.extend(format!("\\x{byte:02x}").bytes()),
            byte => line.push(*byte),
        }
    }
    line.extend(end);
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        for (event, line) in [
            ("plain\n", "plain\n"),
            ("no end", "no end"),
            ("a\nb\r\nc\n", "a\\nb\\r\\nc\n"),
            ("\n", "\n"),
            ("\n\n", "\\n\n"),
            ("", ""),
            ("a\0b\u{7f}\t\u{1b}[2mc\n", "a\\x00b\\x7f\t\u{1b}[2mc\n"),
        ] {
            assert_eq!(one_line(event.as_bytes()), line.as_bytes(), "{event:?}");
        }
    }
}
