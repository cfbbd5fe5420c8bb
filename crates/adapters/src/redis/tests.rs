//! The Redis adapter on a real private server.

use std::{
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use echogen_ports::{Cache, MemoryBroker, MemoryObjectStore, ObjectKey, PortError, contract};
use echogen_testkit::Redis;
use echogen_worker::{CachedObjects, Products, ProductsConfig, StageContext, StoredObject};

use super::{RedisCache, RedisConfig};

const HOUR: Duration = Duration::from_secs(3_600);

fn redis() -> Redis {
    Redis::start().unwrap_or_else(|error| panic!("{error}"))
}

fn cache(redis: &Redis) -> RedisCache {
    RedisCache::open(RedisConfig::at(redis.url())).unwrap()
}

/// Waits until the cache answers again after its pause.
async fn until_back(cache: &RedisCache) {
    for _ in 0..200 {
        if cache.get("a").await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("redis is not found again");
}

#[tokio::test]
async fn keeps_the_contract() {
    let redis = redis();
    let number = AtomicU32::new(0);
    let fresh = async || {
        let prefix = format!("check-{}:", number.fetch_add(1, Ordering::SeqCst));
        let config = RedisConfig { prefix, ..RedisConfig::at(redis.url()) };
        Arc::new(RedisCache::open(config).unwrap()) as Arc<dyn Cache>
    };
    contract::cache_contract(fresh).await;
}

#[tokio::test]
async fn tokens_grow_even_over_a_flush_and_a_restart() {
    let mut redis = redis();
    let cache = cache(&redis);
    contract::fencing_contract(&cache, async || redis.flush().unwrap()).await;
    let before = cache.acquire_lease("other", HOUR).await.unwrap().unwrap();
    redis.kill_9();
    redis.restart().unwrap();
    until_back(&cache).await;
    assert!(cache.acquire_lease("other", HOUR).await.unwrap().unwrap() > before);
}

#[tokio::test]
async fn tokens_grow_even_when_the_clock_is_behind_the_counter() {
    let redis = redis();
    let cache = cache(&redis);
    let first = cache.acquire_lease("a", HOUR).await.unwrap().unwrap();
    assert!(cache.release_lease("a", first).await.unwrap());
    let far = first.0 + 3_600_000_000;
    let (_, counter) = cache.lease_keys("a");
    cache.call::<()>(::redis::cmd("SET").arg(counter).arg(far)).await.unwrap();
    assert_eq!(cache.acquire_lease("a", HOUR).await.unwrap().unwrap().0, far + 1);
}

#[tokio::test]
async fn every_key_has_the_prefix_and_a_time_to_live() {
    let redis = redis();
    let cache = RedisCache::open(RedisConfig { prefix: "mine:".into(), ..RedisConfig::at(redis.url()) }).unwrap();
    cache.put("a", "1".into(), Duration::MAX).await.unwrap();
    cache.put("b", "1".into(), Duration::ZERO).await.unwrap();
    cache.acquire_lease("a", Duration::MAX).await.unwrap().unwrap();
    let keys: Vec<String> = cache.call(::redis::cmd("KEYS").arg("*")).await.unwrap();
    assert!(keys.len() >= 3, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("mine:"), "{key}");
        let ttl: i64 = cache.call(::redis::cmd("PTTL").arg(&key)).await.unwrap();
        assert_ne!(ttl, -1, "{key} stays for ever");
    }
}

#[tokio::test]
async fn a_value_over_the_bound_is_not_stored_and_one_at_it_is() {
    let redis = redis();
    let cache = RedisCache::open(RedisConfig { max_value_bytes: 10, ..RedisConfig::at(redis.url()) }).unwrap();
    cache.put("a", Bytes::from(vec![7; 10]), HOUR).await.unwrap();
    cache.put("b", Bytes::from(vec![7; 11]), HOUR).await.unwrap();
    assert!(cache.get("a").await.unwrap().is_some());
    assert!(cache.get("b").await.unwrap().is_none());
}

#[tokio::test]
async fn large_binary_values_come_back_whole() {
    let redis = redis();
    let cache = cache(&redis);
    let value = Bytes::from_iter((0..4 << 20).map(|at: u32| (at * 31 % 251) as u8));
    cache.put("a", value.clone(), HOUR).await.unwrap();
    assert_eq!(cache.get("a").await.unwrap().unwrap(), value);
}

#[tokio::test]
async fn a_redis_that_is_away_fails_quickly_and_is_found_again() {
    let mut redis = redis();
    let cache = cache(&redis);
    cache.put("a", "1".into(), HOUR).await.unwrap();
    redis.kill_9();
    let started = Instant::now();
    for _ in 0..1_000 {
        let error = cache.get("a").await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
        assert!(error.to_string().contains("redis at 127.0.0.1:"), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "a thousand calls took {:?}", started.elapsed());
    redis.restart().unwrap();
    until_back(&cache).await;
    assert_eq!(cache.get("a").await.unwrap(), None, "its memory is gone");
}

#[tokio::test]
async fn a_restart_between_two_calls_is_not_noticed() {
    let mut redis = redis();
    let cache = cache(&redis);
    cache.put("a", "1".into(), HOUR).await.unwrap();
    redis.kill_9();
    redis.restart().unwrap();
    cache.put("a", "2".into(), HOUR).await.unwrap();
    assert_eq!(cache.get("a").await.unwrap().unwrap(), "2");
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_timeout_and_is_found_again() {
    let redis = redis();
    let config = RedisConfig { response_timeout_seconds: 0.2, ..RedisConfig::at(redis.url()) };
    let cache = RedisCache::open(config).unwrap();
    cache.put("a", "1".into(), HOUR).await.unwrap();
    redis.pause().unwrap();
    let started = Instant::now();
    let error = cache.get("a").await.unwrap_err();
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    for _ in 0..100 {
        assert!(cache.get("a").await.is_err());
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    redis.resume().unwrap();
    until_back(&cache).await;
    assert_eq!(cache.get("a").await.unwrap().unwrap(), "1");
}

#[tokio::test]
async fn a_redis_that_was_never_there_is_a_transient_error() {
    // Nothing listens on the port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cache = RedisCache::open(RedisConfig::at(format!("redis://127.0.0.1:{port}"))).unwrap();
    assert!(!cache.get("a").await.unwrap_err().is_permanent());
}

#[tokio::test]
async fn a_wrong_password_is_permanent_and_neither_shown() {
    let redis = redis();
    let url = redis.url().replace("redis://", "redis://user:secret@");
    let cache = RedisCache::open(RedisConfig::at(url.as_str())).unwrap();
    let error = cache.get("a").await.unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("check cache.url"), "{error}");
    for shown in [format!("{error:?}"), format!("{cache:?}"), format!("{:?}", RedisConfig::at(url.as_str()))] {
        assert!(!shown.contains("secret"), "{shown}");
    }
}

/// Four processes, each with its own connection and its own products.
#[tokio::test]
async fn two_hundred_tasks_in_four_processes_make_one_product() {
    let (redis, config) = (redis(), ProductsConfig::default());
    let (store, made) = (Arc::new(MemoryObjectStore::new()), Arc::new(AtomicU32::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let objects = CachedObjects::new(store.clone(), Arc::new(cache(&redis)), &config);
        let process = Arc::new(Products::<StoredObject>::new(objects, &config));
        for _ in 0..50 {
            let (process, made) = (process.clone(), made.clone());
            tasks.spawn(async move {
                let context = StageContext::for_test(Arc::new(MemoryBroker::new()));
                let key = ObjectKey::new("subjects/one").unwrap();
                let make = || async {
                    made.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    Ok::<_, PortError>("product".into())
                };
                process.get_or_make(&context, &key, false, make).await
            });
        }
    }
    let answers = tasks.join_all().await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((answers.len(), made.load(Ordering::SeqCst)), (200, 1));
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    for url in ["", "localhost", "http://localhost:6379", "redis://:"] {
        let error = RedisCache::open(RedisConfig::at(url)).unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("redis://host:6379/0"), "{url}: {error}");
    }
}
