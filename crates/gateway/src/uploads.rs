//! Subjects' pictures that clients hand in: whole, or in two steps by an address in the store.
//!
//! | key in the result store | contains |
//! |---|---|
//! | `echogen-gateway/pictures/TENANT/HASH` | nothing: that the tenant has handed in this picture |
//! | `echogen-gateway/uploads/TENANT/ID/upload.json` | what an upload is to bring |
//! | `echogen-gateway/uploads/TENANT/ID/picture` | what it brought, until it is completed |
//!
//! A picture itself is an object of the work store, named by its content, which all tenants share. So that nobody learns by its
//! hash whether another tenant has a picture, a tenant can name only those that it has handed in itself.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use echogen_imaging::{ImageLimits, decoding_bytes, media_type};
use echogen_ports::{Fault, ObjectKey, ObjectStore, PresignedPut};
use echogen_protocol::{
    ContentHash, ImageSource,
    json::{self, Bounds},
    layout,
};
use echogen_worker::CachedObjects;
use http::StatusCode;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

use crate::{
    Gateway,
    authentication::Caller,
    body,
    jobs::FOLDER,
    problem::{Kind, Problem},
};

/// The time in which a picture must be uploaded.
const VALID: Duration = Duration::from_secs(15 * 60);

/// The time for which the process remembers that it has stored a picture. One that is removed meanwhile is not stored again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Bytes of a description of an upload.
const MAX_DESCRIPTION_BYTES: u64 = 4 * 1024;

/// A picture that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct StoredPicture {
    /// How jobs name it, as `subject.image`: `sha256:` and its hash.
    pub image: ImageSource,
    /// Its bytes.
    pub bytes: u64,
    /// Its media type, by its content.
    pub content_type: String,
}

/// A picture that is to be uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[serde(deny_unknown_fields)]
pub(crate) struct UploadRequest {
    /// Its bytes.
    #[schemars(range(min = 1))]
    pub bytes: u64,
    /// SHA-256 of it, as 64 hexadecimal digits.
    #[schemars(with = "String", regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: ContentHash,
    /// Its media type.
    #[schemars(regex(pattern = r"^image/[a-z0-9.+-]{1,50}$"))]
    pub content_type: String,
}

/// Where and how a picture is to be uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Upload {
    /// The upload's id.
    pub id: String,
    /// Where the bytes are sent by `PUT`.
    pub url: String,
    /// Headers that belong to the request.
    pub headers: BTreeMap<String, String>,
    /// Until when.
    pub expires: Timestamp,
}

/// The pictures of all tenants.
#[derive(Clone, Debug)]
pub(crate) struct Pictures {
    results: Arc<dyn ObjectStore>,
    objects: CachedObjects,
    limits: ImageLimits,
    /// Pictures that were stored here just now, by their tenants' keys.
    kept: moka::sync::Cache<String, ()>,
}

impl Pictures {
    pub(crate) fn new(results: Arc<dyn ObjectStore>, objects: CachedObjects, max_bytes: u64) -> Self {
        let kept = moka::sync::Cache::builder().max_capacity(10_000).time_to_live(REMEMBERED).build();
        Self { results, objects, limits: ImageLimits { max_bytes, ..ImageLimits::default() }, kept }
    }

    /// Stores a picture as the caller's own.
    pub(crate) async fn keep(&self, caller: &Caller, bytes: Bytes) -> Result<ContentHash, Problem> {
        // Only its structure is looked at, and its size: the stages decode it.
        decoding_bytes(&bytes, &self.limits).map_err(|error| Problem::field("", error.to_string()))?;
        let hash = ContentHash::of(&bytes);
        let (own, key) = (own_key(caller, hash)?, ObjectKey::of_content(layout::IMAGES, &hash).map_err(Fault::from)?);
        // Clients send the same picture with many jobs.
        if self.kept.contains_key(own.as_str()) {
            return Ok(hash);
        }
        let (stored, owned) =
            tokio::join!(self.objects.put_if_absent(&key, bytes), self.results.put(&own, Bytes::from_static(b"{}")));
        stored?;
        owned?;
        self.kept.insert(own.as_str().to_owned(), ());
        Ok(hash)
    }

    /// Whether the caller's tenant has handed in this picture.
    pub(crate) async fn is_own(&self, caller: &Caller, hash: ContentHash) -> Result<bool, Problem> {
        let own = own_key(caller, hash)?;
        Ok(self.kept.contains_key(own.as_str()) || self.results.exists(&own).await?)
    }
}

fn own_key(caller: &Caller, hash: ContentHash) -> Result<ObjectKey, Fault> {
    Ok(ObjectKey::new(format!("{FOLDER}/pictures/{}/{hash}", caller.tenant))?)
}

/// `POST /v1/images`: the bytes of a picture.
pub(crate) async fn store_image(
    State(gateway): State<Gateway>,
    caller: Caller,
    body: Body,
) -> Result<Response, Problem> {
    let bytes = body::read(body, gateway.config.max_image_bytes, gateway.config.body_bytes_per_second).await?;
    let stored = gateway.store_picture(&caller, bytes).await?;
    Ok((StatusCode::CREATED, Json(stored)).into_response())
}

/// `POST /v1/uploads`
pub(crate) async fn begin(State(gateway): State<Gateway>, caller: Caller, body: Body) -> Result<Response, Problem> {
    let json = body::read(body, MAX_DESCRIPTION_BYTES, gateway.config.body_bytes_per_second).await?;
    let request: UploadRequest = crate::request::parsed(&json)?;
    let most = gateway.config.max_image_bytes;
    if request.bytes == 0 || request.bytes > most {
        return Err(Problem::field("/bytes", format!("must be from 1 to {most}")));
    }
    if !is_media_type(&request.content_type) {
        return Err(Problem::field("/content_type", "must be the media type of a picture, such as image/png"));
    }
    let id = Uuid::now_v7().to_string();
    let description = serde_json::to_vec(&request).unwrap_or_default();
    gateway.ports.results.put(&key(&caller, &id, "upload.json")?, description.into()).await?;
    let picture = key(&caller, &id, "picture")?;
    let UploadRequest { bytes, sha256, content_type } = &request;
    let signed = gateway.ports.results.presign_put(&picture, VALID, *bytes, sha256, content_type).await?;
    let PresignedPut { url, headers } = signed.unwrap_or_else(|| PresignedPut {
        // A store without such addresses: the bytes come through the gateway.
        url: format!("/v1/uploads/{id}"),
        headers: [("content-type".to_owned(), content_type.clone())].into(),
    });
    let expires = gateway.clock.now().checked_add(VALID).unwrap_or(Timestamp::MAX);
    Ok((StatusCode::CREATED, Json(Upload { id, url, headers, expires })).into_response())
}

/// `PUT /v1/uploads/{id}`, where the store cannot be written to by clients.
pub(crate) async fn receive(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Result<StatusCode, Problem> {
    let request = gateway.upload(&caller, &id).await?;
    let bytes = body::read(body, request.bytes, gateway.config.body_bytes_per_second).await?;
    check(&request, &bytes)?;
    gateway.ports.results.put(&key(&caller, &id, "picture")?, bytes).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/uploads/{id}/complete`. What has come is read and compared here, because not every store does.
pub(crate) async fn complete(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<StoredPicture>, Problem> {
    let request = gateway.upload(&caller, &id).await?;
    let (description, picture) = (key(&caller, &id, "upload.json")?, key(&caller, &id, "picture")?);
    let bytes = gateway.ports.results.get(&picture, gateway.config.max_image_bytes).await?;
    let bytes = bytes.ok_or_else(|| Problem::new(Kind::Conflict, "the picture has not come yet; PUT it first"))?;
    check(&request, &bytes)?;
    let stored = gateway.store_picture(&caller, bytes).await?;
    gateway.ports.results.delete(&picture).await?;
    gateway.ports.results.delete(&description).await?;
    Ok(Json(stored))
}

impl Gateway {
    async fn store_picture(&self, caller: &Caller, bytes: Bytes) -> Result<StoredPicture, Problem> {
        let content_type = media_type(&bytes).unwrap_or("application/octet-stream").to_owned();
        let size = bytes.len() as u64;
        let hash = self.pictures.keep(caller, bytes).await?;
        Ok(StoredPicture { image: ImageSource::stored(hash), bytes: size, content_type })
    }

    /// What a caller's upload is to bring.
    async fn upload(&self, caller: &Caller, id: &str) -> Result<UploadRequest, Problem> {
        let missing = || Problem::not_found("there is no such upload; it may be complete");
        // An id that we did not make has no key either.
        let id = id.parse::<Uuid>().map_err(|_| missing())?.to_string();
        let found = self.ports.results.get(&key(caller, &id, "upload.json")?, MAX_DESCRIPTION_BYTES).await?;
        let request = json::read(&found.ok_or_else(missing)?, &Bounds::MESSAGE);
        request.map_err(|error| Fault::internal("an upload's description cannot be read").because(error).into())
    }
}

fn check(request: &UploadRequest, bytes: &Bytes) -> Result<(), Problem> {
    if bytes.len() as u64 == request.bytes && ContentHash::of(bytes) == request.sha256 {
        return Ok(());
    }
    let detail = format!("{} bytes came, or other ones than announced; PUT the picture again", bytes.len());
    Err(Problem::new(Kind::Conflict, detail))
}

fn is_media_type(text: &str) -> bool {
    let name = text.strip_prefix("image/").unwrap_or_default();
    (1..=50).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+-".contains(&byte))
}

fn key(caller: &Caller, id: &str, part: &str) -> Result<ObjectKey, Fault> {
    Ok(ObjectKey::new(format!("{FOLDER}/uploads/{}/{id}/{part}", caller.tenant))?)
}
