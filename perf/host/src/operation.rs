//! One operation of an embedder, in a shape for Criterion, callgrind and a stop-watch.

/// A measured operation: the restoring part is apart from the measured part.
pub trait Operation {
    /// Restores the state used up by [`Operation::run`]. Not measured.
    fn prepare(&mut self);
    /// Runs a whole batch.
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

/// Returns an operation of a state and two closures.
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

/// An operation of the catalog, made on demand.
pub struct Entry {
    /// Name: `group/parameters`.
    pub name: String,
    /// Operations of one [`Operation::run`].
    pub batch: u64,
    /// True for the library's operation, false for a baseline.
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

    /// Marks the entry as a baseline.
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
