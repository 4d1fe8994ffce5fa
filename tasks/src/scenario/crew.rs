//! Crew: threads that are joined, come what may.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use tidemill_core::compute::message_of;
use tidemill_core::failure::Failure;

use super::{Scene, Stopped};

/// Starts threads of a scene; see [`Scene::crew`].
pub struct Crew<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    scene: Scene,
    unjoined: Unjoined<'scope>,
}

/// What joins those members that nobody has joined. A scope by itself waits until they have done their work, not until
/// they are gone.
type Unjoined<'scope> = Rc<RefCell<Vec<Box<dyn FnOnce() + 'scope>>>>;

/// A thread of a crew.
pub struct Member<'scope, T: 'scope> {
    thread: Option<ScopedJoinHandle<'scope, Result<T, Failure>>>,
    unjoined: Unjoined<'scope>,
}

impl std::fmt::Debug for Crew<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crew").field("scene", &self.scene).finish_non_exhaustive()
    }
}

impl<T> std::fmt::Debug for Member<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("thread", &self.thread).finish_non_exhaustive()
    }
}

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
            let crew = Crew { scope, scene: self.clone(), unjoined: Unjoined::default() };
            let result = self.or_stop(|| direct(&crew));
            for join in crew.unjoined.take() {
                join();
            }
            result
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
        let run = scene.begins(&name, None);
        let running = move || {
            scene.is_thread(run, own_tid());
            let result = scene.or_stop(work);
            scene.ends(run);
            result
        };
        let thread = Builder::new().name(name).spawn_scoped(self.scope, running).map_err(|error| no_thread(&error))?;
        Ok(Member { thread: Some(thread), unjoined: Rc::clone(&self.unjoined) })
    }
}

impl<T> Member<'_, T> {
    /// Waits for its end.
    ///
    /// # Errors
    /// What it failed with.
    pub fn join(mut self) -> Result<T, Failure> {
        self.thread.take().map_or_else(|| Err(Stopped.into()), joined)
    }
}

/// Waits until a thread is gone.
fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, Failure>>) -> Result<T, Failure> {
    thread.join().unwrap_or_else(|panic| Err(Failure::panicked(&message_of(panic.as_ref()))))
}

/// It is joined with its crew.
impl<T> Drop for Member<'_, T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Its failure has stopped the scene.
            self.unjoined.borrow_mut().push(Box::new(move || drop(joined(thread))));
        }
    }
}

/// The system's number of this thread.
fn own_tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

pub(super) fn no_thread(error: &std::io::Error) -> Failure {
    Failure::transient("threads", format!("the system grants no more threads: {error}"))
}
