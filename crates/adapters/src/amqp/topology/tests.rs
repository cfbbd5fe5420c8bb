//! What an installation declares, and how it is printed.

use echogen_protocol::{Lane, Partitions};

use super::*;

fn topology() -> Topology {
    Topology::of(&AmqpConfig::default())
}

fn consumed(stage: StageName) -> impl Iterator<Item = QueueName> {
    stage.queues(Partitions::default()).into_iter().chain(stage.unsplit())
}

fn text(queue: &Queue, argument: &str) -> String {
    queue.arguments.get(argument).map(ToString::to_string).unwrap_or_default()
}

#[test]
fn every_queue_of_a_stage_can_be_reached_retried_and_given_up() {
    let topology = topology();
    for (stage, queue) in StageName::ALL.iter().flat_map(|stage| consumed(*stage).map(move |queue| (stage, queue))) {
        let name = topology.names().queue(&queue);
        let found = topology.queues.iter().find(|queue| queue.name == name).expect("it is declared");
        let dead = topology.names().queue(&queue.dead_letters());
        assert!(topology.has_queue(&dead), "{name} has a place for dead letters");
        for queue in [&queue, &queue.dead_letters()] {
            let Route { exchange, routing_key, .. } = topology.names().route(queue);
            let queue = topology.names().queue(queue);
            assert!(topology.bindings.contains(&Binding { exchange, routing_key, queue }), "{name}");
        }
        let (exchange, routing_key) = (text(found, "x-dead-letter-exchange"), text(found, "x-dead-letter-routing-key"));
        let kept = stage.returned().unwrap_or_else(|| queue.dead_letters());
        let dead = Binding { exchange, routing_key, queue: topology.names().queue(&kept) };
        assert!(topology.bindings.contains(&dead), "{name}: what the broker gives up is returned or parked");
    }
}

#[test]
fn clients_publish_with_lane_and_partition_or_lane_alone() {
    let topology = topology();
    for lane in Lane::ALL {
        for partition in Partitions::default().all() {
            let queue = QueueName::in_partition(StageName::Dispatcher, lane, partition);
            let name = topology.names().queue(&queue);
            let bound = |key: &str| {
                let (exchange, routing_key) = ("echogen.jobs".to_owned(), key.to_owned());
                topology.bindings.contains(&Binding { exchange, routing_key, queue: name.clone() })
            };
            assert!(bound(&format!("{lane}.{partition}")), "{name}");
            assert_eq!(bound(lane.as_str()), partition == Partition::ZERO, "{name}");
            let Route { exchange, routing_key, .. } = topology.names().client_route(&queue);
            assert!(topology.bindings.contains(&Binding { exchange, routing_key, queue: name }));
        }
    }
    let keys = topology.bindings.iter().filter(|binding| binding.exchange == "echogen.jobs").count();
    assert_eq!(keys, 3 * (8 + 1), "and with nothing else");
}

#[test]
fn queues_that_an_earlier_version_declared_are_declared_as_it_did() {
    let topology = topology();
    let shown = |name: &str| {
        let queue = topology.queues.iter().find(|queue| queue.name == name).expect("it is declared");
        queue.arguments.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };
    let stage = "x-dead-letter-exchange=echogen.dead x-dead-letter-routing-key=echogen.sample.dead \
                 x-dead-letter-strategy=at-least-once x-delivery-limit=30 x-max-length=20000 \
                 x-max-length-bytes=17179869184 x-overflow=reject-publish x-queue-type=quorum";
    assert_eq!(shown("echogen.sample"), stage);
    assert_eq!(shown("echogen.sample.bulk.3"), stage, "and the partitions alike");
    let intake = "x-dead-letter-exchange=echogen.tasks x-dead-letter-routing-key=echogen.dispatch.returned \
                  x-dead-letter-strategy=at-least-once x-delivery-limit=30 x-max-length=4000000 \
                  x-max-length-bytes=17179869184 x-overflow=reject-publish x-queue-type=quorum";
    assert_eq!(shown("echogen.dispatch.bulk"), intake);
    let dead = "x-delivery-limit=1000000000 x-max-length=1000000 x-max-length-bytes=4294967296 \
                x-overflow=reject-publish x-queue-type=quorum";
    for name in ["echogen.sample.dead", "echogen.dispatch.bulk.dead", "echogen.notify.dead"] {
        assert_eq!(shown(name), dead, "{name}");
    }
}

#[test]
fn all_queues_are_bounded_and_refuse_what_is_too_much() {
    for queue in topology().queues {
        assert_eq!(text(&queue, "x-overflow"), "reject-publish", "{}", queue.name);
        assert_eq!(text(&queue, "x-queue-type"), "quorum", "{}", queue.name);
        for limit in ["x-max-length", "x-max-length-bytes", "x-delivery-limit"] {
            assert!(matches!(queue.arguments[limit], Argument::Number(1..)), "{} {limit}", queue.name);
        }
        // The broker moves a message safely only out of queues of this strategy. It must not wait for queues of subscribers.
        let moves = queue.arguments.contains_key("x-dead-letter-exchange") && !queue.name.ends_with(".relay");
        assert_eq!(text(&queue, "x-dead-letter-strategy") == "at-least-once", moves, "{}", queue.name);
    }
}

#[test]
fn a_delay_takes_the_smallest_tier_that_holds_it() {
    let topology = topology();
    let tier = |delay| {
        let route = topology.names().delayed_route(&QueueName::of(StageName::Sampler, Lane::Standard), delay).unwrap();
        assert_eq!(route.routing_key, "echogen.sample.standard");
        assert!(topology.exchanges.iter().any(|exchange| exchange.name == route.exchange), "{}", route.exchange);
        (route.exchange, route.wait.map(|wait| wait.as_millis()))
    };
    let millis = Duration::from_millis;
    assert_eq!(tier(Duration::ZERO), ("echogen.tasks".to_owned(), None));
    assert_eq!(tier(Duration::from_nanos(1)), ("echogen.retry.250ms".to_owned(), Some(1)));
    assert_eq!(tier(millis(250)), ("echogen.retry.250ms".to_owned(), Some(250)));
    assert_eq!(tier(millis(251)), ("echogen.retry.1000ms".to_owned(), Some(251)));
    assert_eq!(tier(millis(300_000)), ("echogen.retry.300000ms".to_owned(), Some(300_000)));
    assert_eq!(tier(Duration::from_secs(86_400)), ("echogen.retry.86400000ms".to_owned(), Some(86_400_000)));
    for delay in [Duration::from_millis(86_400_001), Duration::MAX] {
        let error =
            topology.names().delayed_route(&QueueName::of(StageName::Sampler, Lane::Standard), delay).unwrap_err();
        assert!(error.is_permanent(), "{error}");
    }
}

#[test]
fn the_prefix_takes_the_place_of_the_projects_name() {
    let names = Names::new("mine");
    assert_eq!(names.queue(&QueueName::of(StageName::Dispatcher, Lane::Bulk)), "mine.dispatch.bulk");
    assert_eq!(names.queue(&QueueName::of(StageName::Segmenter, Lane::Standard).dead_letters()), "mine.segment.dead");
    assert_eq!(names.queue(&QueueName("answers".to_owned())), "answers");
}

#[test]
fn classic_queues_have_no_arguments_of_quorum_queues() {
    let config = AmqpConfig { quorum: false, initial_group_size: Some(3), ..AmqpConfig::default() };
    for queue in Topology::of(&config).queues {
        for argument in ["x-queue-type", "x-delivery-limit", "x-dead-letter-strategy", "x-quorum-initial-group-size"] {
            assert!(!queue.arguments.contains_key(argument), "{} {argument}", queue.name);
        }
    }
    let config = AmqpConfig { initial_group_size: Some(3), ..AmqpConfig::default() };
    assert_eq!(text(&Topology::of(&config).queues[0], "x-quorum-initial-group-size"), "3");
}

#[test]
fn it_prints_as_a_table_and_as_json() {
    // Two partitions show how the others are named.
    insta::assert_snapshot!(Topology::of(&AmqpConfig { partitions: 2, ..AmqpConfig::default() }).to_string());
    let json = serde_json::to_value(topology()).unwrap();
    assert_eq!(json["exchanges"][2]["kind"], "topic");
    assert_eq!(json["queues"][0]["arguments"]["x-queue-type"], "quorum");
    assert_eq!(json["bindings"][0]["queue"], "echogen.dispatch.interactive");
}
