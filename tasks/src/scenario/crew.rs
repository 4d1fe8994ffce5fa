//! Crew: threads that are joined, come what may.

use std::panic::AssertUnwindSafe;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use tidemill_core::compute::message_of;
use tidemill_core::failure::Failure;

use super::{Scene, Stopped};

/// Starts threads of a scene; see [`Scene::crew`].
#[derive(Debug)]
pub struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    scene: Scene,
}

/// A thread of a crew.
#[derive(Debug)]
pub struct Member<'scope, T>(ScopedJoinHandle<'scope, Result<T, Failure>>);

impl Scene {
    /// Lets threads work together. All have ended when this returns: if one of them or `direct` fails, the scene is
    /// stopped, which ends their waits.
    ///
    /// # Errors
    /// What `direct` failed with, or [`Stopped`]; what became of the item is what failed first.
    pub fn crew<'env, T>(
        &self,
        direct: impl for<'scope> FnOnce(&Crew<'scope, 'env>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let result = std::thread::scope(|scope| {
            let crew = Crew { scope, scene: self.clone() };
            self.or_stop(|| direct(&crew))
        })?;
        // One that was not joined may have failed.
        self.go_on()?;
        Ok(result)
    }

    /// What fails or panics stops the scene.
    fn or_stop<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        // What a panic leaves half-done is seen by nobody: the scene ends with it.
        let result = std::panic::catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|panic| Err(Failure::panicked(&message_of(panic.as_ref()))));
        if let Err(failure) = &result {
            self.fail(failure.clone());
        }
        result
    }
}

impl<'scope> Crew<'scope, '_> {
    /// Starts a thread of that name.
    ///
    /// # Errors
    /// The system grants no more threads: a passing failure.
    pub fn start<T: Send + 'scope>(
        &self,
        name: impl Into<String>,
        work: impl FnOnce() -> Result<T, Failure> + Send + 'scope,
    ) -> Result<Member<'scope, T>, Failure> {
        let (name, scene) = (name.into(), self.scene.clone());
        let builder = Builder::new().name(name.clone());
        let running = move || {
            let run = scene.begins(&name, Some(own_tid()), None);
            let result = scene.or_stop(work);
            scene.ends(run);
            result
        };
        builder.spawn_scoped(self.scope, running).map(Member).map_err(|error| no_thread(&error))
    }
}

impl<T> Member<'_, T> {
    /// Waits for its end.
    ///
    /// # Errors
    /// What it failed with.
    pub fn join(self) -> Result<T, Failure> {
        self.0.join().unwrap_or_else(|panic| Err(Failure::panicked(&message_of(panic.as_ref()))))
    }
}

/// The system's number of this thread.
pub(super) fn own_tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

pub(super) fn no_thread(error: &std::io::Error) -> Failure {
    Failure::transient("threads", format!("the system grants no more threads: {error}"))
}
