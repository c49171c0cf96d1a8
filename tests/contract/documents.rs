//! The documents that are made of tables: the page of differences and the Postman collection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::decision::{self, Class, Hooks};
use super::golden::SETTINGS;
use super::world::World;

/// Fails when a committed file is not what is made now, and leaves the new one to be copied.
fn is_current(path: &str, made: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = std::fs::read_to_string(root.join(path)).unwrap_or_default();
    if committed != made {
        let fresh = root.join("target/tmp").join(Path::new(path).file_name().unwrap());
        std::fs::create_dir_all(fresh.parent().unwrap()).unwrap();
        std::fs::write(&fresh, made).unwrap();
        let fresh = fresh.strip_prefix(root).unwrap().display().to_string();
        panic!("{path} is stale; renew it by: cp {fresh} {path}");
    }
}

#[test]
fn the_page_of_differences_is_current() {
    let mut classes: BTreeMap<Class, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let table = decision::table();
    for (class, why, entry) in table.differences() {
        classes.entry(class).or_default().entry(why.to_owned()).or_default().insert(entry.to_owned());
    }
    let mut page = String::from(
        "# Deliberate differences from wa-gateway 4.7.1\n\nMade from `tests/contract/decisions.toml`; a test replays every recorded exchange of the original and checks each\nanswer below; what no request replays, as a start of the process, has tests of its own. What is not listed is done as\nthe original does it.\n",
    );
    for (class, reasons) in classes {
        let (title, about) = heading(class);
        write!(page, "\n## {title}\n\n{about}\n\n").unwrap();
        for (why, entries) in reasons {
            let mut why = why;
            if let Some(first) = why.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            writeln!(page, "- **{why}**").unwrap();
            let entries: Vec<String> = entries.into_iter().map(|entry| format!("`{entry}`")).collect();
            writeln!(page, "  {}", entries.join(", ")).unwrap();
        }
    }
    page.push_str(
        "\n## What the pages do not have any more\n\nPrograms that read the dashboard's pages may miss these.\n\n",
    );
    for Hooks { class, why, lacks } in &table.hooks {
        let lacks: Vec<String> = lacks.iter().map(|hook| format!("`{hook}`")).collect();
        writeln!(page, "- **{why}** ({})\n  {}", heading(*class).0, lacks.join(", ")).unwrap();
    }
    is_current("docs/differences.md", &page);
}

/// The title of a class, and a sentence about it.
fn heading(class: Class) -> (&'static str, &'static str) {
    match class {
        Class::Ordered => ("Better on purpose", "Failures have a status of their own, and what was documented works."),
        Class::StandIn => (
            "Where the recording could not be real",
            "The original was recorded over an engine that stood in for WhatsApp; these answers were that engine's.",
        ),
        Class::Security => ("Safer on purpose", "The original's answer could harm."),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_postman_collection_is_current() {
    let world = World::start(SETTINGS[0]).await;
    let document: Value = serde_json::from_str(&world.ask("GET", "/openapi.json", None).await.body).unwrap();
    world.finish().await;
    let mut folders: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(method, _)| *method != "head") {
            let tag = operation["tags"][0].as_str().unwrap().to_owned();
            folders.entry(tag).or_default().push(request(path, method, operation, &document));
        }
    }
    let items: Vec<Value> = folders.into_iter().map(|(name, item)| json!({ "name": name, "item": item })).collect();
    let collection = json!({
        "info": {
            "name": "wa-gateway",
            "description": "Made from /openapi.json. Set baseUrl and key.",
            "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
        },
        "auth": { "type": "apikey", "apikey": [
            { "key": "key", "value": "key", "type": "string" },
            { "key": "value", "value": "{{key}}", "type": "string" },
            { "key": "in", "value": "header", "type": "string" },
        ] },
        "variable": [{ "key": "baseUrl", "value": "http://localhost:5001" }, { "key": "key", "value": "secret" }],
        "item": items,
    });
    let text = format!("{}\n", serde_json::to_string_pretty(&collection).unwrap());
    is_current("docs/wa-gateway.postman_collection.json", &text);
}

fn request(path: &str, method: &str, operation: &Value, document: &Value) -> Value {
    let path = path.replace("{*", ":").replace('{', ":").replace('}', "");
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let parameters = || operation["parameters"].as_array().into_iter().flatten();
    let of = |place: &'static str| parameters().filter(move |parameter| parameter["in"] == place);
    let query: Vec<Value> = of("query")
        .map(|parameter| {
            let name = parameter["name"].as_str().unwrap();
            let value = text_of(&example(name, &parameter["schema"], document));
            json!({ "key": name, "value": value, "disabled": parameter["required"] != true })
        })
        .collect();
    let variables: Vec<Value> =
        of("path").map(|parameter| json!({ "key": parameter["name"], "value": "shop" })).collect();
    let mut made = json!({
        "name": operation["summary"],
        "request": {
            "method": method.to_ascii_uppercase(),
            "header": [],
            "url": {
                "raw": format!("{{{{baseUrl}}}}{path}"),
                "host": ["{{baseUrl}}"],
                "path": segments,
                "query": query,
                "variable": variables,
            },
        },
    });
    if operation["security"].as_array().is_some_and(Vec::is_empty) {
        made["request"]["auth"] = json!({ "type": "noauth" });
    }
    let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
    if !schema.is_null() {
        let body = serde_json::to_string_pretty(&example("", schema, document)).unwrap();
        made["request"]["header"] = json!([{ "key": "Content-Type", "value": "application/json" }]);
        made["request"]["body"] = json!({ "mode": "raw", "raw": body, "options": { "raw": { "language": "json" } } });
    }
    made
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A value to begin with: of the members those that must be there, and one place of a file.
fn example(name: &str, schema: &Value, document: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return example(name, document.pointer(reference.trim_start_matches('#')).unwrap(), document);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or("string");
    match (kind, name) {
        ("object", _) => {
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            // One place of the file: the second name of a sticker's would be another.
            let is_url = |name: &str| name.ends_with("_url") && name != "sticker_url";
            let wanted = |name: &str| required.contains(&name) || is_url(name) || name == "document_name";
            let members = schema["properties"].as_object().into_iter().flatten();
            members
                .filter(|(name, _)| wanted(name))
                .map(|(name, part)| (name.clone(), example(name, part, document)))
                .collect()
        }
        ("array", "options") => json!(["Yes", "No"]),
        ("array", _) => json!([example("", &schema["items"], document)]),
        ("boolean", _) => json!(false),
        ("integer", _) => json!(1),
        ("number", "latitude") => json!(-6.2),
        ("number", _) => json!(106.8),
        (_, "session") => json!("shop"),
        (_, "to") => json!("6281234567890"),
        (_, "target") => json!("6281234567890@s.whatsapp.net"),
        (_, "document_name") => json!("invoice.pdf"),
        (_, "message_id") => json!("3EB0123456789ABCDEF012"),
        (_, "reaction") => json!("\u{1f44d}"),
        (_, name) if name.ends_with("_url") => json!(format!("https://example.com/{}", name.trim_end_matches("_url"))),
        _ => json!("Hello"),
    }
}

/// The Indonesian README has the chapters and the settings of the English one.
#[test]
fn the_indonesian_readme_is_a_twin() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let [english, indonesian] =
        ["README.md", "README.id.md"].map(|name| std::fs::read_to_string(root.join(name)).unwrap());
    // The level and the place of each chapter; its words are in another language.
    let chapters = |text: &str| -> Vec<usize> {
        let mut fenced = false;
        let lines = text.lines().filter(|line| {
            fenced ^= line.starts_with("```");
            !fenced && line.starts_with('#')
        });
        lines.map(|line| line.bytes().take_while(|byte| *byte == b'#').count()).collect()
    };
    assert_eq!(chapters(&english), chapters(&indonesian), "the chapters differ");
    // Rows of tables begin with what is not translated: a variable, a path, a status, a member.
    let rows = |text: &str| -> Vec<String> {
        let first = |line: &str| Some(line.strip_prefix("| ")?.split(" | ").next()?.to_owned());
        text.lines()
            .filter_map(first)
            .filter(|cell| cell.starts_with('`') || cell.starts_with(|c: char| c.is_ascii_digit()))
            .collect()
    };
    assert_eq!(rows(&english), rows(&indonesian), "the tables differ");
    for (name, text) in [("README.md", &english), ("README.id.md", &indonesian)] {
        for link in ["docs/differences.md", "docs/wa-gateway.postman_collection.json", "README"] {
            assert!(text.contains(link), "{name} does not link {link}");
        }
    }
}
