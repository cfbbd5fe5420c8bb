//! A connection that is lost costs no work, and others are served meanwhile.

use echogen_testkit::CutConnections;

use super::*;

/// A bench whose broker's connections can be cut.
fn bench() -> (Bench, Arc<CutConnections<MemoryBroker>>) {
    let mut cut = None;
    let bench = Bench::start(
        |broker| {
            let broker = Arc::new(CutConnections::new(broker));
            cut = Some(Arc::clone(&broker));
            broker
        },
        0,
    );
    (bench, cut.expect("the bench takes the broker"))
}

async fn at_work(bench: &Bench, tasks: u32) {
    let stage = Arc::clone(&bench.stage);
    eventually("so many are at work", || stage.at_work.load(Ordering::SeqCst) == tasks).await;
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_without_its_connection_and_others_are_served_meanwhile() {
    let (bench, broker) = bench();
    bench.send("long-one").await;
    at_work(&bench, 1).await;
    let lost = Instant::now();
    broker.cut().await;
    bench.send("two").await;
    let stage = Arc::clone(&bench.stage);
    eventually("another is served", || stage.tries("two") == 1).await;
    assert!(lost.elapsed() < Duration::from_secs(2), "{:?}", lost.elapsed());
    assert_eq!((bench.followed(), bench.stage.tries("long-one")), (1, 1), "the long one is at work, once");
    bench.idle().await;
    // Its message came again, and found it done: here the script does it once more, elsewhere its product is there.
    assert_eq!((bench.followed(), bench.stage.tries("long-one")), (3, 2), "it was not broken off");
    assert_eq!(bench.stage.most_at_work.load(Ordering::SeqCst), 1, "and never stood beside its own return");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_for_the_tasks_of_all_connections_together() {
    let (bench, broker) = bench();
    for round in 0..3 {
        for number in 0..2 {
            bench.send(&format!("slow-{round}-{number}")).await;
        }
        sleep(Duration::from_secs(2)).await;
        broker.cut().await;
    }
    bench.idle().await;
    assert_eq!(bench.stage.most_at_work.load(Ordering::SeqCst), 2);
    for round in 0..3 {
        for number in 0..2 {
            assert!(bench.stage.tries(&format!("slow-{round}-{number}")) >= 1);
        }
    }
    assert!(bench.broker.dead_letters(&queue()).is_empty());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_came_back_from_another_worker_still_runs_alone() {
    let (bench, broker) = bench();
    bench.send("slow-mine").await;
    at_work(&bench, 1).await;
    broker.cut().await;
    let foreign = Message::of_job(&job("slow-foreign"), bench.clock.now());
    bench.broker.publish(&queue(), foreign).await.unwrap();
    // As if another worker had died of it, twice.
    for times in 0..2 {
        let mut other = bench.broker.consume(&queue(), 10).await.unwrap();
        let held = [other.receive().await.unwrap().unwrap(), other.receive().await.unwrap().unwrap()];
        assert!(held.iter().any(|delivery| delivery.redeliveries == times), "nobody else has had the foreign one");
        drop((held, other));
    }
    bench.idle().await;
    assert_eq!(bench.stage.most_at_work.load(Ordering::SeqCst), 1, "nothing else is at work while it runs");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_after_the_loss_gives_the_same_grace() {
    let (bench, broker) = bench();
    bench.send("stuck").await;
    let stage = Arc::clone(&bench.stage);
    eventually("it is at work", || stage.tries("stuck") == 1).await;
    broker.cut().await;
    sleep(Duration::from_secs(1)).await;
    let (twin, began) = (bench.broker.clone(), Instant::now());
    bench.stop().await;
    assert_eq!(began.elapsed(), config().grace());
    assert_eq!((twin.waiting(&queue()), stage.tries("stuck")), (1, 1), "its message waits for another worker");
}
