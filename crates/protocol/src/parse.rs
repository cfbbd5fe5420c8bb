//! From a client's JSON to a valid [`Job`], or to one line that says what to change.
//!
//! The text is read once into a document, which is first compared with the JSON Schema: this finds the invalid field
//! and the known names, so that both are defined only by the types. Then serde builds the job. Serde alone would not
//! name the field, would accept a list as an object, and would ignore unknown fields.

mod document;

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    AspectRatio, Job, JobError, JobId, PixelBudget,
    json::{self, Bounds, JsonError},
    limits,
    text::quoted,
};

use document::Document;

impl Job {
    /// Parses and validates a job. Without an `id` it gets one that follows from its other fields.
    pub fn parse(json: &[u8]) -> Result<Self, JobError> {
        Self::parse_with(json, &Map::new())
    }

    /// Parses and validates a job; fields that it lacks are taken from `defaults`, also within objects.
    pub fn parse_with(json: &[u8], defaults: &Map<String, Value>) -> Result<Self, JobError> {
        let Document { mut value, repeated } = document(json::without_mark(json))?;
        if let Value::Object(fields) = &mut value {
            fill_in(fields, defaults);
        }
        examine(&value, Self::schema(), &Rules { root: Self::schema(), repeated: &repeated }, "")?;
        // The megabytes of an inline picture are moved, not copied.
        let job: Self = serde_json::from_value(value).map_err(|error| JobError::new("", error.to_string()))?;
        let job = job.with_id();
        job.validate()?;
        Ok(job)
    }
}

fn document(json: &[u8]) -> Result<Document, JobError> {
    let bounds = Bounds { bytes: limits::MAX_JOB_JSON_BYTES, ..Bounds::MESSAGE };
    json::check(json, &bounds).map_err(|error| match error {
        JsonError::TooLong { size, limit } => {
            JobError::new("", format!("the job's JSON has {size} bytes; the limit is {limit}"))
        }
        JsonError::TooManyValues => JobError::new("", "this is no job: it has more values than any job has"),
        other => JobError::new("", format!("this is no job: {other}")),
    })?;
    Document::parse(json).map_err(|error| JobError::new("", format!("this is not valid JSON: {error}")))
}

/// Adds the defaults of fields that are absent. Seeds are one value: a list, or a range.
fn fill_in(fields: &mut Map<String, Value>, defaults: &Map<String, Value>) {
    for (name, default) in defaults {
        match (fields.get_mut(name), default) {
            (None, default) => drop(fields.insert(name.clone(), default.clone())),
            (Some(Value::Object(inner)), Value::Object(default)) if name != "seeds" => fill_in(inner, default),
            (Some(_), _) => {}
        }
    }
}

/// What is the same for all parts of a document.
struct Rules<'a> {
    /// The whole schema, in which references are resolved.
    root: &'a Value,
    /// Paths of duplicate fields.
    repeated: &'a HashSet<String>,
}

/// Compares `value` with `schema` as far as serde does: types, names, formats; not lengths and ranges, except those of
/// integers.
fn examine(value: &Value, schema: &Value, rules: &Rules<'_>, path: &str) -> Result<(), JobError> {
    let schema = resolve(schema, rules.root);
    check_format(value, schema, path)?;
    let alternatives = alternatives(schema, rules.root);
    if !alternatives.is_empty() {
        return examine_one_of(value, &alternatives, rules, path);
    }
    if !type_fits(value, schema) {
        return Err(JobError::new(path, format!("expected {}, got {}", describe(&[schema]), shown(value))));
    }
    match value {
        Value::Object(fields) => examine_fields(fields, schema, rules, path),
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return Ok(()) };
            for (index, item) in items.iter().enumerate() {
                examine(item, schema, rules, &format!("{path}[{index}]"))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn examine_one_of(value: &Value, alternatives: &[&Value], rules: &Rules<'_>, path: &str) -> Result<(), JobError> {
    let fitting = alternatives.iter().find(|schema| type_fits(value, schema));
    if let Some(schema) = fitting {
        return examine(value, schema, rules, path);
    }
    let known: Vec<&str> = alternatives.iter().flat_map(|schema| constants(schema)).collect();
    if let (Value::String(text), false) = (value, known.is_empty()) {
        return Err(JobError::new(path, format!("unknown value {}; {}", quoted(text), suggestion(text, &known))));
    }
    Err(JobError::new(path, format!("expected {}, got {}", describe(alternatives), shown(value))))
}

fn examine_fields(fields: &Map<String, Value>, schema: &Value, rules: &Rules<'_>, path: &str) -> Result<(), JobError> {
    let empty = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    for (name, value) in fields {
        let below = join(path, name);
        match known.get(name) {
            Some(_) if rules.repeated.contains(&below) => {
                return Err(JobError::new(path, format!("duplicate field `{name}`; leave one out")));
            }
            Some(schema) => examine(value, schema, rules, &below)?,
            None if closed => {
                let mut names: Vec<&str> = known.keys().map(String::as_str).collect();
                names.sort_unstable();
                let message = format!("unknown field {}; {}", quoted(name), suggestion(name, &names));
                return Err(JobError::new(path, message));
            }
            None => {
                let Some(schema) = schema.get("additionalProperties") else { continue };
                examine(value, schema, rules, &below)?;
            }
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    match required.filter_map(Value::as_str).find(|name| !fields.contains_key(*name)) {
        Some(missing) => Err(JobError::new(path, format!("the field {missing:?} is missing"))),
        None => Ok(()),
    }
}

fn join(path: &str, name: &str) -> String {
    // A client's field name may be as long as the whole job.
    let name: String = name.chars().take(64).collect();
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

fn check_format(value: &Value, schema: &Value, path: &str) -> Result<(), JobError> {
    let format = schema.get("format").and_then(Value::as_str);
    match (format, value) {
        (Some("date-time"), Value::String(text)) if text.parse::<Timestamp>().is_err() => {
            let message = format!("{} is no moment; write it like 2030-12-31T23:59:00Z", quoted(text));
            Err(JobError::new(path, message))
        }
        (Some(JobId::FORMAT), Value::String(text)) if text.is_empty() => Err(JobError::new(path, JobId::EMPTY)),
        (Some(AspectRatio::FORMAT), Value::String(_) | Value::Number(_)) => match value.as_str() {
            Some(text) => text.parse::<AspectRatio>().map(|_| ()),
            None => value.to_string().parse::<AspectRatio>().map(|_| ()),
        },
        (Some(PixelBudget::FORMAT), Value::String(text)) => {
            text.parse::<PixelBudget>().map(|_| ()).map_err(|fault| JobError::new(path, fault.message))
        }
        _ => Ok(()),
    }
}

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { return schema };
    reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

/// The alternatives of a schema, including nested ones.
fn alternatives<'a>(schema: &'a Value, root: &'a Value) -> Vec<&'a Value> {
    let listed = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
    let mut all = Vec::new();
    for schema in listed.into_iter().flatten() {
        let schema = resolve(schema, root);
        let deeper = alternatives(schema, root);
        if deeper.is_empty() { all.push(schema) } else { all.extend(deeper) }
    }
    all
}

fn type_fits(value: &Value, schema: &Value) -> bool {
    let constants = constants(schema);
    if !constants.is_empty() && !value.is_null() {
        return value.as_str().is_some_and(|text| constants.contains(&text));
    }
    let types = types(schema);
    types.is_empty() || types.iter().any(|name| is_of_type(value, name, schema))
}

fn is_of_type(value: &Value, name: &str, schema: &Value) -> bool {
    match (name, value) {
        ("integer", Value::Number(_)) => {
            let most = match schema.get("format").and_then(Value::as_str) {
                Some("uint8") => u64::from(u8::MAX),
                Some("uint32") => u64::from(u32::MAX),
                _ => u64::MAX,
            };
            value.as_u64().is_some_and(|number| number <= most)
        }
        ("number", Value::Number(_))
        | ("string", Value::String(_))
        | ("array", Value::Array(_))
        | ("object", Value::Object(_))
        | ("boolean", Value::Bool(_))
        | ("null", Value::Null) => true,
        _ => false,
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn constants(schema: &Value) -> Vec<&str> {
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    listed.chain(schema.get("const")).filter_map(Value::as_str).collect()
}

fn describe(schemas: &[&Value]) -> String {
    let mut words: Vec<&str> = Vec::new();
    for name in schemas.iter().flat_map(|schema| types(schema)) {
        let word = match name {
            "integer" => "a whole number, 0 or more",
            "number" => "a number",
            "string" => "a string",
            "array" => "a list",
            "object" => "an object",
            "boolean" => "true or false",
            _ => continue,
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" or ")
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the string {}", quoted(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The nearest known name if it is similar, otherwise all of them.
fn suggestion(name: &str, known: &[&str]) -> String {
    let short: String = name.to_lowercase().chars().take(64).collect();
    let distance = |known: &str| strsim::damerau_levenshtein(&short, &known.to_lowercase());
    let nearest = known.iter().map(|known| (distance(known), *known)).min();
    match nearest {
        Some((distance, nearest)) if distance <= 1 + nearest.len() / 4 => format!("did you mean {nearest:?}?"),
        _ => format!("known are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests;
