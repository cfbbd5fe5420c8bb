//! A thousand tenants: how fair service is, by the number of partitions.
//!
//! Five tenants keep a backlog of large jobs; the others send a small job now and then. One worker begins a task after the
//! other, as the real round robin chooses. What a tenant gets is compared with its max-min fair share: all that it asks for, if
//! it asks for little, or an equal part of the rest. Jain's index of these ratios is 1 if all get their share, and 1/n if one of n
//! gets everything. `cargo test -p echogen-worker --lib a_thousand_tenants -- --nocapture` prints the table.

use std::collections::VecDeque;

use echogen_protocol::Partitions;

use super::{DeficitRoundRobin, Head};

const TENANTS: usize = 1_000;
const BUSY: usize = 5;
/// Each busy tenant has so many tasks waiting at the beginning: more than can be begun.
const BACKLOG: usize = 2_400;
/// What a task of a busy tenant costs.
const LARGE: u64 = 64;
/// Units of work until the end.
const TIME: u64 = 150_000;
/// A tenant that is not busy sends a task after so many units of work on average.
const PAUSE: u64 = 30_000;

/// Numbers that look random: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % bound
    }
}

struct Task {
    tenant: usize,
    cost: u64,
    sent: u64,
}

/// What came of one number of partitions.
struct Outcome {
    /// Jain's index of what the tenants got, each compared with its fair share.
    index: f64,
    /// The share of quiet tenants' tasks that were begun.
    begun: f64,
    /// The median and the 95th percentile of the waits of those, in units of work.
    waits: [u64; 2],
}

/// Jobs of tenants that are not busy, in the order in which they are sent.
fn arrivals() -> Vec<Task> {
    let mut numbers = Numbers(7);
    let mut tasks = Vec::new();
    for tenant in BUSY..TENANTS {
        let mut sent = numbers.below(PAUSE);
        while sent < TIME {
            tasks.push(Task { tenant, cost: 1 + numbers.below(4), sent });
            sent += 1 + numbers.below(2 * PAUSE);
        }
    }
    tasks.sort_by_key(|task| task.sent);
    tasks
}

fn simulate(partitions: Partitions) -> Outcome {
    let mut queues: Vec<VecDeque<Task>> = partitions.all().map(|_| VecDeque::new()).collect();
    let partition = |tenant: usize| usize::from(partitions.of(Some(&format!("tenant-{tenant}"))).number());
    for _ in 0..BACKLOG {
        (0..BUSY).for_each(|tenant| queues[partition(tenant)].push_back(Task { tenant, cost: LARGE, sent: 0 }));
    }
    let (mut round_robin, mut now) = (DeficitRoundRobin::new(queues.len()), 0);
    let (mut got, mut waits) = (vec![0; TENANTS], Vec::new());
    let mut arriving = arrivals().into_iter().peekable();
    while now < TIME {
        while let Some(task) = arriving.next_if(|task| task.sent <= now) {
            queues[partition(task.tenant)].push_back(task);
        }
        let head = |queue: usize| queues[queue].front().map_or(Head::Absent, |task| Head::Ready(task.cost));
        let task = round_robin.next(head).and_then(|queue| queues[queue].pop_front());
        // There always is a backlog.
        let Some(task) = task else { break };
        got[task.tenant] += task.cost;
        if task.tenant >= BUSY {
            waits.push(now - task.sent);
        }
        now += task.cost;
    }
    outcome(&got, waits)
}

fn outcome(got: &[u64], mut waits: Vec<u64>) -> Outcome {
    let (mut asked, mut tasks) = (vec![0; TENANTS], 0);
    for task in arrivals() {
        asked[task.tenant] += task.cost;
        tasks += 1;
    }
    let rest = (TIME - asked.iter().sum::<u64>()) / BUSY as u64;
    let fair = |tenant: usize| if tenant < BUSY { rest } else { asked[tenant] };
    let asking = (0..TENANTS).filter(|tenant| fair(*tenant) > 0);
    let ratios: Vec<f64> = asking.map(|tenant| got[tenant] as f64 / fair(tenant) as f64).collect();
    let (sum, squares) = (ratios.iter().sum::<f64>(), ratios.iter().map(|ratio| ratio * ratio).sum::<f64>());
    waits.sort_unstable();
    let at = |percent: usize| waits.get(waits.len() * percent / 100).copied().unwrap_or(0);
    Outcome {
        index: sum * sum / (ratios.len() as f64 * squares),
        begun: waits.len() as f64 / f64::from(tasks),
        waits: [at(50), at(95)],
    }
}

#[test]
fn a_thousand_tenants() {
    println!("five busy tenants, 995 quiet ones; waits in units of work, of which a busy tenant's task takes {LARGE}");
    println!("partitions  Jain's index  quiet tasks begun  median wait  95th percentile");
    let indices = [1, 4, 8, 16, 64].map(|count| {
        let Outcome { index, begun, waits: [median, late] } = simulate(Partitions::clamped(count));
        println!("{count:10}  {index:12.3}  {begun:17.3}  {median:11}  {late:15}");
        index
    });
    assert!(indices[0] < 0.02, "in one queue the busy ones are in front of everybody");
    assert!(indices.is_sorted(), "{indices:?}");
    assert!(indices[2] > 0.3 && indices[4] > 0.85, "{indices:?}");
}
