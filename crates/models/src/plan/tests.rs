//! Plans of described devices, and the plan's arithmetic against what the networks really hold.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use echogen_checkpoint::bundle::{Bundle, Network};

use super::*;
use crate::{
    echogen::{EchoGen, FeatureKeys, Rows, SampleRequest, Sampler, Schedule, SubjectFeatures, is_ignored},
    layers::attention::KeyValue,
    random::CounterRng,
};

const GIB: u64 = 1 << 30;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn bundle(name: &str) -> Bundle {
    Bundle::open(&root().join("bundles").join(name)).unwrap()
}

/// A GPU with that much memory, in the units in which it is sold.
fn gpu(bundle: &Bundle, memory: u64) -> PlanRequest<'_> {
    PlanRequest {
        bundle,
        is_cpu: false,
        work: Work::of(false, DType::BF16),
        converted: None,
        memory: Some(DeviceMemory::described(memory)),
        max_batch: 16,
        subject_cache_bytes: 64 << 20,
        set: SetLimits::default(),
    }
}

/// The devices of the tables in `docs/operations.md`.
const DEVICES: [(&str, u64); 3] =
    [("H200, 141 GB", 141_000_000_000), ("A100, 40 GB", 40 * GIB), ("L4, 24 GB", 24_000_000_000)];

fn pictures(plan: &MemoryPlan) -> Vec<usize> {
    plan.budgets.iter().map(|budget| budget.pictures).collect()
}

#[test]
fn eight_pictures_of_the_largest_size_share_a_batch_where_there_is_memory() {
    let large = bundle("echogen-2b.toml");
    let plan = |memory, scores| {
        let work = Work { scores, ..Work::of(false, DType::BF16) };
        MemoryPlan::new(&PlanRequest { work, ..gpu(&large, memory) }).unwrap()
    };
    let [(_, large_gpu), (_, middle), (_, small)] = DEVICES;
    let h200 = plan(large_gpu, Scores::All);
    assert_eq!(h200.budgets.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(), ["0.06M", "0.25M", "0.60M", "1M"]);
    assert_eq!(pictures(&h200), [16, 16, 16, 10]);
    assert!(h200.complaint().is_none() && h200.default_fits());
    // One content tower for all seeds: the cache has room for the rows of a whole batch.
    let rows = 8 * h200.rows as u64 * ((1 << 30) + (1 << 20));
    assert!(h200.limits.condition_cache_bytes / 8 * 5 >= rows);
    let most = 8 * h200.budget("1M").unwrap().kv_bytes;
    assert!(h200.limits.max_kv_bytes >= most && h200.limits.max_batch_tokens.is_none());
    assert_eq!(
        (pictures(&plan(middle, Scores::All)), pictures(&plan(middle, Scores::None))),
        // Two of the largest pictures in a batch keep twice the conditions, which smaller pictures do without.
        (vec![16, 9, 3, 1], vec![15, 7, 4, 2])
    );
    for scores in [Scores::All, Scores::Bands(2 << 30), Scores::None] {
        let l4 = plan(small, scores);
        assert_eq!(pictures(&l4), [6, 3, 1, 0]);
        assert!(!l4.default_fits());
        let complaint = l4.complaint().unwrap();
        for part in ["a picture of 1M does not fit", "22.35 GiB are free", "(0.06M, 0.25M, 0.60M)", "8 bits"] {
            assert!(complaint.contains(part), "{complaint} lacks {part}");
        }
    }
}

#[test]
fn a_picture_with_more_rows_counts_for_more() {
    let large = bundle("echogen-2b.toml");
    let plan = MemoryPlan::new(&gpu(&large, 141_000_000_000)).unwrap();
    let sizes = BatchSizes::of(&plan);
    let of = |rows| sizes.pictures("1M", rows).unwrap();
    assert!(of(1) > of(2) && of(2) > of(3) && of(3) > 1, "{} {} {}", of(1), of(2), of(3));
    assert_eq!((of(2), of(7), sizes.pictures("2M", 2)), (10, of(3), None));
}

#[test]
fn weights_of_8_bits_leave_more_of_a_small_device_for_pictures() {
    let large = bundle("echogen-2b.toml");
    let request = gpu(&large, 24_000_000_000);
    let reduced = PlanRequest { converted: Some(WeightType::Q8_0), ..request.clone() };
    let [plan, reduced] = [request, reduced].map(|request| MemoryPlan::new(&request).unwrap());
    assert!(reduced.weight_bytes() * 10 < plan.weight_bytes() * 6, "{}", reduced.table());
    assert_eq!((pictures(&plan), pictures(&reduced)), (vec![6, 3, 1, 0], vec![8, 4, 2, 1]), "{}", reduced.table());
}

/// What stands in `docs/operations.md`, so that it cannot be wrong.
#[test]
fn the_operations_page_shows_these_plans() {
    const UPDATE_VARIABLE: &str = "ECHOGEN_TEST_UPDATE";
    const MARKS: [&str; 2] = ["<!-- plans, written by a test -->\n", "<!-- end of plans -->\n"];
    let large = bundle("echogen-2b.toml");
    let shown = DEVICES.map(|(name, memory)| {
        let plan = MemoryPlan::new(&gpu(&large, memory)).unwrap();
        let table = plan.table();
        let lines = table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        format!("**{name}.**\n\n```text\n{lines}\n```\n\n")
    });
    let path = root().join("docs/operations.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(MARKS[0]).unwrap();
    let (_, after) = rest.split_once(MARKS[1]).unwrap();
    let expected = format!("{before}{}\n{}{}{after}", MARKS[0], shown.concat(), MARKS[1]);
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    assert!(page == expected, "docs/operations.md is out of date; run this test with {UPDATE_VARIABLE}=1");
}

#[test]
fn on_a_cpu_the_limits_are_those_that_are_fast_and_no_more_than_fits() {
    let mini = bundle("mini");
    let cpu = |memory| PlanRequest { is_cpu: true, work: Work::of(true, DType::F32), memory, ..gpu(&mini, 0) };
    for memory in [Some(DeviceMemory::described(16 * GIB)), None] {
        let plan = MemoryPlan::new(&cpu(memory)).unwrap();
        let limits = Limits { max_batch_tokens: Some(8_192), max_kv_bytes: 4 << 30, condition_cache_bytes: 1 << 30 };
        assert_eq!((plan.limits, pictures(&plan)), (limits, vec![16]));
    }
    let tight = MemoryPlan::new(&cpu(Some(DeviceMemory::described(160 << 20)))).unwrap();
    let Limits { max_kv_bytes, condition_cache_bytes, .. } = tight.limits;
    assert!(tight.left_bytes < 60 << 20 && condition_cache_bytes + max_kv_bytes < 100 << 20, "{}", tight.table());
    let large = bundle("echogen-2b.toml");
    let plan =
        MemoryPlan::new(&PlanRequest { bundle: &large, ..cpu(Some(DeviceMemory::described(256 * GIB))) }).unwrap();
    assert_eq!(pictures(&plan), [15, 3, 1, 1], "8,192 tokens");
}

#[test]
fn what_does_not_fit_is_refused_with_numbers() {
    let large = bundle("echogen-2b.toml");
    let error = |request: PlanRequest| MemoryPlan::new(&request).unwrap_err().to_string();
    let weights = error(gpu(&large, 10 * GIB));
    assert!(
        weights.contains("its weights take 11.58 GiB in bf16") && weights.contains("a device with 12.63 GiB"),
        "{weights}"
    );
    let exact = error(PlanRequest { work: Work::of(false, DType::F32), ..gpu(&large, 16 * GIB) });
    assert!(exact.contains("choose bf16 (--dtype bf16), or"), "{exact}");
    let picture = error(gpu(&large, 14 * GIB));
    assert!(picture.contains("a picture of 0.06M does not fit: it takes 1.40 GiB"), "{picture}");
}

#[test]
fn a_limit_that_is_set_is_kept_or_refused() {
    let large = bundle("echogen-2b.toml");
    let with = |set| MemoryPlan::new(&PlanRequest { set, ..gpu(&large, 40 * GIB) });
    let set = |max_kv_bytes| SetLimits { max_kv_bytes: Some(max_kv_bytes), ..SetLimits::default() };
    assert_eq!(with(set(GIB)).unwrap().limits.max_kv_bytes, GIB);
    let error = with(set(64 * GIB)).unwrap_err().to_string();
    assert!(error.starts_with("sampler.max_kv_bytes is 68719476736 (64.00 GiB) and does not fit"), "{error}");
    let possible: u64 = error.split("give at most ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert!(with(set(possible)).is_ok() && with(set(possible + 1)).is_err());
    let cache = |bytes| SetLimits { condition_cache_bytes: Some(bytes), ..SetLimits::default() };
    assert_eq!(with(cache(GIB)).unwrap().limits.condition_cache_bytes, GIB);
    let error = with(cache(32 * GIB)).unwrap_err().to_string();
    assert!(error.starts_with("sampler.condition_cache_bytes is 34359738368 (32.00 GiB) and does not fit"), "{error}");
    let tokens = |most| with(SetLimits { max_batch_tokens: Some(most), ..SetLimits::default() }).unwrap();
    assert_eq!(pictures(&tokens(1_100)), [2, 1, 1, 1]);
    assert_eq!(pictures(&tokens(1_000_000)), [15, 7, 4, 2], "memory bounds them all the same");
    // However high, a limit that the largest batch does not reach is no fault.
    let mini = bundle("mini");
    let request =
        PlanRequest { is_cpu: true, work: Work::of(true, DType::F32), set: set(64 * GIB), ..gpu(&mini, 2 * GIB) };
    assert_eq!(MemoryPlan::new(&request).unwrap().limits.max_kv_bytes, 64 * GIB);
}

/// A transformer of the mini bundle, its sizes, and requests for pictures with a prompt and a subject each.
fn mini_model(dtype: DType) -> (Sizes, EchoGen, [SampleRequest; 3]) {
    let mini = bundle("mini");
    let sizes = Sizes::of(&mini).unwrap();
    let size = &sizes.transformer;
    let build = |vb: VarBuilder<'static>| EchoGen::new(vb, size, dtype);
    let ignored = |name: &str| is_ignored(size, name);
    let model = mini.load(Network::Transformer, (&Device::Cpu, DType::F32), ignored, build).unwrap();
    let noise = |shape: &[usize], seed| {
        let mut values = vec![0f32; shape.iter().product()];
        CounterRng::new(seed, 9).fill_normal(&mut values);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let requests = [1, 2, 3].map(|seed| SampleRequest {
        text: noise(&[10 + seed as usize, size.text_channels], seed),
        negative_text: None,
        subject: SubjectFeatures {
            cls_token: noise(&[size.semantic_dim], seed),
            patch_tokens: noise(&[size.semantic_len - 1, size.semantic_dim], seed),
            content: noise(&[size.content_len, size.content_dim], seed),
        },
        keys: FeatureKeys::default(),
        seed,
        options: SamplingOptions::default(),
    });
    (sizes, model, requests)
}

fn demand<'a>(sizes: &'a Sizes, schedule: &'a Schedule, dtype: DType) -> Demand<'a> {
    Demand {
        transformer: &sizes.transformer,
        tokenizer: &sizes.tokenizer,
        schedule,
        subject: sizes.subject("0.004M"),
        work: Work::of(true, dtype),
    }
}

#[test]
fn caches_and_conditions_are_counted_exactly() {
    for dtype in [DType::F32, DType::BF16] {
        let (sizes, model, [request, ..]) = mini_model(dtype);
        for schedule in sizes.schedules.of_budget("0.004M").unwrap() {
            let demand = demand(&sizes, &schedule, dtype);
            assert_eq!(demand.kv_bytes(), model.kv_cache_bytes(&schedule) as u64);
            let allocated = model.empty_caches(schedule.image_tokens() + 1).unwrap();
            assert_eq!(demand.kv_bytes(), allocated.iter().map(KeyValue::bytes).sum::<usize>() as u64);
        }
        let schedule = sizes.schedules.nearest(1.0, "0.004M").unwrap();
        let planned = demand(&sizes, &schedule, dtype).condition_bytes(request.text.dim(0).unwrap());
        let text = Arc::new(model.text_condition(&request.text).unwrap());
        let subject = model.subject_condition(&request.subject).unwrap();
        let row = model.row_condition(Arc::clone(&text), &subject, |_| ()).unwrap();
        let held = [row.bytes(), text.bytes(), subject.bytes()].map(|bytes| bytes as u64);
        assert_eq!([planned.row, planned.text, planned.subject], held, "{dtype:?}");
    }
}

#[test]
fn a_cache_of_the_planned_size_keeps_the_conditions_of_a_whole_batch() {
    let (sizes, _, requests) = mini_model(DType::F32);
    let schedule = sizes.schedules.nearest(1.0, "0.004M").unwrap();
    let conditions = demand(&sizes, &schedule, DType::F32).condition_bytes(13);
    let planned = division::cache_bytes(&conditions, 2 * requests.len() as u64);
    for (bytes, misses) in [(planned, 0), (planned / 2, 6)] {
        let sampler = Sampler::new(mini_model(DType::F32).1, bytes as usize);
        sampler.start(&requests, &schedule, Rows::Needed).unwrap();
        let again = sampler.start(&requests, &schedule, Rows::Needed).unwrap().cache_use();
        assert_eq!(again.misses, misses, "{bytes} bytes");
    }
}

#[test]
fn weights_are_the_same_from_files_and_from_sizes() {
    let mini = bundle("mini");
    let sizes = Sizes::of(&mini).unwrap();
    let absent = bundle("mini").with_weights(root().join("no/such/folder"));
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let stored = sampler_weights(&mini, &sizes, dtype, None).unwrap();
        let expected = sampler_weights(&absent, &sizes, dtype, None).unwrap();
        assert!(stored.iter().all(|weights| weights.from_files) && !expected.iter().any(|weights| weights.from_files));
        let bytes = |all: &[NetworkWeights]| all.iter().map(|w| (w.reduced_bytes, w.exact_bytes)).collect::<Vec<_>>();
        assert_eq!(bytes(&stored), bytes(&expected), "{dtype:?}");
    }
}
