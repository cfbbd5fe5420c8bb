//! Where a subject's picture comes from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{ContentHash, JobError, limits, text::quoted};

/// Where an image comes from, as the client wrote it: a file path, or a `data:`, `s3://`, `https://` or `sha256:`
/// address.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ImageSource(#[schemars(length(min = 1, max = limits::MAX_JOB_JSON_BYTES))] pub String);

/// The kinds of image sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageLocation<'a> {
    /// A file, absolute or below the fetcher's folder.
    File(&'a str),
    /// The picture itself: what follows `data:`.
    Data(&'a str),
    /// An object in S3.
    S3(Url),
    /// An `https://` URL.
    Https(Url),
    /// A picture that the object store already holds.
    Stored(ContentHash),
}

impl ImageSource {
    /// The source that names a stored picture.
    pub fn stored(image: ContentHash) -> Self {
        Self(format!("sha256:{image}"))
    }

    /// Whether the text contains the picture itself.
    pub fn is_inline(&self) -> bool {
        scheme(&self.0).as_deref() == Some("data")
    }

    /// Parses the kind of source. Whether the picture exists is known only to a fetcher.
    pub fn location(&self) -> Result<ImageLocation<'_>, JobError> {
        let text = self.0.as_str();
        let fault = |message: String| Err(JobError::new("subject.image", message));
        if text.trim().is_empty() {
            return fault("is empty; give a file, or a data:, s3:// or https:// address".to_owned());
        }
        let scheme = scheme(text);
        let scheme = scheme.as_deref();
        if scheme == Some("data") {
            return Ok(ImageLocation::Data(text.get(5..).unwrap_or_default()));
        }
        if text.chars().count() > limits::MAX_ADDRESS_CHARS {
            let limit = limits::MAX_ADDRESS_CHARS;
            return fault(format!("has {} characters; the limit is {limit}", text.chars().count()));
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return fault(format!("{} contains the control character {control:?}; remove it", quoted(text)));
        }
        match scheme {
            Some("s3") => Ok(ImageLocation::S3(address(text)?)),
            Some("https") => Ok(ImageLocation::Https(address(text)?)),
            Some("sha256") => stored(text),
            Some("http") => fault(format!("{} is not encrypted; use https://", quoted(text))),
            Some(other) => fault(format!("{other}: is not supported; use a file, data:, s3:// or https://")),
            None => Ok(ImageLocation::File(text)),
        }
    }
}

/// The part before the colon, in lower case. A single letter is a Windows drive, and a name with a `/`, `.` or space
/// before the colon is a file.
fn scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once(':')?;
    let plausible = (2..=16).contains(&scheme.len()) && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+');
    plausible.then(|| scheme.to_ascii_lowercase())
}

fn address(text: &str) -> Result<Url, JobError> {
    let fault = |why: &str| JobError::new("subject.image", format!("{} is no address: {why}", quoted(text)));
    let url = Url::parse(text).map_err(|error| fault(&error.to_string()))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(fault("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not quoted: the message is logged, and the password must not be.
        return Err(JobError::new("subject.image", "the address carries a user name or password; take it out"));
    }
    Ok(url)
}

fn stored(text: &str) -> Result<ImageLocation<'_>, JobError> {
    let hash = text.get(7..).unwrap_or_default().parse();
    hash.map(ImageLocation::Stored).map_err(|error| JobError::new("subject.image", format!("{error}")))
}

impl std::fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The megabytes of an inline picture are not logged.
        f.write_str(&quoted(&self.0))
    }
}

impl std::fmt::Display for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&quoted(&self.0))
    }
}

impl From<&str> for ImageSource {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(text: &str) -> Result<String, String> {
        let source = ImageSource::from(text);
        source.location().map(|location| format!("{location:?}")).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_is_told_apart() {
        assert_eq!(location("pictures/dog.png").unwrap(), "File(\"pictures/dog.png\")");
        assert_eq!(location("C:\\dog.png").unwrap(), "File(\"C:\\\\dog.png\")");
        assert_eq!(location("a.b: c.png").unwrap(), "File(\"a.b: c.png\")");
        assert_eq!(location("data:,x").unwrap(), "Data(\",x\")");
        assert!(location("s3://bucket/dog.png").unwrap().starts_with("S3"));
        assert!(location("https://example.org/dog.png").unwrap().starts_with("Https"));
        let hash = ContentHash::of(b"dog");
        assert_eq!(ImageSource::stored(hash).location().unwrap(), ImageLocation::Stored(hash));
    }

    #[test]
    fn bad_sources_say_what_to_change() {
        assert!(location("").unwrap_err().contains("is empty"));
        assert!(location("http://example.org/dog.png").unwrap_err().contains("use https://"));
        assert!(location("ftp://example.org/dog.png").unwrap_err().contains("ftp: is not supported"));
        let error = location("https://me:secret@example.org/").unwrap_err();
        assert!(error.contains("take it out") && !error.contains("secret"), "{error}");
        assert!(location("dog\0.png").unwrap_err().contains("control character"));
        assert!(location("sha256:12").unwrap_err().contains("64 hexadecimal digits"));
        assert!(location(&"x".repeat(5_000)).unwrap_err().contains("the limit is 4096"));
    }

    #[test]
    fn a_picture_in_the_text_is_not_shown_whole() {
        let source = ImageSource(format!("data:image/png;base64,{}", "A".repeat(1_000_000)));
        assert!(source.is_inline());
        assert!(format!("{source:?} {source}").len() < 300);
    }
}
