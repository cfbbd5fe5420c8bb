//! The OpenAPI 3.1 document, made of the table of routes.

use std::sync::LazyLock;

use axum::Json;
use http::Method;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    problem::{self, Kind, ProblemDetails},
    route::{Access, AnswerBody, RequestBody, Route},
    routes::{self, EventSchemas},
};

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// The problems that every route with a key can answer with.
const GENERAL: &[Kind] = &[Kind::Unauthorized, Kind::Forbidden, Kind::RateLimited, Kind::Internal, Kind::Unavailable];

/// `GET /v1/openapi.json`
pub(crate) async fn show() -> Json<&'static Value> {
    Json(openapi())
}

/// The document.
pub fn openapi() -> &'static Value {
    &DOCUMENT
}

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes::table() {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method.as_str().to_ascii_lowercase()] = operation(&route, &mut generator);
    }
    let problem = generator.subschema_for::<ProblemDetails>();
    generator.subschema_for::<EventSchemas>();
    let responses: Map<String, Value> =
        Kind::ALL.iter().map(|kind| (kind.as_str().to_owned(), response(*kind, &problem))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "EchoGen",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Subject-driven image generation: send a picture of a subject and a sentence, receive pictures of that \
                            subject in that scene.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "responses": responses,
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "A key, `eg_...`." },
                "session": { "type": "apiKey", "in": "cookie", "name": crate::session::COOKIE },
            },
        },
    })
}

fn response(kind: Kind, problem: &schemars::Schema) -> Value {
    let mut response =
        json!({ "description": kind.title(), "content": { (problem::MEDIA_TYPE): { "schema": problem } } });
    let header = |about: &str, schema: Value| json!({ "description": about, "schema": schema });
    match kind {
        Kind::RateLimited | Kind::QuotaExceeded | Kind::Unavailable => {
            let about = "Seconds after which a request makes sense.";
            response["headers"] = json!({ "Retry-After": header(about, json!({ "type": "integer", "minimum": 1 })) });
        }
        Kind::Unauthorized => {
            let about = "How a key is sent.";
            response["headers"] = json!({ "WWW-Authenticate": header(about, json!({ "const": "Bearer" })) });
        }
        _ => {}
    }
    response
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.about,
        "parameters": parameters(route, generator),
        "responses": responses(route, generator),
        "security": match route.access {
            Access::Open => json!([]),
            _ => json!([{ "key": [] }, { "session": [] }]),
        },
    });
    match route.request {
        RequestBody::None => {}
        RequestBody::Json(schema) => {
            let schema = schema(generator);
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        }
        RequestBody::Raw(media_types) => {
            let content: Map<String, Value> = media_types.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
    }
    operation
}

fn parameters(route: &Route, generator: &mut SchemaGenerator) -> Vec<Value> {
    let mut parameters: Vec<Value> = route
        .parameters()
        .map(|name| {
            let schema =
                if name == "n" { json!({ "type": "integer", "minimum": 0 }) } else { json!({ "type": "string" }) };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    if let Some(query) = route.query {
        let schema = query(generator).to_value();
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let is_required = required.contains(&name.as_str());
            parameters
                .push(json!({ "name": name, "in": "query", "required": is_required, "schema": without_null(schema) }));
        }
    }
    let headers = route.headers.iter();
    parameters.extend(headers.map(|(name, about)| {
        json!({ "name": name, "in": "header", "required": false, "description": about, "schema": { "type": "string" } })
    }));
    parameters
}

/// A parameter that may be absent is never null.
fn without_null(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(Value::Array(types)) = schema.get("type").cloned() {
        let types: Vec<Value> = types.into_iter().filter(|name| name != "null").collect();
        schema["type"] = if let [one] = &types[..] { one.clone() } else { Value::Array(types) };
    }
    if let Some(Value::Array(any)) = schema.get("anyOf").cloned() {
        let any: Vec<Value> = any.into_iter().filter(|schema| schema["type"] != "null").collect();
        if let [one] = &any[..] {
            return one.clone();
        }
    }
    if let Value::Object(fields) = &mut schema {
        fields.remove("default");
    }
    schema
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut responses = Map::new();
    for answer in &route.answers {
        let mut response = json!({ "description": answer.about });
        match answer.body {
            AnswerBody::None => {}
            AnswerBody::Json(schema) => {
                response["content"] = json!({ "application/json": { "schema": schema(generator) } });
            }
            AnswerBody::Other(media_type) => response["content"] = json!({ (media_type): {} }),
        }
        responses.insert(answer.status.to_string(), response);
    }
    let general = if route.access == Access::Open { &[Kind::Internal][..] } else { GENERAL };
    // Kinds of one status have one form; the first one describes it.
    for kind in route.problems.iter().chain(general) {
        let status = kind.status().as_u16().to_string();
        let reference = json!({ "$ref": format!("#/components/responses/{}", kind.as_str()) });
        responses.entry(status).or_insert(reference);
    }
    responses
}

/// Whether a method changes anything.
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
