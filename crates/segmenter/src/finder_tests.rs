//! Tests of the finder's rules, with scripted networks.

use std::cell::RefCell;

use super::*;

/// Returns scripted answers and records the names it was asked for.
#[derive(Default)]
struct Scripted {
    name: Option<String>,
    fails: bool,
    detections: Option<Vec<Detection>>,
    outline: Option<Vec<bool>>,
    asked_for: RefCell<Vec<String>>,
}

impl SubjectNetworks for Scripted {
    fn name(&self, _: &RgbImage, _: &dyn Fn() -> bool) -> Result<Option<String>, NetworkError> {
        match self.fails {
            true => Err(NetworkError::BadPicture("too thin".to_owned())),
            false => Ok(self.name.clone()),
        }
    }

    fn detect(&self, _: &RgbImage, name: &str) -> Result<Option<Vec<Detection>>, NetworkError> {
        echogen_models::detector::caption(name).map_err(|error| NetworkError::BadName(error.to_string()))?;
        self.asked_for.borrow_mut().push(name.to_owned());
        Ok(self.detections.clone())
    }

    fn outline(&self, picture: &RgbImage, _: PixelBox) -> Result<Option<SubjectMask>, NetworkError> {
        let inside = self.outline.clone();
        Ok(inside.and_then(|inside| SubjectMask::new(picture.width(), picture.height(), inside)))
    }

    fn can_detect(&self) -> bool {
        self.detections.is_some()
    }

    fn can_outline(&self) -> bool {
        self.outline.is_some()
    }
}

fn detection(bounding_box: [f32; 4], score: f32) -> Detection {
    Detection { bounding_box, score, phrase: "dog".to_owned() }
}

/// Two dogs, the second with the higher score, and a third below the threshold.
fn dogs() -> Scripted {
    let detections = vec![
        detection([1.2, 1.2, 3.6, 3.9], 0.5),
        detection([5.0, 0.5, 9.4, 7.2], 0.8),
        detection([0.0, 0.0, 10.0, 8.0], 0.02),
    ];
    Scripted { name: Some("dog".to_owned()), detections: Some(detections), ..Scripted::default() }
}

fn picture() -> RgbImage {
    RgbImage::from_pixel(10, 8, [7, 8, 9].into())
}

fn find(networks: &Scripted, config: &FinderConfig, change: impl Fn(&mut Subject)) -> Result<Found, DetectError> {
    let mut subject = Subject::new("dog.png".into());
    change(&mut subject);
    find_subject(networks, config, &picture(), &subject, &|| true)
}

fn bounds(left: u32, top: u32, right: u32, bottom: u32) -> BoundingBox {
    BoundingBox { left, top, right, bottom }
}

#[test]
fn the_surest_box_is_the_subject() {
    let found = find(&dogs(), &FinderConfig::default(), |_| {}).unwrap();
    assert_eq!(found.bounding_box, bounds(5, 0, 10, 8));
    assert_eq!((found.name.as_deref(), found.how), (Some("dog"), FoundBy::Detector));
    assert!((found.score.unwrap() - 0.8).abs() < 1e-6);
}

#[test]
fn the_published_rule_takes_the_first_box() {
    let config = FinderConfig { selection: Selection::Published, padding: 9.0, ..FinderConfig::default() };
    assert_eq!(find(&dogs(), &config, |_| {}).unwrap().bounding_box, bounds(1, 1, 3, 3));
}

#[test]
fn a_point_says_which_of_several() {
    let at = |x, y| find(&dogs(), &FinderConfig::default(), move |s| s.point = Some(Point { x, y }));
    assert_eq!(at(2, 2).unwrap().bounding_box, bounds(1, 1, 4, 4));
    assert_eq!(at(7, 5).unwrap().bounding_box, bounds(5, 0, 10, 8));
    let error = at(0, 7).unwrap_err().to_string();
    let expected = "at (0, 7): one elsewhere has a score of 0.80, but no box of 0.30 or more holds that point";
    assert!(error.contains(expected), "{error}");
    let weak = FinderConfig { threshold: 0.9, ..FinderConfig::default() };
    let error = find(&dogs(), &weak, |s| s.point = Some(Point { x: 2, y: 2 })).unwrap_err().to_string();
    assert!(error.contains("at (2, 2): the best score is 0.80, 0.90 is needed"), "{error}");
    assert!(at(10, 0).unwrap_err().to_string().contains("outside the picture of 10 x 8"));
}

#[test]
fn a_box_grows_by_its_padding_and_stays_inside() {
    let config = FinderConfig { padding: 0.5, ..FinderConfig::default() };
    assert_eq!(find(&dogs(), &config, |_| {}).unwrap().bounding_box, bounds(2, 0, 10, 8));
    let corner = Scripted { detections: Some(vec![detection([10.0, 8.0, 10.5, 8.5], 0.9)]), ..dogs() };
    assert_eq!(find(&corner, &config, |_| {}).unwrap().bounding_box, bounds(9, 7, 10, 8));
}

#[test]
fn the_jobs_name_counts_before_the_namers_and_that_before_the_fallback() {
    let networks = dogs();
    find(&networks, &FinderConfig::default(), |s| s.name = Some("puppy".to_owned())).unwrap();
    find(&networks, &FinderConfig::default(), |_| {}).unwrap();
    assert_eq!(*networks.asked_for.borrow(), ["puppy", "dog"]);
    for silent in [Scripted { name: None, ..dogs() }, Scripted { fails: true, ..dogs() }] {
        let found = find(&silent, &FinderConfig::default(), |_| {}).unwrap();
        assert_eq!(found.name.as_deref(), Some("the main object"));
    }
}

#[test]
fn nothing_found_fails_or_takes_the_whole_picture_as_the_job_wishes() {
    let config = FinderConfig { threshold: 0.9, ..FinderConfig::default() };
    let error = find(&dogs(), &config, |_| {}).unwrap_err();
    assert!(error.is_permanent());
    assert!(error.to_string().contains("no \"dog\" was found in the picture: the best score is 0.80, 0.90 is needed"));
    let found = find(&dogs(), &config, |s| s.if_not_found = IfNotFound::WholeImage).unwrap();
    assert_eq!((found.bounding_box, found.how), (bounds(0, 0, 10, 8), FoundBy::NotFound));
    assert!((found.score.unwrap() - 0.8).abs() < 1e-6);
    let nothing = Scripted { detections: Some(Vec::new()), ..dogs() };
    assert!(find(&nothing, &FinderConfig::default(), |_| {}).is_err());
}

#[test]
fn boxes_without_an_area_or_with_odd_numbers_are_passed_over() {
    let odd = vec![detection([3.0, 3.0, 3.0, 5.0], 0.9), detection([f32::NAN, 0.0, 4.0, 4.0], 0.9)];
    let networks = Scripted { detections: Some(odd), ..dogs() };
    assert!(find(&networks, &FinderConfig::default(), |_| {}).is_err());
}

#[test]
fn names_that_are_none_are_the_jobs_fault() {
    for name in ["...", &"x".repeat(1_000), "\u{7}"] {
        let error = find(&dogs(), &FinderConfig::default(), |s| s.name = Some(name.to_owned())).unwrap_err();
        assert!(matches!(error, DetectError::BadName(_)) && error.is_permanent(), "{error}");
    }
}

#[test]
fn what_the_job_says_needs_no_network() {
    let none = Scripted::default();
    let given = find(&none, &FinderConfig::default(), |s| s.bounding_box = Some(bounds(1, 2, 3, 4))).unwrap();
    assert_eq!((given.bounding_box, given.how), (bounds(1, 2, 3, 4), FoundBy::Job));
    assert_eq!(find(&none, &FinderConfig::default(), |_| {}).unwrap().how, FoundBy::WholeImage);
    let networks = dogs();
    assert_eq!(
        find(&networks, &FinderConfig::default(), |s| s.mask = MaskMode::None).unwrap().how,
        FoundBy::WholeImage
    );
    assert!(networks.asked_for.borrow().is_empty());
}

#[test]
fn what_the_bundle_lacks_is_said() {
    let error = find(&dogs(), &FinderConfig::default(), |s| s.mask = MaskMode::Sam).unwrap_err();
    assert!(error.to_string().contains("use \"box\" or \"none\""));
    let error = find(&Scripted::default(), &FinderConfig::default(), |s| s.point = Some(Point { x: 1, y: 1 }));
    assert!(error.unwrap_err().to_string().contains("give subject.box"));
}

#[test]
fn an_outline_is_asked_for_where_there_is_a_box() {
    let mut inside = vec![false; 80];
    inside[25] = true;
    let networks = Scripted { outline: Some(inside), ..dogs() };
    let sam = |s: &mut Subject| s.mask = MaskMode::Sam;
    let found = find(&networks, &FinderConfig::default(), sam).unwrap();
    assert!(found.mask.unwrap().contains(5, 2));
    let empty = Scripted { outline: Some(vec![false; 80]), ..dogs() };
    assert!(find(&empty, &FinderConfig::default(), sam).unwrap_err().to_string().contains("outline"));
    let whole = |s: &mut Subject| (s.mask, s.if_not_found) = (MaskMode::Sam, IfNotFound::WholeImage);
    assert_eq!(find(&empty, &FinderConfig::default(), whole).unwrap().how, FoundBy::NotFound);
    // A box outside the picture is checked by the segmenter, not here.
    let outside = |s: &mut Subject| (s.mask, s.bounding_box) = (MaskMode::Sam, Some(bounds(0, 0, 99, 99)));
    assert!(find(&networks, &FinderConfig::default(), outside).unwrap().mask.is_none());
}
