//! Conversion of a picture's colours to sRGB by the profile that its file contains.
//!
//! A profile is untrusted. What cannot be used (damaged, too long, for inks, for other pictures than this) is ignored: the
//! picture is then read as if it had none. A profile that means sRGB changes nothing, not even by rounding.

use image::DynamicImage;
use moxcms::{
    CicpProfile, CmsError, ColorProfile, DataColorSpace, Layout, ParsingOptions, ProfileClass, TransferCharacteristics,
    TransformExecutor, TransformOptions,
};

use crate::container::Profile;

/// Memory in bytes that a conversion takes besides the profile: curves and tables of interpolation.
pub(crate) const CONVERSION_BYTES: u64 = 4 << 20;

/// Bytes that are kept for each byte of a profile: its tables become numbers of four bytes, twice.
pub(crate) const PROFILE_FACTOR: u64 = 8;

/// Profiles of sRGB by different makers differ by up to so many of 255 levels; within that they mean the same.
const SAME_LEVELS: u8 = 2;

/// Samples that are converted at a time: whole pixels of three and of four channels.
const BLOCK: usize = 12 * 1_024;

/// Values of an 8-bit channel on which a profile is tried: all combinations of nine.
const TRIED: [u8; 9] = [0, 8, 32, 64, 96, 128, 160, 208, 255];

type Conversion<T> = std::sync::Arc<dyn TransformExecutor<T> + Send + Sync>;

/// Converts the colours to sRGB; returns the picture as it is if the profile cannot be used.
pub(crate) fn to_srgb(picture: DynamicImage, profile: &Profile<'_>) -> DynamicImage {
    let Some(source) = read(profile) else { return picture };
    let is_grey = !picture.color().has_color();
    match source.color_space {
        DataColorSpace::Rgb => {}
        DataColorSpace::Gray if is_grey => {}
        _ => return picture,
    }
    match means_srgb(&source) {
        Ok(false) if is_grey => grey_to_srgb(picture, &source),
        Ok(false) => colours_to_srgb(picture, &source),
        Ok(true) | Err(_) => picture,
    }
}

fn read(profile: &Profile<'_>) -> Option<ColorProfile> {
    if let Profile::CodePoints(numbers) = profile {
        return from_code_points(*numbers);
    }
    let bytes = with_needed_tags(profile.read()?.into_owned())?;
    let options = ParsingOptions { max_profile_size: bytes.len() + 1, ..ParsingOptions::default() };
    let source = ColorProfile::new_from_slice_with_options(&bytes, options).ok()?;
    let is_of_device =
        !matches!(source.profile_class, ProfileClass::DeviceLink | ProfileClass::Abstract | ProfileClass::Named);
    is_of_device.then_some(source)
}

/// Makes a profile of full-range RGB. High dynamic range would need tone mapping, so it is read as without profile.
fn from_code_points([primaries, transfer, matrix, range]: [u8; 4]) -> Option<ColorProfile> {
    let transfer_characteristics = TransferCharacteristics::try_from(transfer).ok()?;
    let is_high_range =
        matches!(transfer_characteristics, TransferCharacteristics::Smpte2084 | TransferCharacteristics::Hlg);
    if matrix != 0 || range != 1 || is_high_range {
        return None;
    }
    let profile = ColorProfile::new_from_cicp(CicpProfile {
        color_primaries: primaries.try_into().ok()?,
        transfer_characteristics,
        matrix_coefficients: matrix.try_into().ok()?,
        full_range: true,
    });
    // Without a curve the numbers are unknown ones.
    profile.red_trc.is_some().then_some(profile)
}

/// Blanks the tags that a conversion to sRGB does not need, and repeated ones: the reader would parse each tag, and
/// thousands of them may share the same megabytes.
fn with_needed_tags(mut profile: Vec<u8>) -> Option<Vec<u8>> {
    const HEADER: usize = 132;
    const TAG: usize = 12;
    const NEEDED: [&[u8; 4]; 13] = [
        b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC", b"kTRC", b"wtpt", b"chad", b"cicp", b"A2B0", b"A2B1",
        b"A2B2",
    ];
    let count = u32::from_be_bytes(profile.get(HEADER - 4..HEADER)?.try_into().ok()?);
    let length = usize::try_from(count).ok()?.checked_mul(TAG)?;
    let mut seen = [false; NEEDED.len()];
    for tag in profile.get_mut(HEADER..HEADER.checked_add(length)?)?.chunks_exact_mut(TAG) {
        match NEEDED.iter().position(|needed| tag.starts_with(*needed)) {
            Some(place) if !seen[place] => seen[place] = true,
            _ => tag[..4].fill(0),
        }
    }
    Some(profile)
}

/// Whether the profile gives colours the meaning that they have in sRGB.
fn means_srgb(source: &ColorProfile) -> Result<bool, CmsError> {
    let (layout, tried): (Layout, Vec<[u8; 3]>) = match source.color_space {
        DataColorSpace::Gray => (Layout::Gray, (0..=255).map(|value| [value; 3]).collect()),
        _ => {
            let pairs = TRIED.iter().flat_map(|red| TRIED.iter().map(move |green| (*red, *green)));
            (Layout::Rgb, pairs.flat_map(|(red, green)| TRIED.map(|blue| [red, green, blue])).collect())
        }
    };
    let stored: Vec<u8> = match layout {
        Layout::Gray => tried.iter().map(|colour| colour[0]).collect(),
        _ => tried.as_flattened().to_vec(),
    };
    let mut shown = vec![0; tried.len() * 3];
    eight_bits(source, layout, Layout::Rgb)?.transform(&stored, &mut shown)?;
    Ok(tried.as_flattened().iter().zip(&shown).all(|(a, b)| a.abs_diff(*b) <= SAME_LEVELS))
}

fn eight_bits(source: &ColorProfile, from: Layout, to: Layout) -> Result<Conversion<u8>, CmsError> {
    source.create_transform_8bit(from, &ColorProfile::new_srgb(), to, TransformOptions::default())
}

fn sixteen_bits(source: &ColorProfile, from: Layout, to: Layout) -> Result<Conversion<u16>, CmsError> {
    source.create_transform_16bit(from, &ColorProfile::new_srgb(), to, TransformOptions::default())
}

fn colours_to_srgb(mut picture: DynamicImage, source: &ColorProfile) -> DynamicImage {
    let eight = |layout| eight_bits(source, layout, layout);
    let sixteen = |layout| sixteen_bits(source, layout, layout);
    let converted = match &mut picture {
        DynamicImage::ImageRgb8(pixels) => eight(Layout::Rgb).and_then(|to| convert(&to, pixels)),
        DynamicImage::ImageRgba8(pixels) => eight(Layout::Rgba).and_then(|to| convert(&to, pixels)),
        DynamicImage::ImageRgb16(pixels) => sixteen(Layout::Rgb).and_then(|to| convert(&to, pixels)),
        DynamicImage::ImageRgba16(pixels) => sixteen(Layout::Rgba).and_then(|to| convert(&to, pixels)),
        // Floating point: 8 bits are what remains of it anyway.
        other => {
            let mut pixels = other.to_rgb8();
            let converted = eight(Layout::Rgb).and_then(|to| convert(&to, &mut pixels));
            *other = DynamicImage::ImageRgb8(pixels);
            converted
        }
    };
    // The profile has been tried, so this is no error; if it were one, the picture would stay as it is.
    converted.ok();
    picture
}

fn convert<T: Copy + Default>(conversion: &Conversion<T>, samples: &mut [T]) -> Result<(), CmsError> {
    let mut stored = vec![T::default(); BLOCK.min(samples.len())];
    for block in samples.chunks_mut(BLOCK) {
        let stored = &mut stored[..block.len()];
        stored.copy_from_slice(block);
        conversion.transform(stored, block)?;
    }
    Ok(())
}

fn grey_to_srgb(mut picture: DynamicImage, source: &ColorProfile) -> DynamicImage {
    let eight = || grey_levels((0..=u8::MAX).collect(), source, eight_bits);
    let sixteen = || grey_levels((0..=u16::MAX).collect(), source, sixteen_bits);
    match &mut picture {
        DynamicImage::ImageLuma8(pixels) => map(pixels, 1, eight().as_deref()),
        DynamicImage::ImageLumaA8(pixels) => map(pixels, 2, eight().as_deref()),
        DynamicImage::ImageLuma16(pixels) => map(pixels, 1, sixteen().as_deref()),
        DynamicImage::ImageLumaA16(pixels) => map(pixels, 2, sixteen().as_deref()),
        _ => {}
    }
    picture
}

/// Returns the level of sRGB for each stored level of grey. The profile of a grey picture may be one of colours, in
/// which grey is the same amount of each.
fn grey_levels<T: Copy + Default>(
    stored: Vec<T>,
    source: &ColorProfile,
    conversion: impl Fn(&ColorProfile, Layout, Layout) -> Result<Conversion<T>, CmsError>,
) -> Option<Vec<T>> {
    let mut shown = vec![T::default(); stored.len() * 3];
    let (layout, stored) = match source.color_space {
        DataColorSpace::Gray => (Layout::Gray, stored),
        _ => (Layout::Rgb, stored.into_iter().flat_map(|value| [value; 3]).collect()),
    };
    conversion(source, layout, Layout::Rgb).ok()?.transform(&stored, &mut shown).ok()?;
    // Green: a profile of colours may give grey a tint, and green is nearest to its lightness.
    Some(shown.chunks_exact(3).map(|colour| colour[1]).collect())
}

fn map<T: Copy + Into<usize>>(samples: &mut [T], channels: usize, levels: Option<&[T]>) {
    let Some(levels) = levels else { return };
    for sample in samples.iter_mut().step_by(channels) {
        if let Some(level) = levels.get((*sample).into()) {
            *sample = *level;
        }
    }
}
