//! Pictures of a job: its results, its previews, and its subject.

use axum::{
    extract::{Path, Query, State},
    response::{IntoResponse, Redirect, Response},
};
use bytes::Bytes;
use echogen_ports::{ObjectKey, clamped_seconds};
use echogen_protocol::{ContentHash, ImageLocation, layout, limits};
use http::{HeaderName, HeaderValue, header};
use schemars::JsonSchema;
use serde::Deserialize;

use super::view::content_type;
use crate::{Gateway, authentication::Caller, problem::Problem};

/// Bytes of a result's picture: one of the largest size without any compression.
const MAX_PICTURE_BYTES: u64 = 64 * 1024 * 1024;

/// How a picture is asked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ImageQuery {
    /// `false` for the bytes themselves, never an address in the store.
    redirect: Option<bool>,
}

/// Which preview is asked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PreviewQuery {
    /// The scale after which it was made; absent: the newest.
    scale: Option<u32>,
}

/// `GET /v1/jobs/{id}/images/{n}`: 307 to an address in the store that is valid for a few minutes, or the bytes.
pub(crate) async fn image(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((id, index)): Path<(String, usize)>,
    Query(query): Query<ImageQuery>,
) -> Result<Response, Problem> {
    let record = gateway.record(&caller, &id).await?;
    let missing = || Problem::not_found("the job has no such picture, or not yet");
    let result = gateway.result(&record).await?.ok_or_else(missing)?;
    let image = result.images.get(index).ok_or_else(missing)?;
    let key = ObjectKey::new(image.key.clone()).map_err(echogen_ports::Fault::from)?;
    let valid = clamped_seconds(gateway.config.address_seconds);
    if query.redirect != Some(false)
        && !valid.is_zero()
        && let Some(address) = gateway.ports.results.presign_get(&key, valid).await?
    {
        let mut response = Redirect::temporary(&address).into_response();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(response);
    }
    let bytes = gateway.ports.results.get(&key, MAX_PICTURE_BYTES).await?.ok_or_else(missing)?;
    Ok(picture(bytes, content_type(record.request.output.format), "private, max-age=3600"))
}

/// `GET /v1/jobs/{id}/previews/{n}`
pub(crate) async fn preview(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path((id, index)): Path<(String, usize)>,
    Query(query): Query<PreviewQuery>,
) -> Result<Response, Problem> {
    let record = gateway.record(&caller, &id).await?;
    let scale = query.scale.map_or_else(String::new, |scale| format!("/{scale}"));
    let key = format!("previews/{}/{index}{scale}", record.id);
    let found = gateway.ports.cache.get(&key).await;
    // The cache is a courtesy: one that is away has no previews.
    let found = found.inspect_err(|error| tracing::debug!(%error, "preview not read")).unwrap_or_default();
    let bytes = found.ok_or_else(|| Problem::not_found("there is no such preview, or not any more"))?;
    let caching = if query.scale.is_some() { "private, max-age=600" } else { "no-store" };
    Ok(picture(bytes, "image/jpeg", caching))
}

/// `GET /v1/jobs/{id}/subject`: the subject's picture, as soon as it is stored.
pub(crate) async fn subject(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let record = gateway.record(&caller, &id).await?;
    let missing = || Problem::not_found("the subject's picture is not stored, or not yet");
    let hash = match record.request.subject.image.location() {
        Ok(ImageLocation::Stored(hash)) => Some(hash),
        _ => gateway.result(&record).await?.and_then(|result| result.subject).map(|found| found.image),
    };
    let bytes = gateway.stored_picture(hash.ok_or_else(missing)?).await?.ok_or_else(missing)?;
    let media_type = echogen_imaging::media_type(&bytes).unwrap_or("application/octet-stream");
    Ok(picture(bytes, media_type, "private, max-age=3600"))
}

impl Gateway {
    async fn stored_picture(&self, hash: ContentHash) -> Result<Option<Bytes>, Problem> {
        let key = ObjectKey::of_content(layout::IMAGES, &hash).map_err(echogen_ports::Fault::from)?;
        Ok(self.ports.work.get(&key, limits::MAX_IMAGE_BYTES).await?)
    }
}

/// A picture as it is sent: never as anything that a browser would run.
fn picture(bytes: Bytes, media_type: &'static str, caching: &'static str) -> Response {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, caching),
        (header::CONTENT_DISPOSITION, "inline"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
    ];
    (headers, bytes).into_response()
}
