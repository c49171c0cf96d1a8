//! `GET /openapi.json`: every endpoint of the route table with what it takes and answers.
//!
//! An endpoint that stands in the table and not here, or here and not in the table, fails a test. Requests and answers are
//! described by types; the fuzz test holds real answers against them.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use super::Shared;
use super::auth::Scope;
use super::body::Failure;
use super::route::{Endpoint, endpoints};

mod operation;
mod schema;

use operation::OPERATIONS;

/// `GET /openapi.json`.
pub(super) async fn serve(State(state): State<Shared>) -> Response {
    axum::Json(document(&endpoints(&state))).into_response()
}

/// One method on one path, in words and types.
struct Operation {
    methods: &'static [Method],
    path: &'static str,
    summary: &'static str,
    takes: Takes,
    /// Statuses beside those that [`document`] adds for every endpoint of its kind.
    answers: &'static [(u16, Shape)],
}

/// Where a request's members stand.
#[derive(Clone, Copy)]
enum Takes {
    Nothing,
    /// Members of the query.
    Query(Type),
    /// Members of a JSON body or of a form.
    Body(Type),
    /// As [`Self::Body`], or of a multipart form that brings the file in one of these parts.
    File(Type, &'static [&'static str]),
    /// Members of the query or of the body; the query counts first.
    Either(Type),
}

/// What an answer's body is.
#[derive(Clone, Copy)]
enum Shape {
    Json(Type),
    /// JSON that is not described further.
    Any,
    /// A page with the code, or JSON once there is none to scan.
    PageOr(Type),
    /// A page for people.
    Page,
    /// The bytes of a file, of its own type.
    File,
    /// Nothing.
    Empty,
}

/// A type that stands below `components/schemas`.
#[derive(Clone, Copy)]
struct Type {
    name: fn() -> std::borrow::Cow<'static, str>,
    schema: fn() -> RefOr<Schema>,
    parts: fn(&mut Vec<(String, RefOr<Schema>)>),
}

impl Type {
    const fn of<T: ToSchema>() -> Self {
        Self { name: T::name, schema: T::schema, parts: T::schemas }
    }

    fn reference(self) -> Value {
        json!({ "$ref": format!("#/components/schemas/{}", (self.name)()) })
    }

    /// Puts the type and all that it is made of below `components`.
    fn collect(self, schemas: &mut BTreeMap<String, Value>) {
        let mut parts = vec![((self.name)().into_owned(), (self.schema)())];
        (self.parts)(&mut parts);
        for (name, schema) in parts {
            schemas.entry(name).or_insert_with(|| to_value(&schema));
        }
    }

    /// Its members as parameters of a query.
    fn parameters(self) -> Vec<Value> {
        let schema = to_value(&(self.schema)());
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let members = schema["properties"].as_object().cloned().unwrap_or_default();
        let parameter = |(name, schema): (String, Value)| {
            let required = required.contains(&Value::from(name.as_str()));
            json!({ "name": name, "in": "query", "required": required, "schema": schema })
        };
        members.into_iter().map(parameter).collect()
    }
}

fn to_value(schema: &RefOr<Schema>) -> Value {
    serde_json::to_value(schema).expect("a schema has text keys only")
}

/// The description of these endpoints, OpenAPI 3.1.
fn document(endpoints: &[Endpoint]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut schemas = BTreeMap::new();
    Type::of::<Failure>().collect(&mut schemas);
    for endpoint in api(endpoints) {
        let Some(operation) = find(endpoint) else { continue };
        let described = operation.describe(endpoint, &mut schemas);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.as_str().to_ascii_lowercase()] = described;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "wa-gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP gateway for WhatsApp. Every refusal and failure is JSON with a `message`, but for a 412 and the pages of the login.",
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "header": { "type": "apiKey", "in": "header", "name": "key" },
                "query": { "type": "apiKey", "in": "query", "name": "key" },
                "apiKeyHeader": { "type": "apiKey", "in": "header", "name": "x-api-key" },
                "bearer": { "type": "http", "scheme": "bearer" },
            },
        },
    })
}

/// Without what only the dashboard's own pages ask.
fn api(endpoints: &[Endpoint]) -> impl Iterator<Item = &Endpoint> {
    endpoints.iter().filter(|endpoint| endpoint.scope != Scope::Dashboard)
}

/// The description of an endpoint; HEAD is described with its GET.
fn find(endpoint: &Endpoint) -> Option<&'static Operation> {
    let method = if endpoint.method == Method::HEAD { Method::GET } else { endpoint.method.clone() };
    OPERATIONS.iter().find(|operation| operation.path == endpoint.path && operation.methods.contains(&method))
}

impl Operation {
    fn describe(&self, endpoint: &Endpoint, schemas: &mut BTreeMap<String, Value>) -> Value {
        let method = endpoint.method.as_str();
        let words: String = self.path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let mut parameters: Vec<Value> = Vec::new();
        for name in self.path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            let name = name.trim_start_matches('*');
            let schema = json!({ "type": "string" });
            parameters.push(json!({ "name": name, "in": "path", "required": true, "schema": schema }));
        }
        let mut described = json!({
            "operationId": format!("{}{words}", method.to_ascii_lowercase()),
            "summary": self.summary,
            "tags": [self.path.split('/').nth(1).filter(|tag| !tag.is_empty()).unwrap_or("dashboard")],
        });
        let mut statuses: BTreeMap<u16, Value> = BTreeMap::new();
        let failure = || json!({ "description": "Refused", "content": json_content(Type::of::<Failure>()) });
        statuses.insert(431, failure());
        match self.takes {
            Takes::Nothing => {}
            Takes::Query(fields) => {
                statuses.insert(400, failure());
                parameters.extend(fields.parameters());
            }
            Takes::Body(fields) | Takes::File(fields, _) | Takes::Either(fields) => {
                fields.collect(schemas);
                for status in [400, 408, 413] {
                    statuses.insert(status, failure());
                }
                if let Takes::Either(fields) = self.takes {
                    let optional = fields.parameters().into_iter().map(|mut parameter| {
                        parameter["required"] = json!(false);
                        parameter
                    });
                    parameters.extend(optional);
                }
                let schema = json!({ "schema": fields.reference() });
                let mut content = json!({ "application/json": schema, "application/x-www-form-urlencoded": schema });
                if let Takes::File(_, parts) = self.takes {
                    let file = json!({ "type": "string", "format": "binary", "description": "The file itself." });
                    let parts: Map<String, Value> =
                        parts.iter().map(|part| ((*part).to_owned(), file.clone())).collect();
                    let parts = json!({ "type": "object", "properties": parts });
                    content["multipart/form-data"] = json!({ "schema": { "allOf": [fields.reference(), parts] } });
                }
                let required = !matches!(self.takes, Takes::Either(_));
                described["requestBody"] = json!({ "required": required, "content": content });
            }
        }
        if endpoint.scope == Scope::Send {
            let schema = json!({ "type": "string", "minLength": 1, "maxLength": 255 });
            let description =
                "A request with the same key and content is carried out once; its answer is kept for 24 hours";
            parameters.push(json!({
                "name": "Idempotency-Key", "in": "header", "required": false, "description": description, "schema": schema,
            }));
        }
        if endpoint.scope == Scope::Public {
            described["security"] = json!([]);
        } else {
            for status in [401, 403, 429] {
                statuses.insert(status, failure());
            }
            described["security"] =
                json!([{ "header": [] }, { "query": [] }, { "apiKeyHeader": [] }, { "bearer": [] }]);
        }
        for (status, shape) in self.answers {
            statuses.insert(*status, shape.describe(*status, schemas));
        }
        if endpoint.method == Method::HEAD {
            for answer in statuses.values_mut() {
                *answer = json!({ "description": answer["description"] });
            }
        }
        if !parameters.is_empty() {
            described["parameters"] = json!(parameters);
        }
        let statuses: Map<String, Value> =
            statuses.into_iter().map(|(status, answer)| (status.to_string(), answer)).collect();
        described["responses"] = Value::Object(statuses);
        described
    }
}

impl Shape {
    fn describe(self, status: u16, schemas: &mut BTreeMap<String, Value>) -> Value {
        let description = match status {
            200 => "Done",
            206 => "A part of the file",
            302 => "Go to the address in `location`",
            304 => "Not changed",
            416 => "The file has no such part",
            429 => "Too many wrong keys; `retry-after` says when to come back",
            404 => "Not found",
            409 => "Not in the state that this needs",
            502 => "WhatsApp refused, or the connection failed",
            503 => "The session store is not available, or the gateway is stopping",
            504 => "WhatsApp did not answer in time",
            _ => "Refused",
        };
        let page = || json!({ "schema": { "type": "string" } });
        match self {
            Self::Json(kind) => {
                kind.collect(schemas);
                json!({ "description": description, "content": json_content(kind) })
            }
            Self::Any => json!({ "description": description, "content": { "application/json": {} } }),
            Self::PageOr(kind) => {
                kind.collect(schemas);
                let mut content = json_content(kind);
                content["text/html"] = page();
                json!({ "description": description, "content": content })
            }
            Self::Page => json!({ "description": description, "content": { "text/html": page() } }),
            Self::File => json!({ "description": description, "content": { "*/*": {} } }),
            Self::Empty => json!({ "description": description }),
        }
    }
}

fn json_content(kind: Type) -> Value {
    json!({ "application/json": { "schema": kind.reference() } })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The description, for the tests that read it.
    pub(in crate::http) fn of(endpoints: &[Endpoint]) -> Value {
        document(endpoints)
    }

    /// Every endpoint of the table is described, and nothing else.
    pub(in crate::http) fn agree(endpoints: &[Endpoint]) {
        for endpoint in api(endpoints) {
            assert!(find(endpoint).is_some(), "{} {} is not described", endpoint.method, endpoint.path);
        }
        for operation in OPERATIONS {
            for method in operation.methods {
                let is_this = |endpoint: &Endpoint| endpoint.path == operation.path && endpoint.method == *method;
                assert!(endpoints.iter().any(is_this), "{method} {} is described and not served", operation.path);
            }
        }
    }

    /// Every reference of a document leads somewhere.
    pub(in crate::http) fn references_hold(part: &Value, document: &Value) {
        match part {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let found = document.pointer(reference.trim_start_matches('#'));
                    assert!(found.is_some(), "{reference} leads nowhere");
                }
                members.values().for_each(|member| references_hold(member, document));
            }
            Value::Array(items) => items.iter().for_each(|item| references_hold(item, document)),
            _ => {}
        }
    }
}
