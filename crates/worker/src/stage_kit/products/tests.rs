//! A stage of ten lines on products, with the clock paused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use echogen_ports::{Cache, Fault, MemoryBroker, MemoryCache, MemoryObjectStore, ObjectStore};
use echogen_protocol::{ContentHash, Job};
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{Outcome, Stage};

const SECOND: Duration = Duration::from_secs(1);

/// Makes a job's prompt loud, once, and needs a second for it.
struct Loud {
    products: Products<StoredObject>,
    is_new: bool,
    made: Arc<AtomicU32>,
}

#[async_trait]
impl Stage for Loud {
    type Task = Job;

    async fn run(&self, job: Job, context: &StageContext) -> Result<Outcome, Fault> {
        let make = || async {
            sleep(SECOND).await;
            Ok::<_, Fault>(Bytes::from(job.prompt.to_uppercase()))
        };
        let loud = self.products.get_or_make(context, &key(&job.prompt), self.is_new, make).await?;
        self.made.fetch_add(u32::from(!loud.is_found()), Ordering::SeqCst);
        Ok(Outcome::Done)
    }
}

fn key(prompt: &str) -> ObjectKey {
    ObjectKey::of_content("loud", &ContentHash::of(prompt.as_bytes())).unwrap()
}

/// What all processes share.
struct World {
    store: Arc<MemoryObjectStore>,
    cache: Arc<MemoryCache>,
    made: Arc<AtomicU32>,
}

impl World {
    fn new() -> Self {
        Self { store: Arc::default(), cache: Arc::new(MemoryCache::new(1 << 20)), made: Arc::default() }
    }

    /// A process of the stage.
    fn stage(&self, is_new: bool) -> Loud {
        let config = ProductsConfig::default();
        let objects = CachedObjects::new(self.store.clone(), self.cache.clone(), &config);
        Loud { products: Products::new(objects, &config), is_new, made: self.made.clone() }
    }

    async fn stored(&self) -> Option<Bytes> {
        self.store.get(&key("hello"), 100).await.unwrap()
    }

    fn made(&self) -> u32 {
        self.made.load(Ordering::SeqCst)
    }
}

async fn run(stage: &Loud, alone: bool) {
    let mut context = StageContext::for_test(Arc::new(MemoryBroker::new()));
    context.alone = alone;
    let task = Job::new("dog.png".into(), "hello");
    assert_eq!(stage.run(task, &context).await.unwrap(), Outcome::Done);
}

#[tokio::test(start_paused = true)]
async fn a_product_is_made_once_in_all_processes_and_found_from_then_on() {
    let world = World::new();
    let stages: Vec<Loud> = (0..4).map(|_| world.stage(false)).collect();
    join_all((0..200).map(|number| run(&stages[number % 4], false))).await;
    assert_eq!((world.stored().await.unwrap(), world.made()), (Bytes::from("HELLO"), 1));
    world.cache.forget_everything();
    run(&world.stage(false), false).await;
    assert_eq!(world.made(), 1, "the store has it");
    world.store.delete(&key("hello")).await.unwrap();
    run(&world.stage(false), false).await;
    assert_eq!(world.made(), 2, "neither has it");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_alone_waits_for_no_lease() {
    let world = World::new();
    let minute = 60 * SECOND;
    world.cache.acquire_lease(key("hello").as_str(), minute).await.unwrap().unwrap();
    let started = Instant::now();
    run(&world.stage(false), true).await;
    assert_eq!((started.elapsed(), world.made()), (SECOND, 1));
    world.store.delete(&key("hello")).await.unwrap();
    world.cache.forget_everything();
    world.cache.acquire_lease(key("hello").as_str(), minute).await.unwrap().unwrap();
    run(&world.stage(false), false).await;
    assert!(started.elapsed() > minute, "any other waits until it runs out: {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_new_product_is_looked_for_in_the_cache_only() {
    let world = World::new();
    world.store.put(&key("hello"), "of another job".into()).await.unwrap();
    run(&world.stage(true), false).await;
    assert_eq!((world.stored().await.unwrap(), world.made()), (Bytes::from("HELLO"), 1));
    run(&world.stage(true), false).await;
    assert_eq!(world.made(), 1, "now the cache has it");
}
