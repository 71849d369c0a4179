//! Many short runs under shuttle, each under a schedule determined by one number.
//!
//! An even seed schedules at random: any thread, at every step. An odd seed schedules by priorities
//! with a few changes (PCT, Burckhardt et al., 2010). PCT finds faults depending on one thread
//! being held up for long at one place. shuttle executes every access as sequentially consistent.
//! loom checks weaker orders.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::random::Random;
use crate::stalls::{self, Stall, Stalled};
use crate::world::{Plan, World};

/// Steps after which a run counts as stuck. An ordinary run takes some ten thousand.
const STUCK: usize = 3_000_000;

/// The runs to do and the progress so far, shared by all jobs.
struct Campaign {
    first: u64,
    schedules: u64,
    until: Option<Instant>,
    /// Print each seed before its run: for a run without end.
    verbose: bool,
    begun: AtomicU64,
    done: AtomicU64,
    steps: AtomicU64,
    deliveries: AtomicU64,
    failed: AtomicBool,
    failures: Mutex<Vec<u64>>,
}

impl Campaign {
    /// Returns the seed of the next run, or `None` at the end of the campaign.
    fn next(&self) -> Option<u64> {
        let late = self.until.is_some_and(|until| Instant::now() > until);
        if late || self.failed.load(SeqCst) {
            return None;
        }
        let number = self.begun.fetch_add(1, SeqCst);
        (number < self.schedules).then(|| self.first.wrapping_add(number))
    }

    fn progress(&self) -> u64 {
        self.done.load(SeqCst)
    }
}

/// A scheduler drawing every decision from the seed of the run.
pub(crate) struct BySeed {
    campaign: Arc<Campaign>,
    /// The seed of the run in progress, for the run itself.
    current: Arc<AtomicU64>,
    random: Random,
    /// With an odd seed: the priority of each thread, higher first.
    priorities: Option<HashMap<TaskId, u64>>,
    /// Steps at which the running thread gets the lowest priority.
    changes: Vec<u64>,
    /// The next priority below all others.
    last: u64,
    step: u64,
}

impl Scheduler for BySeed {
    fn new_execution(&mut self) -> Option<Schedule> {
        let seed = self.campaign.next()?;
        self.current.store(seed, SeqCst);
        self.random = Random::new(seed);
        self.priorities = (seed % 2 == 1).then(HashMap::new);

        // The length of a run is unknown beforehand: draw the horizon at random too.
        let horizon = 1 << (6 + self.random.below(10));
        let changes = self.random.below(5);
        self.changes = (0..changes).map(|_| self.random.below(horizon)).collect();
        self.last = u64::from(u32::MAX);
        self.step = 0;

        Some(Schedule::new(seed))
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        self.campaign.steps.fetch_add(1, SeqCst);
        let Some(priorities) = &mut self.priorities else {
            let index = self.random.below(runnable.len() as u64);
            return Some(runnable[index as usize].id());
        };

        if runnable.len() > 1 {
            self.step += 1;
            if let Some(current) = current
                && (is_yielding || self.changes.contains(&self.step))
            {
                self.last -= 1;
                priorities.insert(current, self.last);
            }
        }

        let random = &mut self.random;
        runnable.iter().map(|task| task.id()).max_by_key(|id| {
            *priorities
                .entry(*id)
                .or_insert_with(|| random.next() | 1 << 63)
        })
    }

    fn next_u64(&mut self) -> u64 {
        self.random.next()
    }
}

/// Runs one seed with everything at once. Returns the number of interrupts delivered.
fn run_world(seed: u64) -> u64 {
    let mut random = Random::new(!seed);
    let world = World::new(Plan {
        seed,
        threads: 8 + random.below(9) as usize,
        operations: Some(2 + random.below(10) as u32),
    });
    world.run();
    let deliveries = world.deliveries();
    world.finish();
    deliveries
}

/// Runs schedules one after the other until the campaign ends. If `stalled`, one CPU of each run
/// stops.
fn job(campaign: &Arc<Campaign>, stalled: Option<&Arc<Stalled>>) {
    let current = Arc::new(AtomicU64::new(0));
    let scheduler = BySeed {
        campaign: campaign.clone(),
        current: current.clone(),
        random: Random::new(0),
        priorities: None,
        changes: Vec::new(),
        last: 0,
        step: 0,
    };
    match stalled {
        None => run_all(campaign, current, scheduler, run_world),
        Some(stalled) => {
            let stall = Arc::new(Stall::default());
            let scheduler = stalls::Scheduler::new(scheduler, stall.clone());
            let stalled = stalled.clone();
            run_all(campaign, current, scheduler, move |seed| {
                stalls::run(seed, &stall, &stalled)
            });
        }
    }
}

/// Runs schedules by `scheduler`, each with the seed `current`, until the campaign ends. `run` runs
/// a seed and returns the number of interrupts delivered.
fn run_all(
    campaign: &Arc<Campaign>,
    current: Arc<AtomicU64>,
    scheduler: impl Scheduler + 'static,
    run: impl Fn(u64) -> u64 + Send + Sync + 'static,
) {
    let mut config = Config::new();
    // Debug builds need a large stack.
    config.stack_size = 0x4_0000;
    // The seed alone repeats a run.
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(STUCK);
    config.silence_warnings = true;

    let (seed, done) = (current.clone(), campaign.clone());
    let runner = Runner::new(scheduler, config);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        runner.run(move || {
            let seed = seed.load(SeqCst);
            if done.verbose {
                println!("seed {seed}");
            }
            let deliveries = run(seed);
            done.deliveries.fetch_add(deliveries, SeqCst);
            done.done.fetch_add(1, SeqCst);
        })
    }));

    if outcome.is_err() {
        campaign.failed.store(true, SeqCst);
        let mut failures = campaign.failures.lock().expect("no panic while locked");
        failures.push(current.load(SeqCst));
    }
}

/// Runs the campaign `seed=FIRST schedules=COUNT seconds=AT_MOST jobs=THREADS verbose=1 stalled=1`.
/// Each argument has a default.
pub(crate) fn main(arguments: &crate::Arguments) -> ExitCode {
    let began = Instant::now();
    let campaign = Arc::new(Campaign {
        first: arguments.number("seed").unwrap_or(1),
        schedules: arguments.number("schedules").unwrap_or(u64::MAX),
        until: arguments
            .number("seconds")
            .map(|seconds| began + Duration::from_secs(seconds)),
        begun: AtomicU64::new(0),
        done: AtomicU64::new(0),
        steps: AtomicU64::new(0),
        deliveries: AtomicU64::new(0),
        verbose: arguments.number("verbose") == Some(1),
        failed: AtomicBool::new(false),
        failures: Mutex::new(Vec::new()),
    });

    let jobs = arguments.number("jobs").unwrap_or(1);
    let stalled = (arguments.number("stalled") == Some(1)).then(|| Arc::new(Stalled::default()));
    thread::scope(|scope| {
        let job = || job(&campaign, stalled.as_ref());
        let jobs: Vec<_> = (0..jobs).map(|_| scope.spawn(job)).collect();
        let mut shown = began;
        while jobs.iter().any(|job| !job.is_finished()) {
            thread::sleep(Duration::from_millis(100));
            if shown.elapsed() >= Duration::from_secs(5) {
                shown = Instant::now();
                let (done, seconds) = (campaign.progress(), began.elapsed().as_secs_f64());
                println!("{done} schedules, {:.0} a second", done as f64 / seconds);
            }
        }
    });

    let (done, steps) = (campaign.progress(), campaign.steps.load(SeqCst));
    println!(
        "{done} schedules from seed {} on, of {} steps and {} interrupts on average, in {:.1} s",
        campaign.first,
        steps / done.max(1),
        campaign.deliveries.load(SeqCst) / done.max(1),
        began.elapsed().as_secs_f64()
    );

    let failures = campaign.failures.lock().expect("no panic while locked");
    for seed in failures.iter() {
        let option = if stalled.is_some() { " --stalled" } else { "" };
        println!("FAILED with seed {seed}; once more:");
        println!("  cargo xtask schedules --seed {seed} --schedules 1{option}");
    }
    let shown = stalled.is_none_or(|stalled| stalled.report(done));
    ExitCode::from(u8::from(!failures.is_empty() || !shown))
}
