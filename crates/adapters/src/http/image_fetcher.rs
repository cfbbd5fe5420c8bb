//! Pictures from the web.
//!
//! A response is bounded in bytes, time and redirects, and all pictures that are held share a memory budget. The target of
//! each redirect is checked like the first address. Deliberately absent: cookies, credentials, and
//! decoding of compressed answers.

mod picture_buffer;

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, ImageFetcher};
use echogen_protocol::{ImageLocation, ImageSource};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use url::Url;

use crate::image_fetchers::of_picture;

use super::{
    HttpConfig,
    client::{WebClient, busy, shown},
};

use picture_buffer::{PictureBuffer, PictureMemory};

/// Fetches pictures by `https://`.
#[derive(Clone)]
pub struct HttpImageFetcher {
    client: WebClient,
    max_redirects: u32,
    memory: PictureMemory,
}

/// The outcome of one request.
enum Step {
    Picture(Bytes),
    Elsewhere(Url),
}

impl HttpImageFetcher {
    /// Makes a fetcher with the system's certificates and those of the settings.
    pub fn new(config: HttpConfig) -> Result<Self, Fault> {
        let client = WebClient::new(config.access("fetch")?, "fetched")?;
        Ok(Self { client, max_redirects: config.max_redirects, memory: PictureMemory::new(config.memory_bytes) })
    }

    /// Fetches `url`, at most `max_bytes`. Waits for a memory permit while other pictures hold the budget; the wait counts
    /// towards the timeout of a picture.
    pub async fn fetch_url(&self, url: &Url, max_bytes: u64) -> Result<Bytes, Fault> {
        let limit = self.client.timeout();
        match tokio::time::timeout(limit, self.follow(url.clone(), max_bytes)).await {
            Ok(fetched) => fetched.map_err(of_picture),
            Err(_) => {
                let limit = limit.as_secs_f64();
                Err(Fault::timed_out(format!("{} did not send the picture in {limit} seconds", shown(url))))
            }
        }
    }

    async fn follow(&self, mut url: Url, max_bytes: u64) -> Result<Bytes, Fault> {
        let limit = self.max_redirects;
        for _ in 0..=limit {
            match self.step(&url, max_bytes).await? {
                Step::Picture(bytes) => return Ok(bytes),
                Step::Elsewhere(next) => url = next,
            }
        }
        Err(Fault::bad_image(format!("{} redirects more than {limit} times; name the picture itself", shown(&url))))
    }

    async fn step(&self, url: &Url, max_bytes: u64) -> Result<Step, Fault> {
        let mut request = Request::new(Full::default());
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("image/*"));
        request.headers_mut().insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("identity"));
        let response = self.client.request(url, request).await?;
        if let Some(next) = redirect(url, &response)? {
            return Ok(Step::Elsewhere(next));
        }
        if response.status() != StatusCode::OK {
            return Err(status_error(url, response.status(), response.headers()));
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| encoding != "identity") {
            return Err(Fault::bad_image(format!("{} is sent compressed; serve it as it is", shown(url))));
        }
        read(url, response.into_body(), max_bytes, &self.memory).await.map(Step::Picture)
    }
}

impl std::fmt::Debug for HttpImageFetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HttpImageFetcher").field(&self.client).finish()
    }
}

#[async_trait]
impl ImageFetcher for HttpImageFetcher {
    async fn fetch(&self, source: &ImageSource, max_bytes: u64) -> Result<Bytes, Fault> {
        match source.location() {
            Ok(ImageLocation::Https(url)) => self.fetch_url(&url, max_bytes).await,
            Ok(_) => Err(Fault::bad_image(format!("{source} is no https:// address"))),
            Err(error) => Err(Fault::bad_image(error.to_string())),
        }
    }
}

fn redirect(url: &Url, response: &Response<Incoming>) -> Result<Option<Url>, Fault> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let fault = || Fault::bad_image(format!("{} redirects to nowhere; name the picture itself", shown(url)));
    let location = response.headers().get(header::LOCATION).ok_or_else(fault)?;
    let location = location.to_str().map_err(|error| fault().because(error))?;
    url.join(location).map(Some).map_err(|error| fault().because(error))
}

async fn read(url: &Url, mut body: Incoming, max_bytes: u64, memory: &PictureMemory) -> Result<Bytes, Fault> {
    // The announced length only; the bytes that arrive are counted as well, and only they take memory.
    let said = body.size_hint();
    if said.lower() > max_bytes {
        return Err(too_large(url, &said.lower().to_string(), max_bytes));
    }
    let mut buffer = PictureBuffer::begin(memory, said.upper().unwrap_or(max_bytes).min(max_bytes)).await;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Fault::unavailable(format!("{} broke off in the middle of the picture", shown(url))).because(error)
        })?;
        let Ok(piece) = frame.into_data() else { continue };
        if (buffer.len() + piece.len()) as u64 > max_bytes {
            return Err(too_large(url, &format!("more than {max_bytes}"), max_bytes));
        }
        buffer.extend(&piece).await;
    }
    Ok(buffer.finish())
}

fn too_large(url: &Url, size: &str, max_bytes: u64) -> Fault {
    Fault::bad_image(format!("{} has {size} bytes; the limit is {max_bytes}, use a smaller picture", shown(url)))
}

fn status_error(url: &Url, status: StatusCode, headers: &HeaderMap) -> Fault {
    if let Some(busy) = busy(url, status, headers) {
        return busy;
    }
    let what = format!("{} answered {status}", shown(url));
    match status.as_u16() {
        404 | 410 => Fault::bad_image(format!("{what}; there is no picture, check the address")),
        401 => Fault::bad_image(format!("{what}; the picture must be readable by everybody who has the address")),
        403 => Fault::bad_image(format!(
            "{what}; the picture must be readable by everybody who has the address, and some servers want a contact in the \
             operator's fetch.user_agent"
        )),
        _ => Fault::bad_image(format!("{what}; name the picture itself")),
    }
}

#[cfg(test)]
mod tests;
