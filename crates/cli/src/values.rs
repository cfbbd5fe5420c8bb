//! Parsers for the values of commands' own arguments; each error message describes a valid value.

use std::time::Duration;

use echogen_protocol::{BoundingBox, JobId, Point, QueueName, StageName, check_object_key};
use echogen_service::operations::dead_letters::queues_named;

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

/// Returns a parsed number of seconds as a duration.
pub(crate) fn limit(seconds: Option<f64>) -> Option<Duration> {
    seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

/// Parses an age such as `90s`, `15m`, `2h` or `3d`.
pub(crate) fn age(text: &str) -> Result<Duration, String> {
    let expected = || format!("{text:?} is no age; give a whole number and s, m, h or d, such as 2h");
    let text = text.trim();
    let unit = text.chars().next_back().ok_or_else(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| expected())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// Parses a stage's name or a queue's name.
pub(crate) fn queues(text: &str) -> Result<Queues, String> {
    queues_named(text).map(Queues).ok_or_else(|| {
        let stages = StageName::ALL.map(StageName::as_str).join(", ");
        format!("there is no queue or stage {text:?}; stages are {stages}, `echogen topology` lists the queues")
    })
}

/// The queues that one value names.
#[derive(Clone, Debug)]
pub(crate) struct Queues(pub(crate) Vec<QueueName>);

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
    fn an_age_is_a_number_and_a_unit() {
        let seconds = |text| age(text).map(|age| age.as_secs());
        assert_eq!([seconds("90s"), seconds("15m"), seconds("2h"), seconds("3d")], [90, 900, 7_200, 259_200].map(Ok));
        for text in ["", "h", "2", "2 h", "-1h", "1.5h", "2w", "2ä", "99999999999s"] {
            assert!(age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_queue_is_named_by_its_stage_too() {
        assert_eq!(queues("dispatcher").unwrap().0.len(), 3);
        let error = queues("painter").unwrap_err();
        assert!(error.contains("dispatcher, segmenter"), "{error}");
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
