//! The distributed single flight on the cache's twin, with the clock paused.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, FencingToken, MemoryCache};
use echogen_testkit::FailFirst;
use futures::future::{join, join_all};
use tokio::time::{Instant, sleep};

use super::*;

/// A store with one place, and a count of how often its product was made.
#[derive(Default)]
struct World {
    stored: Mutex<Option<u32>>,
    made: AtomicU32,
    /// Whether the cache shows what is stored.
    cached: bool,
    /// Whether it is asked for by the first job of its subject.
    is_new: bool,
    cache_lookups: AtomicU32,
    store_lookups: AtomicU32,
}

/// One caller's work: how long it takes, and whether it works at all.
struct FakeWork<'a> {
    world: &'a World,
    time: Duration,
    fails: bool,
}

#[async_trait]
impl FlightWork for FakeWork<'_> {
    type Product = u32;
    type Draft = u32;
    type Error = String;

    fn is_new(&self) -> bool {
        self.world.is_new
    }

    async fn get_cached(&self) -> Result<Option<u32>, String> {
        self.world.cache_lookups.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        Ok(self.world.stored.lock().unwrap().filter(|_| self.world.cached))
    }

    async fn get_stored(&self) -> Result<Option<u32>, String> {
        self.world.store_lookups.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        Ok(*self.world.stored.lock().unwrap())
    }

    async fn make(&self) -> Result<u32, String> {
        sleep(self.time).await;
        if self.fails {
            return Err("broken".to_owned());
        }
        Ok(self.world.made.fetch_add(1, Ordering::SeqCst) + 1)
    }

    async fn store(&self, draft: u32) -> Result<u32, String> {
        *self.world.stored.lock().unwrap() = Some(draft);
        Ok(draft)
    }
}

impl World {
    /// One caller, whose work takes so long.
    async fn ask(&self, flight: &DistributedSingleFlight, time: Duration) -> Result<Obtained<u32>, String> {
        flight.run("subject", &FakeWork { world: self, time, fails: false }).await
    }

    fn made(&self) -> u32 {
        self.made.load(Ordering::SeqCst)
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn cache() -> Arc<MemoryCache> {
    Arc::new(MemoryCache::new(1 << 20))
}

fn flight(cache: Arc<dyn Cache>) -> DistributedSingleFlight {
    DistributedSingleFlight::new(cache, &ProductsConfig::default())
}

#[tokio::test(start_paused = true)]
async fn many_processes_make_it_once_and_the_lookups_are_few() {
    let (world, cache) = (World::default(), cache());
    // Each process has a flight of its own.
    let flights: Vec<DistributedSingleFlight> = (0..50).map(|_| flight(cache.clone())).collect();
    let answers = join_all(flights.iter().map(|flight| world.ask(flight, SECOND))).await;
    assert_eq!(world.made(), 1);
    let made = answers.iter().filter(|answer| **answer == Ok(Obtained::made(1))).count();
    assert_eq!((made, answers.len()), (1, 50));
    assert!(answers.iter().all(|answer| answer.clone().map(|answer| answer.product) == Ok(1)));
    let cache_lookups = world.cache_lookups.load(Ordering::SeqCst) / 50;
    assert!(cache_lookups <= 12, "{cache_lookups} lookups each within a second");
    assert!(world.store_lookups.load(Ordering::SeqCst) <= 51, "the store is asked once a lease");
    let token = cache.acquire_lease("subject", SECOND).await.unwrap();
    assert!(token.is_some(), "the lease is given back");
}

#[tokio::test(start_paused = true)]
async fn what_is_there_takes_no_lease() {
    let world = World { stored: Mutex::new(Some(7)), cached: true, ..World::default() };
    let cache = cache();
    let anothers = cache.acquire_lease("subject", SECOND).await.unwrap();
    assert_eq!(world.ask(&flight(cache), SECOND).await, Ok(Obtained::found(7)));
    assert_eq!((world.made(), anothers.is_some()), (0, true));
}

#[tokio::test(start_paused = true)]
async fn new_work_looks_once_in_the_cache_and_never_in_the_store() {
    let (world, cache) = (World { is_new: true, cached: true, ..World::default() }, cache());
    assert_eq!(world.ask(&flight(cache.clone()), SECOND).await, Ok(Obtained::made(1)));
    assert_eq!((world.cache_lookups.load(Ordering::SeqCst), world.store_lookups.load(Ordering::SeqCst)), (1, 0));
    // Another job of the subject was faster.
    assert_eq!(world.ask(&flight(cache.clone()), SECOND).await, Ok(Obtained::found(1)));
    // Without the cache the store is asked after all.
    let alone = flight(Arc::new(FailFirst::new(MemoryCache::new(0), u32::MAX)));
    assert_eq!(world.ask(&alone, SECOND).await, Ok(Obtained::found(1)));
    assert_eq!((world.made(), world.store_lookups.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn many_callers_for_a_new_product_make_it_once() {
    let (world, cache) = (World { is_new: true, cached: true, ..World::default() }, cache());
    let flights: Vec<DistributedSingleFlight> = (0..50).map(|_| flight(cache.clone())).collect();
    let answers = join_all(flights.iter().map(|flight| world.ask(flight, SECOND))).await;
    assert_eq!((world.made(), world.store_lookups.load(Ordering::SeqCst)), (1, 0));
    assert!(answers.into_iter().all(|answer| answer.map(|answer| answer.product) == Ok(1)));
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_it_is_found_all_the_same() {
    let world = World { stored: Mutex::new(Some(7)), ..World::default() };
    let flight = flight(Arc::new(FailFirst::new(MemoryCache::new(0), u32::MAX)));
    assert_eq!(world.ask(&flight, SECOND).await, Ok(Obtained::found(7)));
    assert_eq!(world.made(), 0);
}

#[tokio::test(start_paused = true)]
async fn work_longer_than_the_lease_keeps_it() {
    let (world, cache) = (World::default(), cache());
    let (first, second) = (flight(cache.clone()), flight(cache.clone()));
    let minute = Duration::from_secs(60);
    let (first, second) = join(world.ask(&first, minute), world.ask(&second, minute)).await;
    assert_eq!((first, second), (Ok(Obtained::made(1)), Ok(Obtained::found(1))));
    assert_eq!(world.made(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_holder_is_followed_when_its_lease_runs_out() {
    let (world, cache) = (World::default(), cache());
    // A process that took the lease and died.
    cache.acquire_lease("subject", ProductsConfig::default().lease_ttl()).await.unwrap().unwrap();
    let started = Instant::now();
    assert_eq!(world.ask(&flight(cache), SECOND).await, Ok(Obtained::made(1)));
    let waited = started.elapsed();
    assert!((10 * SECOND..13 * SECOND).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_halfway_gives_its_lease_back() {
    let (world, cache) = (World::default(), cache());
    let first = flight(cache.clone());
    let dropped = tokio::time::timeout(SECOND, world.ask(&first, 60 * SECOND)).await;
    assert!(dropped.is_err());
    let started = Instant::now();
    assert_eq!(world.ask(&flight(cache), SECOND).await, Ok(Obtained::made(1)));
    assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_an_error_the_next_one_tries() {
    let (world, cache) = (World::default(), cache());
    let (first, second) = (flight(cache.clone()), flight(cache));
    let failing = FakeWork { world: &world, time: SECOND, fails: true };
    let broken = first.run("subject", &failing);
    let (broken, second) = join(broken, world.ask(&second, SECOND)).await;
    assert_eq!((broken, second), (Err("broken".to_owned()), Ok(Obtained::made(1))));
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_is_away_costs_work_and_nothing_else() {
    let world = World::default();
    let away = Arc::new(FailFirst::new(MemoryCache::new(0), u32::MAX));
    let flights: Vec<DistributedSingleFlight> = (0..3).map(|_| flight(away.clone())).collect();
    let started = Instant::now();
    let answers = join_all(flights.iter().map(|flight| world.ask(flight, SECOND))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(world.made(), 3);
    assert!(started.elapsed() < 2 * SECOND, "nobody waits: {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_forgets_everything_lets_the_holder_go_on() {
    let (world, cache) = (World::default(), cache());
    let first = flight(cache.clone());
    let flush = async {
        sleep(SECOND).await;
        cache.forget_everything();
    };
    let (answer, ()) = join(world.ask(&first, 30 * SECOND), flush).await;
    assert_eq!(answer, Ok(Obtained::made(1)));
}

/// A process that is cut off from the cache: it believes that its lease is renewed, while the lease runs out.
#[derive(Debug)]
struct CutOff {
    cache: Arc<MemoryCache>,
    cut: AtomicBool,
}

#[async_trait]
impl Cache for CutOff {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Fault> {
        self.cache.get(key).await
    }

    async fn contains(&self, key: &str) -> Result<bool, Fault> {
        self.cache.contains(key).await
    }

    async fn put(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), Fault> {
        self.cache.put(key, value, ttl).await
    }

    async fn acquire_lease(&self, key: &str, ttl: Duration) -> Result<Option<FencingToken>, Fault> {
        self.cache.acquire_lease(key, ttl).await
    }

    async fn renew_lease(&self, key: &str, token: FencingToken, ttl: Duration) -> Result<bool, Fault> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Fault::unavailable("cut off on purpose"));
        }
        self.cache.renew_lease(key, token, ttl).await
    }

    async fn release_lease(&self, key: &str, token: FencingToken) -> Result<bool, Fault> {
        self.cache.release_lease(key, token).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_lease_lapsed_stores_nothing_while_another_holds_it() {
    let (world, cache) = (World::default(), cache());
    let cut_off = Arc::new(CutOff { cache: cache.clone(), cut: AtomicBool::new(true) });
    let (slow, next) = (flight(cut_off.clone()), flight(cache));
    let reconnect = async {
        sleep(11 * SECOND).await;
        cut_off.cut.store(false, Ordering::SeqCst);
    };
    // The slow one is done at 12 s, when the next one, which took over at 10 s, is at work until about 40 s.
    let next = async {
        sleep(SECOND).await;
        world.ask(&next, 30 * SECOND).await
    };
    let (slow, next, ()) = tokio::join!(world.ask(&slow, 12 * SECOND), next, reconnect);
    // The slow one finished first, so the one that counts has the number 2.
    assert_eq!((slow, next), (Ok(Obtained::found(2)), Ok(Obtained::made(2))));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_was_overtaken_takes_the_others_product() {
    let (world, cache) = (World::default(), cache());
    let cut_off = Arc::new(CutOff { cache: cache.clone(), cut: AtomicBool::new(true) });
    let (slow, next) = (flight(cut_off.clone()), flight(cache));
    let reconnect = async {
        sleep(29 * SECOND).await;
        cut_off.cut.store(false, Ordering::SeqCst);
    };
    // The next one takes over at 10 s and is done soon after; the slow one is done at 29.5 s.
    let next = async {
        sleep(SECOND).await;
        world.ask(&next, SECOND).await
    };
    let (slow, next, ()) = tokio::join!(world.ask(&slow, Duration::from_millis(29_500)), next, reconnect);
    assert_eq!((slow, next), (Ok(Obtained::found(1)), Ok(Obtained::made(1))));
}
