//! What is no picture, or none that is read, is named by its content.

use super::*;

/// A file of the ISO base media kind, with a main brand and one more.
fn media(brand: &[u8; 4], other: &[u8; 4]) -> Vec<u8> {
    [b"\0\0\0\x18ftyp", &brand[..], &[0; 4], other, b"isom", &[0; 64]].concat()
}

#[test]
fn what_is_no_picture_is_refused() {
    assert_eq!(error_of(b""), "image file is empty");
    let no_image = "file is not an image; give a PNG, JPEG, WebP, GIF, BMP or TIFF picture";
    assert_eq!(error_of(&[0; 5_000]), no_image);
    assert_eq!(error_of(b"\xC3\x28\xA0\xA1 not text"), no_image);
    assert!(error_of(b"\x89PNG\r\n\x1a\n").contains("cut off"));
    assert!(error_of(b"GIF89a\x01\0\x01\0").contains("cut off"));
    assert!(error_of(b"\xff\xd8\xff\xd9").contains("jpeg file is damaged"));
    let empty = png_of(&[(b"IHDR", &header(0, 5, 8, 2)), (b"IDAT", &zlib(&[])), (b"IEND", &[])]);
    assert_eq!(error_of(&empty), "image is 0 x 5; it needs at least one pixel");
}

#[test]
fn pictures_of_other_formats_are_named_with_the_remedy() {
    let heic = std::fs::read(format!("{PICTURES}/IMG_0001.HEIC")).unwrap();
    assert_eq!(error_of(&heic), "HEIC pictures are not supported; convert it to JPEG or PNG");
    let raw = |entries: &[u8]| [b"II*\0\x08\0\0\0", entries, &[0; 40]].concat();
    let files: [(&[u8], &str); 17] = [
        (&media(b"mif1", b"heic"), "HEIC"),
        (&media(b"mif1", b"miaf"), "HEIF"),
        (&media(b"avif", b"mif1"), "AVIF"),
        (&media(b"mif1", b"avif"), "AVIF"),
        (&media(b"crx ", b"crx "), "camera raw"),
        (b"8BPS\0\x01\0\0\0\0\0\0", "Photoshop (PSD)"),
        (b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0", "icon (ICO)"),
        (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xFF\x0A\x00\x00", "JPEG XL"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xEF\xBB\xBF<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>", "SVG"),
        (b"P6\n1 1\n255\nabc", "PNM"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw"),
        (b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0\0\0", "camera raw"),
        // DNG by its version; others by a preview before the picture.
        (&raw(b"\x01\0\x12\xC6\x01\0\x04\0\0\0\x01\x04\0\0"), "camera raw"),
        (&raw(b"\x02\0\xFE\0\x04\0\x01\0\0\0\x01\0\0\0\x4A\x01\x04\0\x01\0\0\0\x20\0\0\0"), "camera raw"),
        (b"qoif\0\0\0\x01\0\0\0\x01", "QOI"),
    ];
    for (bytes, name) in files {
        assert_eq!(error_of(bytes), format!("{name} pictures are not supported; convert it to JPEG or PNG"));
    }
}

#[test]
fn documents_and_videos_are_named() {
    let tar = [&[b'a'; 257][..], b"ustar", &[0; 100]].concat();
    let files: [(&[u8], &str); 9] = [
        (b"%PDF-1.7\n%\xE2\xE3\xCF\xD3", "a PDF document"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"\x1F\x8B\x08\0", "compressed with gzip"),
        (&media(b"isom", b"mp42"), "a video"),
        (&media(b"qt  ", b"qt  "), "a video"),
        (b"\x1A\x45\xDF\xA3\x9F", "a video"),
        (b"RIFF\x10\0\0\0AVI LIST", "a video"),
        (&tar, "a tar archive"),
        (b"BMW is a text that begins like a bitmap. \xC3", "text"),
    ];
    for (bytes, found) in files {
        assert_eq!(error_of(bytes), format!("file is {found}, not a picture; give a JPEG or PNG picture"));
    }
}

#[test]
fn a_page_in_place_of_a_picture_is_named() {
    let files: [(&[u8], &str); 8] = [
        (b"<html>not here</html>", "a web page (HTML)"),
        (b"\r\n  <!DOCTYPE html>\n<title>Log in</title>", "a web page (HTML)"),
        (b"\xEF\xBB\xBF<!-- cached --><HTML lang=en><svg/>", "a web page (HTML)"),
        (b"<?xml version=\"1.0\"?><html xmlns='http://www.w3.org/1999/xhtml'/>", "a web page (HTML)"),
        (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (b"<Error><Code>NoSuchKey</Code></Error>", "an XML document"),
        (b"{\"error\": \"not found\"}", "a JSON document"),
        (b"[ {\"a\":1} ]", "a JSON document"),
    ];
    for (bytes, found) in files {
        let expected = format!(
            "file is {found}, not a picture; give an address that answers with the picture itself, not with a page"
        );
        assert_eq!(error_of(bytes), expected);
    }
}
