//! What came of the loads, as a person reads it.

use std::fmt;

use echogen_protocol::Lane;

/// The least part of the goodput at capacity that remains under the highest load.
const LEAST: f64 = 0.95;

/// What came of one load.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// The load as a multiple of the capacity.
    pub(crate) load: f64,
    /// Pictures that were asked for, a second.
    pub(crate) offered: f64,
    /// Pictures of completed jobs, a second.
    pub(crate) goodput: f64,
    /// Jobs that were parked.
    pub(crate) parked: usize,
    /// Jobs that failed.
    pub(crate) failed: u64,
    /// Jobs whose deadline passed.
    pub(crate) expired: u64,
    /// Tries that failed and were followed by another.
    pub(crate) retried: u64,
    /// Tasks that went back to their queue, of all stages.
    pub(crate) requeued: u64,
    /// From the intake to the beginning of sampling, by lane.
    pub(crate) waits: [(Lane, Waits); Lane::ALL.len()],
}

/// The times that jobs waited, in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Vec<(f64, bool)>);

impl Waits {
    /// Of each job how long it waited, and whether that is over. A job that still waits counts with its time so far.
    pub(crate) fn new(mut waits: Vec<(f64, bool)>) -> Self {
        waits.sort_by(|one, other| one.0.total_cmp(&other.0));
        Self(waits)
    }

    fn begun(&self) -> usize {
        self.0.iter().filter(|(_, is_over)| *is_over).count()
    }

    /// The `part` quantile (0 to 1), with `>` before it if that job still waits.
    fn quantile(&self, part: f64) -> String {
        let index = (self.0.len() as f64 * part) as usize;
        match self.0.get(index.min(self.0.len().saturating_sub(1))) {
            Some((seconds, is_over)) => format!("{}{seconds:.2}", if *is_over { "" } else { ">" }),
            None => "-".to_owned(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { load, offered, goodput, parked, failed, expired, retried, requeued, .. } = self;
        write!(
            f,
            "load {load:4.1}  offered {offered:6.1}  goodput {goodput:6.1} pictures/s  parked {parked}  failed {failed}  \
             expired {expired}  retried {retried}  requeued {requeued}"
        )?;
        for (lane, waits) in &self.waits {
            let (p50, p99) = (waits.quantile(0.5), waits.quantile(0.99));
            let (begun, jobs) = (waits.begun(), waits.0.len());
            write!(
                f,
                "\n  {lane:12} waited p50 {p50:>7} s, p99 {p99:>7} s; begun {begun} of {jobs}",
                lane = lane.as_str()
            )?;
        }
        Ok(())
    }
}

/// Whether the goodput stays.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// Whether everything is as it should be.
    pub(crate) holds: bool,
    text: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Compares the highest load with the one nearest to capacity.
pub(crate) fn verdict(reports: &[Report]) -> Verdict {
    let nearest = reports.iter().min_by(|one, other| one.load.ln().abs().total_cmp(&other.load.ln().abs()));
    let highest = reports.iter().max_by(|one, other| one.load.total_cmp(&other.load));
    let (Some(at_capacity), Some(highest)) = (nearest, highest) else {
        return Verdict { holds: false, text: "no load was offered".to_owned() };
    };
    let ratios: Vec<String> =
        reports.iter().map(|report| format!("{} {:.2}", report.load, report.goodput / at_capacity.goodput)).collect();
    let ratio = highest.goodput / at_capacity.goodput;
    let parked: usize = reports.iter().map(|report| report.parked).sum();
    let failed: u64 = reports.iter().map(|report| report.failed).sum();
    let holds = ratio >= LEAST && parked == 0 && failed == 0;
    let text = format!(
        "goodput by load, of that at {}: {}\n{}: goodput at {} times capacity is {ratio:.2} of that at {} (at least {LEAST}), \
         {parked} parked, {failed} failed",
        at_capacity.load,
        ratios.join(", "),
        if holds { "full goodput under overload" } else { "NOT full goodput under overload" },
        highest.load,
        at_capacity.load,
    );
    Verdict { holds, text }
}
