//! The encoder stage on the mini bundle's real networks: a subject has the bytes that version 0.1.0 gave it, whose segmenter
//! painted the background and stored the cut-out as a PNG.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use echogen_checkpoint::bundle::Bundle;
use echogen_encoder::{Encoder, NetworkEncoder};
use echogen_imaging::{
    ImageFormat, ImageLimits, PixelBox, RgbImage, SubjectMask, decode_image, encode_image, white_outside,
    white_outside_mask,
};
use echogen_models::{DType, Device, feature_extractor::FeatureExtractor};
use echogen_ports::{MemoryBroker, MemoryCache, MemoryObjectStore, ObjectKey, ObjectStore};
use echogen_protocol::{
    BoundingBox, ContentHash, CutOut, EncodeTask, Job, MaskRuns, PixelBudget, Progress, SampleTask, SubjectArea,
    SubjectKeys, layout,
};
use echogen_worker::{CachedObjects, Outcome, ProductsConfig, Stage, StageContext};

const SIDE: u32 = 64;
const MAX_BYTES: u64 = 1 << 24;

fn networks() -> FeatureExtractor {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini");
    let bundle = Bundle::open(&folder).expect("the bundle is shipped");
    FeatureExtractor::load(&bundle, &Device::Cpu, DType::F32).expect("the encoders load")
}

fn stage(work: &Arc<MemoryObjectStore>) -> Encoder {
    let keys = SubjectKeys {
        encoders: "mini".to_owned(),
        dtypes: vec!["f32".to_owned()],
        finders: String::new(),
        default_pixel_budget: PixelBudget::M0_004,
        resolutions: [(PixelBudget::M0_004, SIDE)].into(),
    };
    let config = ProductsConfig::default();
    let objects = CachedObjects::new(work.clone(), Arc::new(MemoryCache::new(1 << 24)), &config);
    let networks = Arc::new(NetworkEncoder::start(networks(), BTreeMap::new()).expect("a thread"));
    Encoder::new(&keys, ImageLimits::default(), networks, objects, &config)
}

fn picture() -> RgbImage {
    RgbImage::from_fn(90, 70, |x, y| [(x * 2) as u8, (y * 3) as u8, ((x / 8 + y / 8) % 2 * 255) as u8].into())
}

fn png(picture: &RgbImage) -> Vec<u8> {
    encode_image(picture, ImageFormat::Png, 100).expect("a picture is written")
}

async fn encoded(work: &Arc<MemoryObjectStore>, stage: &Encoder, area: SubjectArea) -> Vec<u8> {
    let png = png(&picture());
    let image = ContentHash::of(&png);
    let key = ObjectKey::of_content(layout::IMAGES, &image).expect("a key");
    work.put(&key, png.into()).await.expect("the twin stores");
    let job = Job::new("dog.png".into(), "a dog").with_id();
    let task = EncodeTask::new(job, CutOut { image, area }, Progress::default());
    let context = StageContext::for_test(Arc::new(MemoryBroker::new()));
    let Outcome::Next(tasks) = stage.run(task, &context).await.expect("it is encoded") else {
        panic!("done too early")
    };
    let task: SampleTask = tasks[0].read().expect("to the sampler");
    let key = ObjectKey::new(task.encoded_subject).expect("a key");
    work.get(&key, MAX_BYTES).await.expect("the twin answers").expect("it is stored").to_vec()
}

#[tokio::test]
async fn an_encoded_subject_has_the_bytes_of_a_stored_cut_out() {
    let (left, top, right, bottom) = (11, 5, 70, 66);
    let boxed = white_outside(&picture(), PixelBox { left, top, right, bottom }).expect("a box within the picture");
    let inside = |at: u32| (at % 90).abs_diff(40) + (at / 90).abs_diff(33) < 25;
    let mask = SubjectMask::new(90, 70, (0..90 * 70).map(inside).collect()).expect("as many pixels");
    let runs = MaskRuns::new(90, 70, mask.runs()).expect("runs of a mask");
    let (networks, work) = (networks(), Arc::new(MemoryObjectStore::new()));
    let stage = stage(&work);
    for (area, painted) in [
        (SubjectArea::Whole, picture()),
        (SubjectArea::Box(BoundingBox { left, top, right, bottom }), boxed),
        (SubjectArea::Mask(runs), white_outside_mask(&picture(), &mask)),
    ] {
        let stored = decode_image(&png(&painted), &ImageLimits::default()).expect("a stored cut-out");
        let expected = networks.encode(&stored, SIDE as usize).and_then(|subject| subject.to_bytes());
        let got = encoded(&work, &stage, area.clone()).await;
        assert!(got == expected.expect("it is encoded"), "{area:?}");
    }
}
