//! The contract of [`Browse`].

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use echogen_ports::{Browse, Browser, Message, QueueName};
use echogen_protocol::{Lane, StageName};

use super::soon;

/// More than the requests that an adapter keeps in flight, and more than a broker processes at once.
const MANY: usize = 100;

/// Checks a broker whose queues can be looked through.
pub async fn browse_contract(fresh: impl AsyncFn() -> Arc<dyn Browse>) {
    an_empty_queue_ends_at_once(&*fresh().await).await;
    what_is_not_removed_stays_in_order(&*fresh().await).await;
    what_is_removed_is_gone_and_the_rest_stays_in_order(&*fresh().await).await;
    no_more_is_taken_than_was_asked_for(&*fresh().await).await;
    what_is_taken_is_hidden_until_the_browser_ends(&*fresh().await).await;
    looking_often_removes_nothing(&*fresh().await).await;
}

fn queue() -> QueueName {
    QueueName::of(StageName::Sampler, Lane::Standard).dead_letters()
}

async fn publish(broker: &dyn Browse, numbers: impl IntoIterator<Item = usize>) {
    for number in numbers {
        let message = Message { body: number.to_string().into(), ..Message::default() };
        broker.publish(&queue(), message).await.expect("publish works");
    }
}

async fn browse(broker: &dyn Browse, count: usize) -> Box<dyn Browser> {
    let count = u64::try_from(count).expect("a small number");
    broker.browse(&queue(), count).await.expect("browse works")
}

async fn next(browser: &mut Box<dyn Browser>) -> Option<(usize, u64)> {
    let browsed = soon("the browser answers", browser.next()).await.expect("next works")?;
    let text = String::from_utf8_lossy(&browsed.message.body).into_owned();
    Some((text.parse().expect("a number was published"), browsed.tag))
}

async fn rest(browser: &mut Box<dyn Browser>) -> Vec<usize> {
    let mut numbers = Vec::new();
    while let Some((number, _)) = next(browser).await {
        numbers.push(number);
    }
    numbers
}

/// Waits until so many messages are ready.
async fn ready(broker: &dyn Browse, count: usize) {
    let ready = async {
        while broker.depth(&queue()).await.expect("depth works") != u64::try_from(count).expect("a small number") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(&format!("{count} messages are ready"), ready).await;
}

async fn close(browser: Box<dyn Browser>) {
    soon("the browser closes", browser.close()).await.expect("close works");
}

async fn an_empty_queue_ends_at_once(broker: &dyn Browse) {
    assert_eq!(broker.depth(&queue()).await.expect("depth works"), 0);
    let mut browser = browse(broker, 10).await;
    assert_eq!(next(&mut browser).await, None);
    publish(broker, [1]).await;
    assert_eq!(next(&mut browser).await, None, "it has ended, whatever arrives later");
    close(browser).await;
    ready(broker, 1).await;
}

async fn what_is_not_removed_stays_in_order(broker: &dyn Browse) {
    publish(broker, 0..MANY).await;
    for taken in [MANY / 2, MANY, MANY + 1] {
        ready(broker, MANY).await;
        let mut browser = browse(broker, taken).await;
        assert_eq!(rest(&mut browser).await, (0..taken.min(MANY)).collect::<Vec<_>>());
        close(browser).await;
    }
}

async fn what_is_removed_is_gone_and_the_rest_stays_in_order(broker: &dyn Browse) {
    publish(broker, 0..MANY).await;
    ready(broker, MANY).await;
    let mut browser = browse(broker, MANY).await;
    while let Some((number, tag)) = next(&mut browser).await {
        if number % 3 == 0 {
            browser.remove(tag).await.expect("remove works");
        }
    }
    browser.flush().await.expect("flush works");
    close(browser).await;
    let left: Vec<usize> = (0..MANY).filter(|number| number % 3 != 0).collect();
    ready(broker, left.len()).await;
    let mut browser = browse(broker, MANY).await;
    assert_eq!(rest(&mut browser).await, left);
}

async fn no_more_is_taken_than_was_asked_for(broker: &dyn Browse) {
    publish(broker, 0..10).await;
    ready(broker, 10).await;
    let mut browser = browse(broker, 5).await;
    let (_, tag) = next(&mut browser).await.expect("there are messages");
    browser.remove(tag).await.expect("remove works");
    publish(broker, [10]).await;
    assert_eq!(rest(&mut browser).await, [1, 2, 3, 4]);
    close(browser).await;
    let mut browser = browse(broker, 100).await;
    assert_eq!(rest(&mut browser).await, (1..=10).collect::<Vec<_>>());
}

async fn what_is_taken_is_hidden_until_the_browser_ends(broker: &dyn Browse) {
    publish(broker, 0..MANY).await;
    ready(broker, MANY).await;
    let mut browser = browse(broker, MANY).await;
    assert_eq!(rest(&mut browser).await.len(), MANY);
    ready(broker, 0).await;
    let mut other = browse(broker, MANY).await;
    assert_eq!(next(&mut other).await, None);
    drop((browser, other));
    ready(broker, MANY).await;
    let mut browser = browse(broker, MANY).await;
    assert_eq!(rest(&mut browser).await.into_iter().collect::<BTreeSet<_>>().len(), MANY);
}

/// A broker may drop a message that was delivered too often; looking at it is no delivery of that kind.
async fn looking_often_removes_nothing(broker: &dyn Browse) {
    publish(broker, 0..3).await;
    for _ in 0..40 {
        ready(broker, 3).await;
        let mut browser = browse(broker, 3).await;
        assert_eq!(rest(&mut browser).await, [0, 1, 2]);
        close(browser).await;
    }
}
