//! What the description says: of an answer's shape, and which members a request takes.

use serde_json::Value;

/// Whether a value is what a schema says; as much of JSON Schema as the description uses.
pub(super) fn is_of(value: &Value, schema: &Value, document: &Value) -> bool {
    if let Some(reference) = schema["$ref"].as_str() {
        return is_of(value, document.pointer(reference.trim_start_matches('#')).unwrap(), document);
    }
    for word in ["oneOf", "anyOf"] {
        if let Some(choices) = schema[word].as_array() {
            return choices.iter().any(|choice| is_of(value, choice, document));
        }
    }
    if let Some(parts) = schema["allOf"].as_array() {
        return parts.iter().all(|part| is_of(value, part, document));
    }
    let is_type = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("the description uses the type {other}"),
    };
    let is_type = match &schema["type"] {
        Value::String(name) => is_type(name),
        Value::Array(names) => names.iter().any(|name| is_type(name.as_str().unwrap())),
        _ => true,
    };
    let required = schema["required"].as_array().into_iter().flatten();
    let properties = schema["properties"].as_object().into_iter().flatten();
    is_type
        && required.into_iter().all(|name| value.get(name.as_str().unwrap()).is_some())
        && properties.into_iter().all(|(name, schema)| value.get(name).is_none_or(|part| is_of(part, schema, document)))
        && value.as_array().into_iter().flatten().all(|item| is_of(item, &schema["items"], document))
}

/// The names of the members that an operation takes, in its query or body.
pub(super) fn members(operation: &Value, document: &Value) -> Vec<String> {
    let query = operation["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "query");
    let mut names: Vec<String> = query.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect();
    if let Some(reference) = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        names.extend(schema["properties"].as_object().unwrap().keys().cloned());
    }
    names
}
