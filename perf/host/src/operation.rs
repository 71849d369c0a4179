//! One thing that an embedder does, in a shape that Criterion, callgrind and a stop-watch can all measure.

/// Something to be measured: what makes it possible again each time is kept apart from what is measured.
pub trait Operation {
    /// Restores what [`Operation::run`] has used up; not measured.
    fn prepare(&mut self);
    /// Does it, a whole batch.
    fn run(&mut self);
}

struct Parts<S, P, R> {
    state: S,
    prepare: P,
    run: R,
}

impl<S, P: FnMut(&mut S), R: FnMut(&mut S)> Operation for Parts<S, P, R> {
    fn prepare(&mut self) {
        (self.prepare)(&mut self.state);
    }
    fn run(&mut self) {
        (self.run)(&mut self.state);
    }
}

/// Builds an operation from its state and two closures.
pub fn operation<S: 'static>(
    state: S,
    prepare: impl FnMut(&mut S) + 'static,
    run: impl FnMut(&mut S) + 'static,
) -> Box<dyn Operation> {
    Box::new(Parts {
        state,
        prepare,
        run,
    })
}

/// An operation of the catalog, built when it is wanted.
pub struct Entry {
    /// `group/parameters`.
    pub name: String,
    /// How many times [`Operation::run`] does it.
    pub batch: u64,
    /// Whether it is ours, not a baseline.
    pub ours: bool,
    make: Box<dyn Fn() -> Box<dyn Operation>>,
}

impl Entry {
    pub fn new(
        name: impl Into<String>,
        batch: u64,
        make: impl Fn() -> Box<dyn Operation> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            batch,
            ours: true,
            make: Box::new(make),
        }
    }

    /// Marks it as a baseline.
    pub fn baseline(mut self) -> Self {
        self.ours = false;
        self
    }

    pub fn group(&self) -> &str {
        self.name.split('/').next().unwrap_or(&self.name)
    }

    pub fn make(&self) -> Box<dyn Operation> {
        (self.make)()
    }
}
