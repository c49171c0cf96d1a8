//! `/openapi.json` against the handlers: the members that they look at are those that it describes, of the same types.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::*;
use crate::http::extract::asked;

/// What an operation takes: its members' schemas, by name.
struct Described<'a> {
    method: &'a str,
    path: &'a str,
    query: bool,
    members: Map<String, Value>,
    required: BTreeSet<String>,
    parts: BTreeSet<String>,
}

fn described(document: &Value) -> Vec<Described<'_>> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let content = &operation["requestBody"]["content"];
            let (mut members, mut required, mut parts) = (Map::new(), BTreeSet::new(), BTreeSet::new());
            let query = content.is_null();
            if let Some(reference) = content["application/json"]["schema"]["$ref"].as_str() {
                let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
                members = schema["properties"].as_object().unwrap().clone();
                let names = schema["required"].as_array().into_iter().flatten();
                required = names.map(|name| name.as_str().unwrap().to_owned()).collect();
                let files = &content["multipart/form-data"]["schema"]["allOf"][1]["properties"];
                parts = files.as_object().into_iter().flatten().map(|(name, _)| format!("part {name}")).collect();
            } else {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    if parameter["in"] == "query" {
                        let name = parameter["name"].as_str().unwrap().to_owned();
                        if parameter["required"] == true {
                            required.insert(name.clone());
                        }
                        members.insert(name, parameter["schema"].clone());
                    }
                }
            }
            if !members.is_empty() {
                all.push(Described { method, path, query, members, required, parts });
            }
        }
    }
    all
}

/// The types that a schema allows.
fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A value that the schema allows and that most checks of its content let through.
fn sample(name: &str, schema: &Value, document: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        return sample(name, schema, document);
    }
    let types = types(schema);
    let is = |kind: &str| types.contains(&kind);
    match name {
        // Nobody has a session of that name, and none can be made.
        "session" => json!(""),
        "document_name" => json!("a.pdf"),
        "target" => json!("628123@s.whatsapp.net"),
        _ if is("string") => json!("628123"),
        _ if is("boolean") => json!(true),
        _ if is("integer") || is("number") => json!(1),
        _ if is("array") => {
            let item = sample("", &schema["items"], document);
            let other = if item.is_string() { json!("628124") } else { item.clone() };
            json!([item, other])
        }
        _ => {
            let members = schema["properties"].as_object().into_iter().flatten();
            members.map(|(name, schema)| (name.clone(), sample(name, schema, document))).collect()
        }
    }
}

impl Described<'_> {
    async fn ask(&self, members: &Map<String, Value>) -> Answer {
        let uri = self.path.replace(['{', '}'], "");
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut request = if self.query {
            let pairs: Vec<(&str, String)> = members.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
            let query = serde_urlencoded::to_string(pairs).unwrap();
            request(&self.method.to_uppercase(), &format!("{uri}?{query}"))
        } else {
            let mut request = post(&uri, "application/json", Value::Object(members.clone()).to_string());
            *request.method_mut() = self.method.to_uppercase().parse().unwrap();
            request
        };
        request.headers_mut().insert("key", "secret".parse().unwrap());
        ask(Some("secret"), request).await
    }

    /// All members; the required ones; these with each one of the others, and with each but one: a member may be looked
    /// at only when another one is there, or is not.
    fn bodies(&self, document: &Value) -> Vec<Map<String, Value>> {
        let of = |keep: &dyn Fn(&String) -> bool| -> Map<String, Value> {
            let kept = self.members.iter().filter(|(name, _)| keep(name));
            kept.map(|(name, schema)| (name.clone(), sample(name, schema, document))).collect()
        };
        let mut bodies = vec![of(&|_| true), of(&|name| self.required.contains(name))];
        let url = self.members.keys().find(|name| name.ends_with("_url"));
        for other in self.members.keys() {
            bodies.push(of(&|name| name == other || self.required.contains(name)));
            bodies.push(of(&|name| name != other));
            bodies.push(of(&|name| name == other || Some(name) == url || self.required.contains(name)));
            // One source of a file, and all else.
            let is_source = |name: &str| name.ends_with("_url") || name.ends_with("_base64");
            bodies.push(of(&|name| name == other || !is_source(name)));
        }
        bodies
    }
}

#[tokio::test]
async fn handlers_look_at_the_described_members_and_at_no_others() {
    let document = openapi::tests::of(&endpoints(&state(Some("secret")).await));
    let mut compared = 0;
    for operation in described(&document) {
        let _others = asked::take();
        for body in operation.bodies(&document) {
            operation.ask(&body).await;
        }
        let asked = asked::take();
        if asked.is_empty() {
            // Read by the very type that describes it.
            continue;
        }
        let names: BTreeSet<String> =
            operation.members.keys().cloned().chain(operation.parts.iter().cloned()).collect();
        assert_eq!(asked, names, "{} {}: looked at, and described", operation.method, operation.path);
        compared += 1;
    }
    assert!(compared > 15, "{compared} operations");
}

#[tokio::test]
async fn handlers_refuse_what_is_not_of_the_described_type() {
    let document = openapi::tests::of(&endpoints(&state(Some("secret")).await));
    for operation in described(&document).iter().filter(|operation| !operation.query) {
        if !operation.path.starts_with("/message") && operation.path != "/profile" {
            continue;
        }
        let bodies = operation.bodies(&document);
        for (member, schema) in &operation.members {
            let kinds = types(schema);
            // An object is of no described type; whatever else is allowed, it is refused by the member's name.
            let wrong = if kinds.contains(&"array") { json!(true) } else { json!({}) };
            let mut refusals = Vec::new();
            for mut body in bodies.iter().filter(|body| body.contains_key(member)).cloned() {
                body.insert(member.clone(), wrong.clone());
                let answer = operation.ask(&body).await;
                refusals.push(answer.body);
            }
            let expected = match kinds.iter().find(|kind| **kind != "null") {
                Some(&"integer") => "number",
                Some(kind) => kind,
                None => panic!("{member} has no type"),
            };
            let received = if wrong.is_object() { "object" } else { "boolean" };
            let wanted = format!("Expected {expected}, received {received} field '{member}' on json");
            let told = refusals.iter().any(|body| body.contains(&wanted));
            assert!(told, "{} {member}: no body brings {wanted:?}; {:?}", operation.path, refusals.first());
        }
    }
}
