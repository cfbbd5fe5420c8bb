//! Pictures from files and `data:` addresses.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Component, Path, PathBuf},
};

use async_trait::async_trait;
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use echogen_ports::{Fault, ImageFetcher, spawn_blocking};
use echogen_protocol::{ImageLocation, ImageSource};

/// Base64 with or without its padding, as clients send it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Fetches files, relative paths from a base folder, and pictures that stand in the job itself.
#[derive(Clone, Debug)]
pub struct FileImageFetcher {
    base: PathBuf,
    reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reach {
    Anywhere,
    BelowBase,
}

impl FileImageFetcher {
    /// For jobs of the person at this machine: relative paths begin at `base`, absolute ones are taken as they are.
    pub fn anywhere(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into(), reach: Reach::Anywhere }
    }

    /// For jobs of others: nothing outside `base` is read, neither by an absolute path, nor by `..`, nor by a link.
    pub fn below(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into(), reach: Reach::BelowBase }
    }

    fn path(&self, name: &str) -> Result<PathBuf, Fault> {
        let path = Path::new(name);
        let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if self.reach == Reach::BelowBase && !plain {
            return Err(outside(name));
        }
        Ok(self.base.join(path))
    }
}

#[async_trait]
impl ImageFetcher for FileImageFetcher {
    async fn fetch(&self, source: &ImageSource, max_bytes: u64) -> Result<Bytes, Fault> {
        let location = source.location().map_err(|error| Fault::bad_image(error.to_string()))?;
        let missing = |scheme: &str| {
            let message = format!("{scheme} is not configured here; hand in a file or a data: address");
            Err(Fault::bad_image(message))
        };
        match location {
            ImageLocation::Data(data) => decode_data(data, max_bytes),
            ImageLocation::S3(_) => missing("s3://"),
            ImageLocation::Https(_) => missing("https://"),
            ImageLocation::Stored(_) => Err(Fault::bad_image("a sha256: picture is in the object store, not a file")),
            ImageLocation::File(name) => {
                let path = self.path(name)?;
                let base = (self.reach == Reach::BelowBase).then(|| self.base.clone());
                spawn_blocking(move || read(&path, base.as_deref(), max_bytes)).await?
            }
        }
    }
}

fn outside(name: &str) -> Fault {
    Fault::bad_image(format!("the picture {name:?} is outside the folder that pictures are taken from"))
}

fn read(path: &Path, base: Option<&Path>, max_bytes: u64) -> Result<Bytes, Fault> {
    let failed = |error| read_error(path, error);
    // Checked before it is opened: opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(Fault::bad_image(format!("{} is not a file; name a picture", path.display())));
    }
    if let Some(base) = base {
        let (base, path) = (base.canonicalize().map_err(failed)?, path.canonicalize().map_err(failed)?);
        if !path.starts_with(base) {
            return Err(outside(&path.to_string_lossy()));
        }
    }
    if metadata.len() > max_bytes {
        return Err(too_large(&path.display().to_string(), metadata.len(), max_bytes));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    let file = File::open(path).map_err(failed)?;
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large(&path.display().to_string(), bytes.len() as u64, max_bytes));
    }
    Ok(bytes.into())
}

fn too_large(what: &str, size: u64, max_bytes: u64) -> Fault {
    Fault::bad_image(format!("{what} has {size} bytes; the limit is {max_bytes}, use a smaller picture"))
}

fn read_error(path: &Path, error: io::Error) -> Fault {
    let shown = path.display();
    let error_kind = error.kind();
    let made = match error_kind {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            Fault::bad_image(format!("there is no file {shown}; check the path"))
        }
        ErrorKind::PermissionDenied => {
            Fault::bad_image(format!("the file {shown} may not be read; change its permissions"))
        }
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename => {
            Fault::bad_image(format!("{shown} cannot be the name of a file"))
        }
        _ => Fault::unavailable(format!("cannot read {shown}: {error}")),
    };
    made.because(error)
}

/// Decodes what follows `data:`, such as `image/png;base64,iVBO...`.
pub(crate) fn decode_data(data: &str, max_bytes: u64) -> Result<Bytes, Fault> {
    let Some((head, body)) = data.split_once(',') else {
        return Err(Fault::bad_image("the data: address has no comma; write data:image/png;base64,..."));
    };
    if !head.split(';').skip(1).any(|word| word.trim().eq_ignore_ascii_case("base64")) {
        return Err(Fault::bad_image("the data: address is not base64; write data:image/png;base64,..."));
    }
    // Four characters hold three bytes; checked before anything is allocated.
    let most = body.len() as u64 / 4 * 3;
    if most > max_bytes.saturating_add(2) {
        return Err(too_large("the picture in the data: address", most, max_bytes));
    }
    let bytes = BASE64.decode(body).map_err(|error| {
        Fault::bad_image(format!("the data: address is not valid base64: {}", error.to_string().to_lowercase()))
            .because(error)
    })?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large("the picture in the data: address", bytes.len() as u64, max_bytes));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("pictures")).unwrap();
        fs::write(folder.path().join("pictures/dog.png"), "12345").unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        folder
    }

    async fn fetch(fetcher: &FileImageFetcher, source: &str) -> Result<Bytes, String> {
        let fetched = fetcher.fetch(&source.into(), 5).await;
        fetched.map_err(|error| {
            assert!(error.is_permanent(), "{error}");
            error.to_string()
        })
    }

    #[tokio::test]
    async fn files_are_read_relative_to_the_base_or_absolute() {
        let folder = folder();
        let fetcher = FileImageFetcher::anywhere(folder.path().join("pictures"));
        assert_eq!(fetch(&fetcher, "dog.png").await.unwrap(), "12345");
        assert_eq!(fetch(&fetcher, "../pictures/dog.png").await.unwrap(), "12345");
        let absolute = folder.path().join("pictures/dog.png");
        assert_eq!(fetch(&fetcher, &absolute.to_string_lossy()).await.unwrap(), "12345");
    }

    #[tokio::test]
    async fn nothing_outside_a_closed_base_is_read() {
        let folder = folder();
        let fetcher = FileImageFetcher::below(folder.path().join("pictures"));
        assert_eq!(fetch(&fetcher, "./dog.png").await.unwrap(), "12345");
        let absolute = folder.path().join("pictures/dog.png");
        for path in ["../secret", "x/../../secret", &absolute.to_string_lossy()] {
            assert!(fetch(&fetcher, path).await.unwrap_err().contains("outside the folder"), "{path}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../secret", folder.path().join("pictures/link")).unwrap();
            assert!(fetch(&fetcher, "link").await.unwrap_err().contains("outside the folder"));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_says_what_to_change() {
        let folder = folder();
        let fetcher = FileImageFetcher::anywhere(folder.path());
        assert!(fetch(&fetcher, "cat.png").await.unwrap_err().contains("cat.png; check the path"));
        assert!(fetch(&fetcher, "secret/dog.png").await.unwrap_err().contains("check the path"));
        assert!(fetch(&fetcher, "pictures").await.unwrap_err().contains("is not a file"));
        assert!(fetch(&fetcher, "secret").await.unwrap_err().contains("has 6 bytes; the limit is 5"));
        assert!(fetch(&fetcher, "s3://bucket/dog.png").await.unwrap_err().contains("s3:// is not configured here"));
        assert!(fetch(&fetcher, "https://example.org/x").await.unwrap_err().contains("https:// is not configured"));
        assert!(fetch(&fetcher, &"x".repeat(300)).await.is_err());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_device_that_never_ends_is_not_a_file() {
        let fetcher = FileImageFetcher::anywhere("/");
        assert!(fetch(&fetcher, "/dev/zero").await.unwrap_err().contains("is not a file"));
    }

    #[tokio::test]
    async fn pictures_in_the_address_are_decoded_within_the_limit() {
        let fetcher = FileImageFetcher::anywhere(".");
        assert_eq!(fetch(&fetcher, "data:image/png;base64,MTIzNDU=").await.unwrap(), "12345");
        assert_eq!(fetch(&fetcher, "data:image/png;base64,MTIzNDU").await.unwrap(), "12345");
        assert_eq!(fetch(&fetcher, "data:;BASE64,").await.unwrap(), "");
        assert!(fetch(&fetcher, "data:;base64,MTIzNDU2").await.unwrap_err().contains("has 6 bytes; the limit is 5"));
        let huge = format!("data:;base64,{}", "A".repeat(1_000_000));
        assert!(fetch(&fetcher, &huge).await.unwrap_err().contains("has 750000 bytes; the limit is 5"));
        let huge_and_wrong = format!("data:;base64,{}", "?".repeat(1_000_000));
        let error = fetch(&fetcher, &huge_and_wrong).await.unwrap_err();
        assert!(error.contains("the limit is 5"), "the size is checked first: {error}");
        for bad in ["data:image/png;base64", "data:image/png,abc", "data:;base64,?", "data:,x"] {
            assert!(fetch(&fetcher, bad).await.is_err(), "{bad}");
        }
    }
}
