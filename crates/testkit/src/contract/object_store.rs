//! The contract of [`ObjectStore`].

use std::sync::Arc;

use bytes::Bytes;

use echogen_ports::{ObjectKey, ObjectStore};

/// Checks an object store.
pub async fn object_store_contract(fresh: impl AsyncFn() -> Arc<dyn ObjectStore>) {
    object_store_basic_contract(&fresh).await;
    object_store_folders_contract(&fresh).await;
    object_store_races_contract(fresh).await;
}

/// All of [`object_store_contract`] but what a server may lack: listings of folders in folders, and concurrent writers of one
/// key.
pub async fn object_store_basic_contract(fresh: impl AsyncFn() -> Arc<dyn ObjectStore>) {
    an_absent_object_is_none(&*fresh().await).await;
    what_was_put_is_there_whole(&*fresh().await).await;
    putting_again_replaces(&*fresh().await).await;
    the_size_limit_holds_exactly(&*fresh().await).await;
    put_if_absent_keeps_the_first(&*fresh().await).await;
    deleting_is_idempotent(&*fresh().await).await;
    keys_of_every_shape_work(&*fresh().await).await;
    readers_see_whole_objects(fresh().await).await;
    keys_of_one_folder_are_listed(&*fresh().await).await;
    a_prefix_that_is_no_folder_is_refused(&*fresh().await).await;
}

/// Checks listings of folders in folders: all keys are in the order of their bytes, and no page loses one.
pub async fn object_store_folders_contract(fresh: impl AsyncFn() -> Arc<dyn ObjectStore>) {
    keys_are_listed_in_order(&*fresh().await).await;
    keys_are_listed_page_by_page(&*fresh().await).await;
}

/// Checks that of concurrent writers "only if absent" one wins, which a store that checks first and then writes does not
/// keep. Time and again, because a store may keep it by luck.
pub async fn object_store_races_contract(fresh: impl AsyncFn() -> Arc<dyn ObjectStore>) {
    let store = fresh().await;
    for round in 0..8 {
        of_many_writers_one_wins(Arc::clone(&store), &format!("race/{round}")).await;
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).expect("the contract's keys are valid")
}

async fn read(store: &dyn ObjectStore, at: &str) -> Option<Bytes> {
    store.get(&key(at), 1 << 30).await.expect("a read of a healthy store works")
}

async fn put(store: &dyn ObjectStore, at: &str, bytes: &'static [u8]) {
    store.put(&key(at), Bytes::from_static(bytes)).await.expect("a write to a healthy store works");
}

async fn an_absent_object_is_none(store: &dyn ObjectStore) {
    assert_eq!(read(store, "a/b").await, None);
    assert!(!store.exists(&key("a/b")).await.expect("exists works"));
}

async fn what_was_put_is_there_whole(store: &dyn ObjectStore) {
    for bytes in [&b""[..], b"x", b"\0\xff\r\n"] {
        put(store, "a/b", bytes).await;
        assert_eq!(read(store, "a/b").await.as_deref(), Some(bytes));
        assert!(store.exists(&key("a/b")).await.expect("exists works"));
    }
}

async fn putting_again_replaces(store: &dyn ObjectStore) {
    put(store, "a", b"a long first version").await;
    put(store, "a", b"second").await;
    assert_eq!(read(store, "a").await.as_deref(), Some(&b"second"[..]));
}

async fn the_size_limit_holds_exactly(store: &dyn ObjectStore) {
    put(store, "a", b"12345").await;
    assert!(store.get(&key("a"), 5).await.expect("at the limit is fine").is_some());
    let error = store.get(&key("a"), 4).await.expect_err("over the limit is refused");
    assert!(error.is_permanent(), "{error}");
    assert!(error.to_string().contains("the limit is 4"), "{error}");
}

async fn put_if_absent_keeps_the_first(store: &dyn ObjectStore) {
    let at = key("jobs/one/result.json");
    assert!(store.put_if_absent(&at, Bytes::from_static(b"first")).await.expect("the key is free"));
    assert!(!store.put_if_absent(&at, Bytes::from_static(b"second")).await.expect("the key is taken"));
    assert_eq!(read(store, "jobs/one/result.json").await.as_deref(), Some(&b"first"[..]));
    store.delete(&at).await.expect("delete works");
    assert!(store.put_if_absent(&at, Bytes::from_static(b"third")).await.expect("the key is free again"));
}

async fn deleting_is_idempotent(store: &dyn ObjectStore) {
    put(store, "a/b", b"1").await;
    put(store, "a/c", b"2").await;
    for _ in 0..2 {
        store.delete(&key("a/b")).await.expect("delete works");
        assert_eq!(read(store, "a/b").await, None);
    }
    assert!(read(store, "a/c").await.is_some(), "the neighbour stays");
}

async fn keys_of_every_shape_work(store: &dyn ObjectStore) {
    let long = format!("{}/{}", "x".repeat(200), "y".repeat(200));
    for at in ["a", "a.b", "A-1_2/b.c/d", "deep/er/and/deep/er/still", &long] {
        put(store, at, b"1").await;
        assert!(read(store, at).await.is_some(), "{at}");
    }
}

/// In the order of their bytes: `-` and `.` come before the `/` of a folder, digits and letters after it.
const LISTED: [&str; 9] = ["a/B", "a/b-1", "a/b.json", "a/b/1", "a/b/2/3", "a/b/2/4", "a/b0", "a/c", "a/c-/0"];

async fn list(store: &dyn ObjectStore, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let after = after.map(key);
    let listed = store.list(prefix, after.as_ref(), limit).await.expect("a healthy store lists its keys");
    listed.iter().map(ToString::to_string).collect()
}

/// Lists all keys in pages of that size; a shorter one is the last.
async fn list_in_pages(store: &dyn ObjectStore, prefix: &str, size: usize) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    loop {
        let page = list(store, prefix, found.last().map(String::as_str), size).await;
        assert!(page.len() <= size, "{page:?}");
        let is_last = page.len() < size;
        found.extend(page);
        if is_last {
            return found;
        }
    }
}

async fn fill(store: &dyn ObjectStore) {
    // Neither the order nor the neighbours of the writes matter.
    for at in LISTED.iter().rev().chain(&["a-/x", "a.x", "aa/x", "b/x", "A"]) {
        put(store, at, b"1").await;
    }
}

async fn keys_of_one_folder_are_listed(store: &dyn ObjectStore) {
    const OWN: [&str; 5] = ["a/B", "a/b-1", "a/b.json", "a/b0", "a/c"];
    for at in OWN.iter().rev().chain(&["a-/x", "a.x", "aa/x"]) {
        put(store, at, b"1").await;
    }
    for size in 1..=OWN.len() + 1 {
        assert_eq!(list_in_pages(store, "a/", size).await, OWN, "in pages of {size}");
    }
}

async fn keys_are_listed_in_order(store: &dyn ObjectStore) {
    assert!(list(store, "", None, 9).await.is_empty() && list(store, "a/", None, 9).await.is_empty(), "nothing there");
    fill(store).await;
    assert_eq!(list(store, "a/", None, 100).await, LISTED);
    let mut all = [&["A", "a-/x", "a.x"][..], &LISTED, &["aa/x", "b/x"]].concat();
    assert_eq!(list(store, "", None, 100).await, all);
    assert_eq!(list(store, "a/b/", None, 100).await, ["a/b/1", "a/b/2/3", "a/b/2/4"]);
    assert!(list(store, "a/b/3/", None, 100).await.is_empty(), "an absent folder has no keys");
    assert!(list(store, "a/c/", None, 100).await.is_empty(), "an object is no folder");
    store.delete(&key("a/b/1")).await.expect("delete works");
    all.retain(|at| *at != "a/b/1");
    assert_eq!(list(store, "", None, 100).await, all, "what is deleted is not listed");
}

async fn keys_are_listed_page_by_page(store: &dyn ObjectStore) {
    fill(store).await;
    for size in 1..=LISTED.len() + 1 {
        assert_eq!(list_in_pages(store, "a/", size).await, LISTED, "in pages of {size}");
    }
    assert!(list(store, "a/", None, 0).await.is_empty());
    assert_eq!(list(store, "a/", Some("a/b"), 2).await, ["a/b-1", "a/b.json"], "after a key that does not exist");
    assert_eq!(list(store, "a/", Some("a/b/2"), 1).await, ["a/b/2/3"], "after a folder's name");
    assert_eq!(list(store, "a/", Some("A"), 1).await, ["a/B"], "after a key before the prefix");
    assert!(list(store, "a/", Some("aa/x"), 9).await.is_empty(), "after a key behind the prefix");
    assert!(list(store, "a/", Some("a/c-/0"), 9).await.is_empty(), "after the last one");
}

async fn a_prefix_that_is_no_folder_is_refused(store: &dyn ObjectStore) {
    for prefix in ["a", "/", "a//", "../"] {
        let error = store.list(prefix, None, 1).await.expect_err("it is no folder");
        assert!(error.is_permanent(), "{prefix}: {error}");
    }
}

async fn of_many_writers_one_wins(store: Arc<dyn ObjectStore>, at: &str) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16_u8 {
        let (store, key) = (Arc::clone(&store), key(at));
        writers.spawn(async move {
            let won = store.put_if_absent(&key, Bytes::from(vec![writer; 1_000])).await;
            (writer, won.expect("a race is no error"))
        });
    }
    let winners: Vec<u8> = writers.join_all().await.into_iter().filter(|(_, won)| *won).map(|(who, _)| who).collect();
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    assert_eq!(read(&*store, at).await.as_deref(), Some(&vec![winners[0]; 1_000][..]));
}

async fn readers_see_whole_objects(store: Arc<dyn ObjectStore>) {
    const SIZE: usize = 200_000;
    store.put(&key("a"), Bytes::from(vec![0; SIZE])).await.expect("put works");
    let writer = {
        let store = Arc::clone(&store);
        async move {
            for version in 1..=20_u8 {
                store.put(&key("a"), Bytes::from(vec![version; SIZE])).await.expect("put works");
            }
        }
    };
    let reader = async {
        for _ in 0..40 {
            let bytes = read(&*store, "a").await.expect("the object is always there");
            assert_eq!(bytes.len(), SIZE);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a reader saw two versions at once");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(writer, reader);
}
