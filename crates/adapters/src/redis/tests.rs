//! The Redis adapter on a real private server.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use echogen_ports::{Cache, Fault, MemoryBroker, MemoryObjectStore, ObjectKey, Quota, Rate};
use echogen_testkit::{Redis, contract};
use echogen_worker::{CachedObjects, Products, ProductsConfig, StageContext, StoredObject};

use super::{RedisCache, RedisConfig};
use crate::{test_proxy::TestProxy, test_tls::TlsFront};

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
async fn keeps_the_contract_of_a_quota_by_several_connections() {
    let redis = redis();
    let number = AtomicU32::new(0);
    let fresh = async || {
        let prefix = format!("check-{}:", number.fetch_add(1, Ordering::SeqCst));
        let config = RedisConfig { prefix, ..RedisConfig::at(redis.url()) };
        (0..4).map(|_| Arc::new(RedisCache::open(config.clone()).unwrap()) as Arc<dyn Quota>).collect()
    };
    contract::quota_contract(fresh).await;
}

#[tokio::test]
async fn a_loss_of_all_limits_allows_everything_once_more() {
    let redis = redis();
    let (cache, rate) = (cache(&redis), Rate { burst: 1, per_second: 0.001 });
    for _ in 0..2 {
        assert!(cache.charge("a", rate, 1).await.unwrap().allowed);
        assert!(cache.count("a", 1, 1, HOUR).await.unwrap().allowed);
        assert!(cache.hold("a", "one", 1, HOUR).await.unwrap().allowed);
        assert!(!cache.charge("a", rate, 1).await.unwrap().allowed);
        redis.flush().unwrap();
        cache.command::<()>("SCRIPT", ::redis::cmd("SCRIPT").arg("FLUSH")).await.unwrap();
    }
}

#[tokio::test]
async fn the_documented_rights_suffice_for_limits() {
    let redis = Redis::start_with(&DOCUMENTED.split_whitespace().collect::<Vec<_>>()).unwrap();
    let cache = RedisCache::open(RedisConfig::at(redis.url().replace("redis://", "redis://worker:secret@"))).unwrap();
    cache.charge("a", Rate { burst: 1, per_second: 1.0 }, 1).await.unwrap();
    cache.count("a", 1, 1, HOUR).await.unwrap();
    cache.hold("a", "one", 1, HOUR).await.unwrap();
    assert_eq!(cache.held("a").await.unwrap(), 1);
    cache.release("a", "one").await.unwrap();
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
    cache.command::<()>("SET", ::redis::cmd("SET").arg(counter).arg(far)).await.unwrap();
    assert_eq!(cache.acquire_lease("a", HOUR).await.unwrap().unwrap().0, far + 1);
}

#[tokio::test]
async fn every_key_has_the_prefix_and_a_time_to_live() {
    let redis = redis();
    let cache = RedisCache::open(RedisConfig { prefix: "mine:".into(), ..RedisConfig::at(redis.url()) }).unwrap();
    cache.put("a", "1".into(), Duration::MAX).await.unwrap();
    cache.put("b", "1".into(), Duration::ZERO).await.unwrap();
    cache.acquire_lease("a", Duration::MAX).await.unwrap().unwrap();
    cache.charge("a", Rate { burst: 1, per_second: 1e-6 }, 1).await.unwrap();
    cache.count("a", 1, 1, Duration::MAX).await.unwrap();
    cache.hold("a", "one", 1, Duration::MAX).await.unwrap();
    let keys: Vec<String> = cache.command("KEYS", ::redis::cmd("KEYS").arg("*")).await.unwrap();
    assert!(keys.len() >= 6, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("mine:"), "{key}");
        let ttl: i64 = cache.command("PTTL", ::redis::cmd("PTTL").arg(&key)).await.unwrap();
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

/// The rules that the page on operations gives a user.
const DOCUMENTED: &str = "--user worker on >secret ~echogen:* +@read +@write +@scripting +@connection +time +info";

/// What the check of a server says that was started with these arguments.
async fn checked(arguments: &str, user: &str) -> Result<(), Fault> {
    let redis = Redis::start_with(&arguments.split_whitespace().collect::<Vec<_>>()).unwrap();
    let cache = RedisCache::open(RedisConfig::at(redis.url().replace("redis://", &format!("redis://{user}")))).unwrap();
    cache.check().await
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_named() {
    checked("", "").await.unwrap();
    let primary = redis();
    let replica = format!("--replicaof 127.0.0.1 {}", primary.port());
    for (arguments, user, is_permanent, part) in [
        ("--cluster-enabled yes", "", true, "is a Redis Cluster; EchoGen needs one server"),
        (replica.as_str(), "", true, "is a read-only replica; name the primary in cache.url"),
        ("--maxmemory 1 --maxmemory-policy noeviction", "", false, "has no memory left"),
        ("--requirepass right", ":wrong@", true, "check cache.url"),
        ("--user worker on >secret ~* +@all -evalsha", "worker:secret@", true, "change the user's rules"),
        ("--user worker on >secret ~other* +@all", "worker:secret@", true, "change the user's rules"),
        (DOCUMENTED, "worker:secret@", true, ""),
        ("--user worker on >secret ~* +@all -info", "worker:secret@", true, ""),
    ] {
        match checked(arguments, user).await {
            Ok(()) => assert_eq!(part, "", "{arguments} is found"),
            Err(fault) => {
                assert!(!part.is_empty() && fault.to_string().contains(part), "{arguments}: {fault}");
                assert_eq!(fault.is_permanent(), is_permanent, "{arguments}: {fault}");
            }
        }
    }
}

#[tokio::test]
async fn a_cluster_is_named_by_every_call() {
    let redis = Redis::start_with(&["--cluster-enabled", "yes"]).unwrap();
    let error = cache(&redis).put("a", "1".into(), HOUR).await.unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("is a Redis Cluster"), "{error}");
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

#[tokio::test]
async fn user_and_password_beside_the_address_are_taken_as_they_are() {
    let password = "p@ss:w/rd%2f?#&'\"$\\";
    let redis = redis();
    let mut admin = ::redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    // Over the connection: servers read quotes and backslashes on their command line in different ways.
    let user = ["SETUSER", "me@home", "on", &format!(">{password}"), "~*", "+@all"];
    ::redis::cmd("ACL").arg(&user).exec_async(&mut admin).await.unwrap();
    ::redis::cmd("CONFIG").arg(&["SET", "requirepass", password]).exec_async(&mut admin).await.unwrap();
    for (user, given, succeeds) in [
        (None, Some(password), true),
        (Some("me@home"), Some(password), true),
        (Some("me@home"), Some("wrong"), false),
        (None, None, false),
        (Some("me@home"), None, false),
    ] {
        let (user, password) = (user.map(Into::into), given.map(Into::into));
        let opened = RedisCache::open(RedisConfig { user, password, ..RedisConfig::at(redis.url()) });
        let Ok(cache) = opened else {
            assert!(given.is_none() && opened.unwrap_err().to_string().starts_with("cache.user is set without"));
            continue;
        };
        assert_eq!(cache.check().await.is_ok(), succeeds, "{given:?}");
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
                    Ok::<_, Fault>("product".into())
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
fn settings_that_cannot_work_are_refused_at_once() {
    let good = RedisConfig::at("redis://127.0.0.1");
    for (config, why) in [
        (RedisConfig::default(), "cache.url is not set; write redis://host:6379/0"),
        (RedisConfig::at(""), "cache.url is not set"),
        (RedisConfig::at("localhost"), "cache.url does not begin with redis://; write redis://localhost"),
        (RedisConfig::at("http://localhost:6379"), "write redis://localhost:6379"),
        (RedisConfig { certificates: Some("/nowhere".into()), ..good.clone() }, "cache.certificates names the file"),
        (RedisConfig { response_timeout_seconds: 0.0, ..good.clone() }, "cache.response_timeout_seconds is 0"),
        (RedisConfig { pause_seconds: f64::NAN, ..good.clone() }, "cache.pause_seconds is NaN"),
    ] {
        let error = RedisCache::open(config).unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains(why), "{error}");
    }
    assert!(RedisCache::open(RedisConfig { pause_seconds: 0.0, ..good }).is_ok());
}

/// A value of 4 MiB in the cache behind a line of this speed.
async fn behind_a_slow_line(redis: &Redis, bytes_per_second: f64, config: RedisConfig) -> (RedisCache, TestProxy) {
    let value = Bytes::from(vec![7; 4 << 20]);
    cache(redis).put("large", value, HOUR).await.unwrap();
    let line = TestProxy::to(redis.port()).slow(bytes_per_second).listening((Ipv4Addr::LOCALHOST, 0)).await;
    let url = Some(format!("redis://127.0.0.1:{}", line.port()).into());
    (RedisCache::open(RedisConfig { url, ..config }).unwrap(), line)
}

#[tokio::test]
async fn leases_and_small_values_do_not_wait_for_large_ones() {
    let redis = redis();
    let (cache, _line) = behind_a_slow_line(&redis, (2 << 20) as f64, RedisConfig::default()).await;
    let lease = cache.acquire_lease("a", HOUR).await.unwrap().unwrap();
    let large = async {
        assert_eq!(cache.get("large").await.unwrap().unwrap().len(), 4 << 20);
        cache.put("other", vec![8; 4 << 20].into(), HOUR).await.unwrap();
    };
    let mut large = std::pin::pin!(large);
    let (mut renewed, began) = (0, Instant::now());
    loop {
        let small = async {
            assert!(cache.renew_lease("a", lease, HOUR).await.unwrap());
            cache.put("small", "1".into(), HOUR).await.unwrap();
            assert_eq!(cache.get("small").await.unwrap().unwrap(), "1");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        tokio::select! {
            () = &mut large => break,
            () = small => renewed += 1,
        }
    }
    assert!(began.elapsed() > Duration::from_secs(2), "the large values are slow: {:?}", began.elapsed());
    assert!(renewed > 10, "{renewed}");
}

#[tokio::test]
async fn a_large_value_that_takes_too_long_makes_nothing_else_fail() {
    let redis = redis();
    let hasty = RedisConfig { response_timeout_seconds: 0.2, pause_seconds: 60.0, ..RedisConfig::default() };
    let (cache, _line) = behind_a_slow_line(&redis, (256 << 10) as f64, hasty).await;
    let error = cache.get("large").await.unwrap_err();
    assert!(!error.is_permanent() && error.to_string().contains("a value of 4194304 bytes within 2s"), "{error}");
    cache.put("small", "1".into(), HOUR).await.unwrap();
    assert!(cache.acquire_lease("a", HOUR).await.unwrap().is_some());
}

#[tokio::test]
async fn scripts_survive_a_flush_and_a_restart() {
    let mut redis = redis();
    let cache = cache(&redis);
    let token = cache.acquire_lease("a", HOUR).await.unwrap().unwrap();
    cache.command::<()>("SCRIPT", ::redis::cmd("SCRIPT").arg("FLUSH")).await.unwrap();
    assert!(cache.renew_lease("a", token, HOUR).await.unwrap());
    assert!(cache.release_lease("a", token).await.unwrap());
    redis.kill_9();
    redis.restart().unwrap();
    until_back(&cache).await;
    assert!(cache.acquire_lease("a", HOUR).await.unwrap().unwrap() > token);
}

#[tokio::test]
async fn scripts_are_sent_once() {
    let redis = redis();
    let cache = cache(&redis);
    for _ in 0..5 {
        let token = cache.acquire_lease("a", HOUR).await.unwrap().unwrap();
        assert!(cache.release_lease("a", token).await.unwrap());
        assert_eq!(cache.get("a").await.unwrap(), None);
    }
    let stats: String = cache.command("INFO", ::redis::cmd("INFO").arg("commandstats")).await.unwrap();
    let calls = |command: &str| {
        let start = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |line| line.split(',').next().unwrap().parse::<u32>().unwrap())
    };
    assert_eq!((calls("eval"), calls("script|load") + calls("script")), (0, 3), "{stats}");
    assert!(calls("evalsha") >= 15, "{stats}");
}

#[tokio::test]
async fn a_server_with_an_ipv6_address_is_reached() {
    let redis = redis();
    let line = TestProxy::to(redis.port()).listening((Ipv6Addr::LOCALHOST, 0)).await;
    let cache = RedisCache::open(RedisConfig::at(format!("redis://[::1]:{}/1", line.port()))).unwrap();
    cache.put("a", "1".into(), HOUR).await.unwrap();
    assert_eq!(cache.get("a").await.unwrap().unwrap(), "1");
    assert_eq!(self::cache(&redis).get("a").await.unwrap(), None, "it is in the other database");
}

#[tokio::test]
async fn an_own_authority_is_trusted_besides_the_systems() {
    let redis = redis();
    let front = TlsFront::before(redis.port()).await;
    let encrypted = RedisConfig::at(format!("rediss://localhost:{}", front.port));
    let trusting = RedisConfig { certificates: Some(front.certificate.clone()), ..encrypted.clone() };
    let cache = RedisCache::open(trusting).unwrap();
    cache.put("a", "1".into(), HOUR).await.unwrap();
    assert_eq!(cache.get("a").await.unwrap().unwrap(), "1");
    let error = RedisCache::open(encrypted).unwrap().get("a").await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}
