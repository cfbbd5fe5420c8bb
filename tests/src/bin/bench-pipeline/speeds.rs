//! What the rounds have measured, and how it is reported.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use echogen_tests::baseline::Figure;

/// Of every round: jobs per second of the floors and of EchoGen.
#[derive(Default)]
pub(crate) struct Speeds {
    pub(crate) messages: Vec<f64>,
    pub(crate) files: Vec<f64>,
    pub(crate) new: Subjects,
    pub(crate) known: Subjects,
}

/// The same for one kind of subjects; for EchoGen also CPU seconds per 1,000 jobs, of the four roles together.
#[derive(Default)]
pub(crate) struct Subjects {
    pub(crate) floor: Vec<f64>,
    pub(crate) products: Vec<f64>,
    echogen: Vec<f64>,
    cpu: Vec<f64>,
}

impl Subjects {
    /// Adds a round of EchoGen: jobs per second, and CPU seconds per 1,000 jobs.
    pub(crate) fn push(&mut self, (speed, cpu): (f64, f64)) {
        self.echogen.push(speed);
        self.cpu.push(cpu);
    }

    /// Prints the medians against the targets; returns the ratios to the floor and to the products.
    fn report(&self, name: &str, target: f64) -> [f64; 2] {
        let [floor, products, echogen] = [&self.floor, &self.products, &self.echogen].map(|speeds| median(speeds));
        let (to_floor, to_products) = (echogen / floor, echogen / products);
        println!(
            "{name}: the same store calls {floor:.0}, products {products:.0}, echogen {echogen:.0} jobs/s; ratio \
             {to_floor:.2} (target 0.90), to products {to_products:.2} (target {target:.2})"
        );
        [to_floor, to_products]
    }
}

impl Speeds {
    /// Describes the CPU seconds of every round.
    pub(crate) fn cpu(&self) -> String {
        let line = |subjects: &Subjects| {
            let rounds: Vec<String> = subjects.cpu.iter().map(|seconds| format!("{seconds:.2}")).collect();
            format!("{:.2} ({})", median(&subjects.cpu), rounds.join(", "))
        };
        format!("CPU s per 1,000 jobs: new subjects {}, known subjects {}", line(&self.new), line(&self.known))
    }

    /// Prints the medians, and returns those that are compared with the recorded ones.
    pub(crate) fn report(self, idle: [f64; 3]) -> Vec<Figure> {
        let [p50, p95, p99] = idle;
        let [messages, files] = [&self.messages, &self.files].map(|speeds| median(speeds));
        println!("medians, jobs/s: messages {messages:.0}, files {files:.0}");
        let [new, new_products] = self.new.report("new subjects, five hops", 0.6);
        let [known, known_products] = self.known.report("known subjects, three hops", 0.8);
        println!("idle, one job at a time: p50 {p50:.1} ms (target 10), p95 {p95:.1} ms, p99 {p99:.1} ms (target 25)");
        println!("{} (target 2.00)", self.cpu());
        let figure = |name, value| Figure { name, value };
        vec![
            figure("ratio-new-subjects", new),
            figure("ratio-known-subjects", known),
            figure("ratio-products-new", new_products),
            figure("ratio-products-known", known_products),
            figure("cpu-seconds-per-1000-new", median(&self.new.cpu)),
            figure("cpu-seconds-per-1000-known", median(&self.known.cpu)),
            figure("idle-p50-ms", p50),
            figure("idle-p99-ms", p99),
        ]
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
