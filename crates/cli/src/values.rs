//! Readers for the values of options; each message says what would be right.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use echogen_protocol::{BoundingBox, MaskMode, OutputFormat, PerScale, PixelBudget};

/// Reads `3` or `4,4,3.5`.
pub(crate) fn per_scale(text: &str) -> Result<PerScale, String> {
    let number = |part: &str| {
        let part = part.trim();
        part.parse::<f64>()
            .map_err(|_| format!("{part:?} is no number; give one such as 3, or one for each scale such as 4,3,2.5"))
    };
    if !text.contains(',') {
        return number(text).map(PerScale::All);
    }
    text.split(',').map(number).collect::<Result<_, _>>().map(PerScale::Each)
}

/// Reads `left,top,right,bottom`.
pub(crate) fn bounding_box(text: &str) -> Result<BoundingBox, String> {
    let expected = || "give four whole numbers left,top,right,bottom in pixels, such as 0,0,256,256".to_owned();
    let numbers: Vec<u32> =
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map_err(|_| expected())?;
    let &[left, top, right, bottom] = numbers.as_slice() else { return Err(expected()) };
    Ok(BoundingBox { left, top, right, bottom })
}

/// A parser for [`PixelBudget`].
pub(crate) fn pixel_budget() -> impl TypedValueParser<Value = PixelBudget> {
    one_of(&[
        ("0.004M", PixelBudget::M0_004),
        ("0.06M", PixelBudget::M0_06),
        ("0.25M", PixelBudget::M0_25),
        ("0.60M", PixelBudget::M0_60),
        ("1M", PixelBudget::M1),
    ])
}

/// A parser for [`MaskMode`].
pub(crate) fn mask_mode() -> impl TypedValueParser<Value = MaskMode> {
    one_of(&[("box", MaskMode::Box), ("sam", MaskMode::Sam), ("none", MaskMode::None)])
}

/// A parser for [`OutputFormat`].
pub(crate) fn output_format() -> impl TypedValueParser<Value = OutputFormat> {
    one_of(&[("png", OutputFormat::Png), ("jpeg", OutputFormat::Jpeg), ("webp", OutputFormat::Webp)])
}

fn one_of<T: Copy + Send + Sync + 'static>(values: &'static [(&'static str, T)]) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.iter().map(|(name, _)| *name)).try_map(move |text| {
        let found = values.iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| *value).ok_or("not one of the possible values")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_or_one_a_scale() {
        assert_eq!(per_scale("2.5").unwrap(), PerScale::All(2.5));
        assert_eq!(per_scale("4, 3,2").unwrap(), PerScale::Each(vec![4.0, 3.0, 2.0]));
        assert!(per_scale("much").unwrap_err().contains("\"much\" is no number"));
        assert!(per_scale("1,").is_err());
    }

    #[test]
    fn a_box_is_four_whole_numbers() {
        let expected = BoundingBox { left: 1, top: 2, right: 3, bottom: 4 };
        assert_eq!(bounding_box("1, 2,3,4").unwrap(), expected);
        for text in ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "-1,2,3,4", "1.5,2,3,4"] {
            assert!(bounding_box(text).unwrap_err().contains("left,top,right,bottom"), "{text}");
        }
    }
}
