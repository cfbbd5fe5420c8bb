//! What can be wrong with a picture. All of it is permanent: the same bytes fail again.

/// A picture that cannot be used, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("image file is empty")]
    Empty,
    /// More bytes than allowed, before decoding.
    #[error("image file has {} bytes; the limit is {}", grouped(*bytes), grouped(*limit))]
    TooManyBytes {
        /// Bytes of the file.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The first bytes are those of no picture format we know.
    #[error("file is not an image; give a png, jpeg or webp picture")]
    NotAnImage,
    /// A picture, but of another format.
    #[error("{format} pictures are not supported; convert it to png, jpeg or webp")]
    UnsupportedFormat {
        /// Short name of the format, such as `gif`.
        format: &'static str,
    },
    /// A picture of a supported format in a flavour that is not.
    #[error("this flavour of {format} is not supported ({reason}); save it as plain 8-bit RGB")]
    UnsupportedFlavour {
        /// Short name of the format.
        format: &'static str,
        /// What is unusual about it.
        reason: String,
    },
    /// The header announces more pixels than allowed; nothing was decoded.
    #[error(
        "image is {} x {}; the limit is {} on a side / {} megapixels",
        grouped((*width).into()), grouped((*height).into()), grouped((*max_side).into()), max_pixels / 1_000_000
    )]
    TooLarge {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Longest side allowed.
        max_side: u32,
        /// Pixels allowed.
        max_pixels: u64,
    },
    /// The file ends before the picture does.
    #[error("{format} file ends too early, it was probably cut off; send the whole file")]
    Truncated {
        /// Short name of the format.
        format: &'static str,
    },
    /// The file contradicts its format.
    #[error("{format} file is damaged ({reason}); save it anew")]
    Damaged {
        /// Short name of the format.
        format: &'static str,
        /// What the decoder says, in one line.
        reason: String,
    },
    /// A picture, or a wanted picture, without pixels.
    #[error("image is {width} x {height}; it needs at least one pixel")]
    NoPixels {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// A box without area.
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
    /// A box that leaves the picture.
    #[error("box ends at ({right}, {bottom}), outside the picture of {width} x {height}; keep it inside")]
    BoxOutside {
        /// One past the last column of the box.
        right: u32,
        /// One past the last row of the box.
        bottom: u32,
        /// Pixels across the picture.
        width: u32,
        /// Pixels down the picture.
        height: u32,
    },
    /// The picture cannot be written in that format.
    #[error("cannot write {width} x {height} pixels as {format} ({reason}); choose another format or a smaller size")]
    Encode {
        /// Short name of the format.
        format: &'static str,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// What the encoder says.
        reason: String,
    },
}

impl ImageError {
    /// Whether trying again is pointless; for a picture it always is.
    pub fn is_permanent(&self) -> bool {
        true
    }
}

/// The number with a comma after every three digits.
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
