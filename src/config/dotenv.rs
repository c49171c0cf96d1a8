//! The text of a file `.env`, read as the original's `dotenv` reads it.
//!
//! Pure: a text goes in, names and values come out, the last of a name counts. Nothing is substituted, and a line that is
//! no setting is passed over: the file may hold settings of other programs.

/// The settings in the order of the file.
pub(super) fn parse(text: &str) -> Vec<(String, String)> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut found = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        if let Some((name, value, after)) = setting(rest) {
            found.push((name.to_owned(), unquoted(value)));
            rest = after;
        }
        rest = rest.split_once('\n').map_or("", |(_, next)| next);
    }
    found
}

/// A setting that the text begins with: its name, its value as it is written, what follows.
fn setting(text: &str) -> Option<(&str, &str, &str)> {
    let text = skip_space(text);
    let exported = text.strip_prefix("export").filter(|after| after.starts_with(is_space)).map(skip_space);
    let (name, after) = exported.and_then(name).or_else(|| name(text))?;
    let (value, after) = value(after);
    Some((name, value, after))
}

/// The name before `=` or `: `, and what follows the sign.
fn name(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"_.-".contains(c))?;
    let (name, after) = text.split_at(end);
    let value = skip_space(after).strip_prefix('=').or_else(|| after.strip_prefix(':')?.strip_prefix(is_space))?;
    (!name.is_empty()).then_some((name, value))
}

/// The value in its quotes, over as many lines as they hold; else up to a `#` or the end of the line.
fn value(text: &str) -> (&str, &str) {
    let quoted = skip_space(text);
    if let Some(quote @ ('\'' | '"' | '`')) = quoted.chars().next()
        && let Some(end) = closing(quoted, quote)
    {
        return quoted.split_at(end);
    }
    text.split_at(text.find(['#', '\n']).unwrap_or(text.len()))
}

/// Where the value ends that this quote opens. Only space or a comment may follow it on its line; a quote after a backslash
/// closes where no other does.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut ends = Vec::new();
    for (at, _) in text.match_indices(quote).skip(1) {
        ends.push(at + 1);
        // The opening quote is the first byte.
        if !text[1..at].ends_with('\\') {
            break;
        }
    }
    ends.into_iter().rev().find(|end| is_last(&text[*end..]))
}

/// Whether nothing but space or a comment follows on the line.
fn is_last(text: &str) -> bool {
    let line = text.split('\n').next().unwrap_or_default();
    let rest = skip_space(line);
    rest.is_empty() || rest.starts_with('#')
}

/// Without space and quotes around it; in double quotes `\n` and `\r` stand for the ends of lines.
fn unquoted(value: &str) -> String {
    let value = value.trim_matches(is_space);
    let quote = value.chars().next().filter(|c| "'\"`".contains(*c));
    let inner = quote.and_then(|quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value);
    if quote == Some('"') { inner.replace("\\n", "\n").replace("\\r", "\r") } else { inner.to_owned() }
}

fn skip_space(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// As JavaScript has it: with the byte order mark, without U+0085.
fn is_space(c: char) -> bool {
    c == '\u{feff}' || c.is_whitespace() && c != '\u{85}'
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::property::holds;

    /// What dotenv 16.6.1 makes of these texts.
    #[test]
    fn values_are_those_of_the_originals_reader() {
        for (text, value) in [
            // Nothing is substituted.
            ("KEY=pa$$w0rd", "pa$$w0rd"),
            ("KEY=\"$HOME ${HOME}\"", "$HOME ${HOME}"),
            ("KEY='$HOME'", "$HOME"),
            // Without quotes: to the end of the line or a comment, without the space around it.
            ("KEY=my key", "my key"),
            ("KEY=  spaced \t", "spaced"),
            ("KEY =\u{a0}value", "value"),
            ("KEY=a # b", "a"),
            ("KEY=a#b", "a"),
            ("KEY=# b", ""),
            ("KEY=", ""),
            ("KEY=C:\\new\\dir", "C:\\new\\dir"),
            ("KEY=a=b==", "a=b=="),
            ("KEY=it's", "it's"),
            // In quotes.
            ("KEY='a # b' # c", "a # b"),
            ("KEY=\"a # b\"# c", "a # b"),
            ("KEY=`a 'b' \"c\"`", "a 'b' \"c\""),
            ("KEY=' a '", " a "),
            ("KEY=''", ""),
            ("KEY=\"a\\nb\\rc\\td\"", "a\nb\rc\\td"),
            ("KEY='a\\nb'", "a\\nb"),
            ("KEY=`a\\nb`", "a\\nb"),
            ("KEY='a\\'b'", "a\\'b"),
            ("KEY=\"C:\\dir\\\"", "C:\\dir\\"),
            ("KEY='one\ntwo # three\n'", "one\ntwo # three\n"),
            ("KEY=\n'next line'", "next line"),
            // Quotes that close nothing are a part of the value.
            ("KEY='a", "'a"),
            ("KEY=\"a\\nb", "\"a\nb"),
            ("KEY='a'b", "'a'b"),
            ("KEY='a' 'b'", "a' 'b"),
            ("KEY='a#b", "'a"),
            ("KEY='", "'"),
            // Before the value.
            ("export KEY=a", "a"),
            ("  export\tKEY = a", "a"),
            ("KEY: a", "a"),
            ("\u{feff}KEY=a", "a"),
        ] {
            assert_eq!(parse(text), [("KEY".to_owned(), value.to_owned())], "{text:?}");
        }
    }

    #[test]
    fn lines_end_as_on_every_system_and_the_last_setting_of_a_name_counts() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["A=1", "", "# B=2", "APP.NAME-x=My Gateway", "A='3", "4' # five", "export=6", ""].join(end);
            let pairs = [("A", "1"), ("APP.NAME-x", "My Gateway"), ("A", "3\n4"), ("export", "6")];
            assert_eq!(parse(&text), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())), "{end:?}");
        }
    }

    #[test]
    fn what_is_no_setting_is_passed_over() {
        for line in
            ["A", "=a", "A B=c", "A:b", "A :b", "export A", "[section]", "{\"A\": 1}", "ä=b", "A!=b", "\u{85}A=b"]
        {
            assert_eq!(parse(&format!("{line}\nKEY=a")), [("KEY".to_owned(), "a".to_owned())], "{line:?}");
        }
        assert!(parse("").is_empty());
    }

    #[test]
    fn a_text_in_single_quotes_is_read_as_it_is() {
        holds("[^'\r]{0,60}", |value| {
            let text = format!("A=\"b\"\nKEY='{value}'\nC=d");
            let pairs = [("A", "b"), ("KEY", &value), ("C", "d")];
            assert_eq!(parse(&text), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        });
    }

    #[test]
    fn any_text_is_read() {
        let part = proptest::sample::select(vec![
            "KEY", "export ", "=", ": ", "'", "\"", "`", "\\", "#", " ", "\n", "\r\n", "\u{feff}", "\u{a0}", "é",
        ]);
        holds(proptest::collection::vec(part, 0..40), |parts| {
            for (name, _) in parse(&parts.concat()) {
                assert!(!name.is_empty() && name.is_ascii());
            }
        });
    }
}
