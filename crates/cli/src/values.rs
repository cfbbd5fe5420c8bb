//! Readers for the values of options; each message says what would be right.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use echogen_protocol::{
    BoundingBox, JobId, Lane, MaskMode, OutputFormat, PerScale, PixelBudget, Point, check_object_key,
};
use echogen_service::config::Listen;
use echogen_worker::LaneWeights;

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

/// Reads `x,y`.
pub(crate) fn point(text: &str) -> Result<Point, String> {
    let place = text.split_once(',').and_then(|(x, y)| Some((x.trim().parse().ok()?, y.trim().parse().ok()?)));
    let (x, y) = place.ok_or("give two whole numbers x,y in pixels, such as 120,80")?;
    Ok(Point { x, y })
}

/// Reads a number from 0 to 1.
pub(crate) fn share(text: &str) -> Result<f32, String> {
    let number = text.trim().parse::<f32>().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number from 0 to 1"))
}

/// Reads seconds, more than none.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= 86_400.0);
    number.ok_or_else(|| format!("{text:?} is no number of seconds above 0 and up to a day"))
}

/// Reads seconds, none among them.
pub(crate) fn seconds_or_none(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|number| (0.0..=86_400.0).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number of seconds from 0 to a day"))
}

/// Reads an address such as `0.0.0.0:9464`; empty is nowhere.
pub(crate) fn listen(text: &str) -> Result<Listen, String> {
    if text.trim().is_empty() {
        return Ok(Listen::Nowhere);
    }
    let address = text.trim().parse().map(Listen::At);
    address.map_err(|_| format!("{text:?} is no address; give an IP address and a port such as 0.0.0.0:9464"))
}

/// Reads `8,4,1`: the weights of the lanes interactive, standard and bulk.
pub(crate) fn lane_weights(text: &str) -> Result<LaneWeights, String> {
    let expected = || "give three whole numbers for interactive, standard and bulk, such as 8,4,1".to_owned();
    let numbers: Vec<u32> =
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map_err(|_| expected())?;
    let &[interactive, standard, bulk] = numbers.as_slice() else { return Err(expected()) };
    Ok(LaneWeights { interactive, standard, bulk })
}

/// Reads a job's id.
pub(crate) fn job_id(text: &str) -> Result<JobId, String> {
    match check_object_key(text) {
        Ok(()) if !text.contains('/') => Ok(JobId(text.to_owned())),
        _ => Err("a job's id has letters, digits, `.`, `_` and `-`, and does not begin with a dot".to_owned()),
    }
}

/// A parser for [`Lane`].
pub(crate) fn lane() -> impl TypedValueParser<Value = Lane> {
    one_of(&[("interactive", Lane::Interactive), ("standard", Lane::Standard), ("bulk", Lane::Bulk)])
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
    fn a_point_is_two_whole_numbers_and_a_share_at_most_one() {
        assert_eq!(point("12, 8").unwrap(), Point { x: 12, y: 8 });
        assert!(["", "1", "1,2,3", "-1,2", "1.5,2"].iter().all(|text| point(text).is_err()));
        assert_eq!(share("0.25").unwrap(), 0.25);
        assert!(["", "x", "-0.1", "1.1", "NaN"].iter().all(|text| share(text).is_err()));
    }

    #[test]
    fn seconds_are_a_number_up_to_a_day() {
        for read in [seconds, seconds_or_none] {
            assert_eq!((read("0.5").unwrap(), read("86400").unwrap()), (0.5, 86_400.0));
            assert!(["", "x", "-1", "NaN", "inf", "86401"].iter().all(|text| read(text).is_err()));
        }
        assert!(seconds("0").is_err());
        assert_eq!(seconds_or_none("0").unwrap(), 0.0);
    }

    #[test]
    fn weights_are_three_whole_numbers_and_an_id_is_no_path() {
        assert_eq!(lane_weights("8, 4,1").unwrap(), LaneWeights { interactive: 8, standard: 4, bulk: 1 });
        assert!(lane_weights("8,4").is_err() && lane_weights("a,b,c").is_err());
        assert_eq!(job_id("dog-1.b").unwrap().as_str(), "dog-1.b");
        for id in ["", "a/b", "..", "ä"] {
            assert!(job_id(id).is_err(), "{id}");
        }
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
