//! What programs may hold on to in the pages: ids, names, links, scripts, forms, data attributes and words.

use serde_json::Value;

use super::golden::Response;
use super::pattern::text_matches;

/// The recorded hooks that a page of ours does not have, as `<page>: <kind> <hook>`.
pub(crate) fn missing(recorded: &Response, body: &str) -> Vec<String> {
    let page = recorded.page.as_deref().unwrap_or("page");
    let mut missing = Vec::new();
    // What broke out of the original's script was a fault of its own.
    for (kind, hooks) in recorded.hooks.iter().filter(|(kind, _)| *kind != "unescaped_id") {
        // The original's inline script defines a constant with the session's id.
        if kind == "global_id" {
            if !body.contains("const id =") {
                missing.push(format!("{page}: {kind}"));
            }
            continue;
        }
        let hooks: Vec<&str> = match hooks {
            Value::Array(hooks) => hooks.iter().map(|hook| hook.as_str().unwrap()).collect(),
            Value::String(hook) => vec![hook],
            other => panic!("a hook of another form: {other}"),
        };
        for hook in hooks.into_iter().filter(|hook| !has(kind, hook, body)) {
            missing.push(format!("{page}: {kind} {hook}"));
        }
    }
    missing
}

fn has(kind: &str, hook: &str, body: &str) -> bool {
    let attribute = |name: &str, hook: &str| {
        body.match_indices(&format!(" {name}=\"")).any(|(at, opening)| {
            let value = body[at + opening.len()..].split('"').next().unwrap();
            text_matches(&unescape(hook), &unescape(value))
        })
    };
    match kind {
        "title" => body.contains(&format!("<title>{hook}</title>")),
        "ids" => attribute("id", hook),
        "names" => attribute("name", hook),
        "hrefs" => attribute("href", hook),
        "scripts" => attribute("src", hook),
        "image" => body.contains("src=\"data:image/png;base64,"),
        "data" => {
            let (name, value) = hook.split_once("=\"").unwrap();
            attribute(name, value.trim_end_matches('"'))
        }
        "forms" | "status_lines" | "error_text" => body.contains(hook),
        other => panic!("a new kind of hook: {other}"),
    }
}

/// Either page writes the same character in its own way.
fn unescape(text: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&#60;", "<"),
        ("&gt;", ">"),
        ("&#62;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
        ("&#38;", "&"),
    ];
    entities.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

#[test]
fn hooks_are_found_where_they_stand_only() {
    let page = r#"<title>T</title><form action="" method="post"><input id="a" name="b" data-x="&#34;&#60;i&#62;"><a href="c?x=1&amp;y=2">Status: ON</a>"#;
    for (kind, hook, expected) in [
        ("title", "T", true),
        ("title", "b", false),
        ("ids", "a", true),
        ("ids", "b", false),
        ("names", "b", true),
        ("hrefs", "c?x=1&y=2", true),
        ("hrefs", "c", false),
        ("scripts", "c", false),
        ("forms", "action=\"\" method=\"post\"", true),
        ("status_lines", "Status: ON", true),
        ("data", "data-x=\"&quot;&lt;i&gt;\"", true),
        ("data", "data-x=\"i\"", false),
    ] {
        assert_eq!(has(kind, hook, page), expected, "{kind} {hook}");
    }
}
