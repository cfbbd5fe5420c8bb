//! Parsers for the values of commands' own arguments; each error message describes a valid value.

use echogen_protocol::{BoundingBox, JobId, Point, check_object_key};

/// Parses `left,top,right,bottom`.
pub(crate) fn bounding_box(text: &str) -> Result<BoundingBox, String> {
    let expected = || "give four whole numbers left,top,right,bottom in pixels, such as 0,0,256,256".to_owned();
    let numbers: Vec<u32> =
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map_err(|_| expected())?;
    let &[left, top, right, bottom] = numbers.as_slice() else { return Err(expected()) };
    Ok(BoundingBox { left, top, right, bottom })
}

/// Parses `x,y`.
pub(crate) fn point(text: &str) -> Result<Point, String> {
    let place = text.split_once(',').and_then(|(x, y)| Some((x.trim().parse().ok()?, y.trim().parse().ok()?)));
    let (x, y) = place.ok_or("give two whole numbers x,y in pixels, such as 120,80")?;
    Ok(Point { x, y })
}

/// Parses a number of seconds, which must be more than zero.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let number = text.trim().parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= 86_400.0);
    number.ok_or_else(|| format!("{text:?} is no number of seconds above 0 and up to a day"))
}

/// Parses a job's id.
pub(crate) fn job_id(text: &str) -> Result<JobId, String> {
    match check_object_key(text) {
        Ok(()) if !text.contains('/') => Ok(JobId(text.to_owned())),
        _ => Err("a job's id has letters, digits, `.`, `_` and `-`, and does not begin with a dot".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_two_whole_numbers() {
        assert_eq!(point("12, 8").unwrap(), Point { x: 12, y: 8 });
        assert!(["", "1", "1,2,3", "-1,2", "1.5,2"].iter().all(|text| point(text).is_err()));
    }

    #[test]
    fn seconds_are_a_number_up_to_a_day() {
        assert_eq!((seconds("0.5").unwrap(), seconds("86400").unwrap()), (0.5, 86_400.0));
        assert!(["", "x", "0", "-1", "NaN", "inf", "86401"].iter().all(|text| seconds(text).is_err()));
    }

    #[test]
    fn an_id_is_no_path() {
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
