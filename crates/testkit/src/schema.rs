//! Whether a value is what an OpenAPI document says, as far as our own documents go.

use serde_json::Value;

/// Words of a schema that are understood here; another one is a fault, not ignored.
const WORDS: [&str; 14] = [
    "$ref",
    "additionalProperties",
    "anyOf",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maximum",
    "minimum",
    "pattern",
    "properties",
    "required",
    "type",
];

/// What is wrong with an answer of `GET path` by an OpenAPI document; `path` as the document has it.
///
/// Stricter than the document: a field that it does not describe is a fault, so that none is
/// forgotten there.
pub fn answer_faults(document: &Value, path: &str, status: u16, body: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let operation = &document["paths"][path]["get"];
    let answer = resolve(document, &operation["responses"][status.to_string()], &mut faults);
    let schema = &answer["content"]["application/json"]["schema"];
    if schema.is_null() {
        faults.push(format!("GET {path} does not describe its {status}"));
    } else {
        check(document, schema, body, &format!("GET {path}"), &mut faults);
    }
    faults
}

fn resolve<'a>(document: &'a Value, value: &'a Value, faults: &mut Vec<String>) -> &'a Value {
    let Some(place) = value["$ref"].as_str() else { return value };
    let found = place.strip_prefix('#').and_then(|place| document.pointer(place));
    found.unwrap_or_else(|| {
        faults.push(format!("{place} is nowhere"));
        &Value::Null
    })
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let Some(words) = schema.as_object() else {
        return faults.push(format!("{at}: no schema but {schema}"));
    };
    for word in words.keys().filter(|word| !WORDS.contains(&word.as_str())) {
        faults.push(format!("{at}: the schema says {word}, which is not understood here"));
    }
    if words.contains_key("$ref") {
        let schema = resolve(document, schema, faults);
        return check(document, schema, value, at, faults);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let fits = |choice| {
            let mut faults = Vec::new();
            check(document, choice, value, at, &mut faults);
            faults.is_empty()
        };
        if !choices.iter().any(fits) {
            // The first choice says most of why.
            check(document, &choices[0], value, at, faults);
        }
        return;
    }
    let types: Vec<_> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of(value, name)) {
        return faults.push(format!("{at}: {value} is no {}", types.join(" or ")));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        faults.push(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    let bounds = (schema["minimum"].as_f64(), schema["maximum"].as_f64(), value.as_f64());
    if let (least, most, Some(number)) = bounds
        && (least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most))
    {
        faults.push(format!("{at}: {number} is out of its bounds"));
    }
    if let Some(items) = value.as_array().filter(|_| !schema["items"].is_null()) {
        for (index, item) in items.iter().enumerate() {
            check(document, &schema["items"], item, &format!("{at}[{index}]"), faults);
        }
    }
    if let Some(fields) = value.as_object() {
        check_fields(document, schema, fields, at, faults);
    }
}

fn check_fields(
    document: &Value,
    schema: &Value,
    fields: &serde_json::Map<String, Value>,
    at: &str,
    faults: &mut Vec<String>,
) {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required.filter(|name| !fields.contains_key(*name)) {
        faults.push(format!("{at}: {name} is missing"));
    }
    // One that says nothing of its fields takes any.
    let is_closed = schema["properties"].is_object();
    for (name, field) in fields {
        let at = format!("{at}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Null) if is_closed => {
                faults.push(format!("{at} is not described"));
            }
            (Value::Null, Value::Null) => {}
            (Value::Null, other) => check(document, other, field, &at, faults),
            (property, _) => check(document, property, field, &at, faults),
        }
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document() -> Value {
        json!({
            "paths": {"/a": {"get": {"responses": {"200": {"content": {"application/json": {
                "schema": {"$ref": "#/components/A"}
            }}}}}}},
            "components": {
                "A": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string", "enum": ["a", "b"]},
                        "size": {"type": ["integer", "null"], "minimum": 1},
                        "next": {"anyOf": [{"$ref": "#/components/A"}, {"type": "null"}]},
                        "list": {"type": "array", "items": {"type": "boolean"}},
                        "hits": {"type": "object", "additionalProperties": {"type": "integer"}},
                    },
                },
            },
        })
    }

    #[test]
    fn what_is_described_is_right() {
        let body = json!({
            "name": "a", "size": 3, "next": {"name": "b", "size": null, "next": null},
            "list": [true, false], "hits": {"x": 1},
        });
        assert_eq!(answer_faults(&document(), "/a", 200, &body), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_is_found() {
        for (body, why) in [
            (json!([]), "is no object"),
            (json!({}), "name is missing"),
            (json!({"name": "c"}), "is none of"),
            (json!({"name": 1}), "is no string"),
            (json!({"name": "a", "size": 1.5}), "is no integer or null"),
            (json!({"name": "a", "size": 0}), "out of its bounds"),
            (json!({"name": "a", "next": {"name": "c"}}), "GET /a.next.name: \"c\" is none of"),
            (json!({"name": "a", "list": [1]}), "GET /a.list[0]: 1 is no boolean"),
            (json!({"name": "a", "hits": {"x": "y"}}), "GET /a.hits.x"),
            (json!({"name": "a", "colour": 1}), "GET /a.colour is not described"),
        ] {
            let faults = answer_faults(&document(), "/a", 200, &body);
            assert!(faults.iter().any(|fault| fault.contains(why)), "{body}: {faults:?}");
        }
        assert_eq!(answer_faults(&document(), "/a", 404, &json!({})).len(), 1);
        let mut odd = document();
        odd["components"]["A"]["oneOf"] = json!([]);
        let faults = answer_faults(&odd, "/a", 200, &json!({"name": "a"}));
        assert!(faults[0].contains("oneOf"), "{faults:?}");
    }
}
