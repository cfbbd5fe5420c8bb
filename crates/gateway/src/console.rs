//! The console: a page, a stylesheet and modules, within the program.

use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::{HeaderValue, header};

use crate::{Gateway, problem::Problem};

/// What the page may do: load its own files and call its own API, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
                      form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// A file of the console.
struct File {
    name: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($name:literal: $media_type:literal),+ $(,)?) => {
        &[$(File { name: $name, media_type: $media_type, bytes: include_bytes!(concat!("../console/", $name)) }),+]
    };
}

const FILES: &[File] = files! {
    "api.js": "text/javascript",
    "batches.js": "text/javascript",
    "console.css": "text/css",
    "dead_letters.js": "text/javascript",
    "dom.js": "text/javascript",
    "index.html": "text/html; charset=utf-8",
    "job.js": "text/javascript",
    "jobs.js": "text/javascript",
    "main.js": "text/javascript",
    "operators.js": "text/javascript",
    "playground.js": "text/javascript",
    "progress.js": "text/javascript",
    "rows.js": "text/javascript",
    "snippets.js": "text/javascript",
    "usage.js": "text/javascript",
};

/// The routes of the console.
pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/console/") }))
        .route("/console/", get(|| async { file("index.html") }))
        .route("/console/{name}", get(|Path(name): Path<String>| async move { file(&name) }))
}

fn file(name: &str) -> Response {
    let Some(file) = FILES.iter().find(|file| file.name == name) else {
        return Problem::not_found("the console has no such file").into_response();
    };
    let mut response = file.bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.media_type));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
