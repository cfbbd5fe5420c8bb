//! Errors of picture processing. All are permanent: the same bytes fail again.

/// A picture that cannot be used. The message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is empty.
    #[error("image file is empty")]
    Empty,
    /// The file is longer than the limit. Checked before decoding.
    #[error("image file has {} bytes; the limit is {}", grouped(*bytes), grouped(*limit))]
    TooManyBytes {
        /// Length of the file in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The first bytes match no known picture format.
    #[error("file is not an image; give a PNG, JPEG, WebP, GIF, BMP or TIFF picture")]
    NotAnImage,
    /// A picture in an unsupported format.
    #[error("{format} pictures are not supported; convert it to JPEG or PNG")]
    UnsupportedFormat {
        /// Name of the format, such as `HEIC`.
        format: &'static str,
    },
    /// Something known that is not a picture.
    #[error("file is {found}, not a picture; give a JPEG or PNG picture")]
    NotAPicture {
        /// What it is, such as `a PDF document`.
        found: &'static str,
    },
    /// A page or document, as a server sends it in place of a picture.
    #[error("file is {found}, not a picture; give an address that answers with the picture itself, not with a page")]
    Page {
        /// What it is, such as `a web page (HTML)`.
        found: &'static str,
    },
    /// A picture of a supported format in an unsupported variant.
    #[error("this flavour of {format} is not supported ({reason}); save it as plain 8-bit RGB")]
    UnsupportedFlavour {
        /// Short name of the format.
        format: &'static str,
        /// The unsupported feature.
        reason: String,
    },
    /// The header announces more pixels than the limit. Nothing was decoded.
    #[error(
        "image is {} x {}; the limit is {} on a side / {} megapixels",
        grouped((*width).into()), grouped((*height).into()), grouped((*max_side).into()), max_pixels / 1_000_000
    )]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Maximum side in pixels.
        max_side: u32,
        /// Maximum number of pixels.
        max_pixels: u64,
    },
    /// The file is truncated.
    #[error("{format} file ends too early, it was probably cut off; send the whole file")]
    Truncated {
        /// Short name of the format.
        format: &'static str,
    },
    /// The file violates its format.
    #[error("{format} file is damaged ({reason}); save it anew")]
    Damaged {
        /// Short name of the format.
        format: &'static str,
        /// The decoder's message, in one line.
        reason: String,
    },
    /// A picture or a requested size without pixels.
    #[error("image is {width} x {height}; it needs at least one pixel")]
    NoPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A box with no area.
    #[error("box from ({left}, {top}) to ({right}, {bottom}) is empty; right must exceed left, and bottom top")]
    EmptyBox {
        /// First column.
        left: u32,
        /// First row.
        top: u32,
        /// One past the last column.
        right: u32,
        /// One past the last row.
        bottom: u32,
    },
    /// A box that is not within the picture.
    #[error("box ends at ({right}, {bottom}), outside the picture of {width} x {height}; keep it inside")]
    BoxOutside {
        /// One past the last column of the box.
        right: u32,
        /// One past the last row of the box.
        bottom: u32,
        /// Width of the picture in pixels.
        width: u32,
        /// Height of the picture in pixels.
        height: u32,
    },
    /// A mask of another size than its picture.
    #[error(
        "mask is of {} x {} pixels, the picture of {} x {}; send the task's job again",
        mask.0, mask.1, picture.0, picture.1
    )]
    MaskSize {
        /// Width and height of the mask.
        mask: (u32, u32),
        /// Width and height of the picture.
        picture: (u32, u32),
    },
    /// The picture cannot be encoded in that format.
    #[error("cannot write {width} x {height} pixels as {format} ({reason}); choose another format or a smaller size")]
    Encode {
        /// Short name of the format.
        format: &'static str,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The encoder's message.
        reason: String,
    },
}

impl ImageError {
    /// Whether a retry is pointless. Always true for a picture.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

/// Formats the number with a comma after every three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 16_384, 1_234_567].map(grouped), ["0", "999", "1,000", "16,384", "1,234,567"]);
    }

    #[test]
    fn messages_are_one_line_and_name_the_limit() {
        let error = ImageError::TooLarge { width: 30_000, height: 30_000, max_side: 16_384, max_pixels: 64_000_000 };
        assert_eq!(error.to_string(), "image is 30,000 x 30,000; the limit is 16,384 on a side / 64 megapixels");
    }
}
