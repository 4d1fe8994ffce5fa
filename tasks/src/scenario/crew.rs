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
        let thread = Builder::new().name(name).spawn_scoped(self.scope, running);
        let thread = thread.map_err(|error| Failure::no_thread(&error))?;
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::scenario::{Common, Monitor};

    const FOREVER: Duration = Duration::from_secs(3600);

    fn scene() -> Scene {
        Scene::new(Common { scenario: 1, tick: FOREVER, seed: 0 })
    }

    /// What became of a crew of which one does that, and the others would go on for an hour.
    fn beside_others(work: impl FnOnce() -> Result<(), Failure> + Send) -> (Result<(), Failure>, Option<Failure>) {
        let scene = &scene();
        let never = &Monitor::new(scene, false);
        let begun = Instant::now();
        let result = scene.crew(|crew| {
            let sleeper = crew.start("sleeper", move || Ok(scene.nap(1)?))?;
            crew.start("waiter", move || {
                drop(never.wait_until(|so| *so)?);
                Ok(())
            })?;
            crew.start("holder", move || {
                let _held = never.lock();
                Ok(scene.nap(1)?)
            })?;
            crew.start("one", work)?;
            sleeper.join()
        });
        assert!(begun.elapsed() < FOREVER / 60, "nobody waits");
        (result, scene.take_cause())
    }

    #[test]
    fn the_panic_of_one_ends_all_and_is_why() {
        let (result, cause) = beside_others(|| panic!("no luck"));

        assert_eq!(result, Err(Stopped.into()));
        assert_eq!(cause, Some(Failure::panicked("no luck")));
    }

    #[test]
    fn the_failure_of_one_ends_all_and_is_why() {
        let failure = Failure::permanent("luck", "bad luck");

        let (result, cause) = beside_others(|| Err(failure.clone()));

        assert_eq!(result, Err(Stopped.into()));
        assert_eq!(cause, Some(failure));
    }

    #[test]
    fn one_that_is_not_joined_and_fails_fails_its_crew() {
        let scene = &scene();

        let result = scene.crew(|crew| {
            drop(crew.start("one", || -> Result<(), Failure> { Err(Failure::permanent("luck", "bad luck")) })?);
            Ok(7)
        });

        assert_eq!(result, Err(Stopped.into()));
    }

    #[test]
    fn a_member_gives_what_its_work_gives() {
        let scene = &scene();

        let sum = scene.crew(|crew| {
            let members = [1, 2, 3].map(|number| crew.start(number.to_string(), move || Ok(number * number)));
            members.into_iter().try_fold(0, |sum, member| Ok(sum + member?.join()?))
        });

        assert_eq!(sum, Ok(14));
    }

    #[test]
    fn what_is_to_be_done_when_an_item_is_stopped_is_done_once_and_at_once_if_it_is() {
        let scene = scene();
        let (done, seen) = std::sync::mpsc::channel();
        let hook = |name: &'static str| {
            let done = done.clone();
            move || done.send(name).unwrap()
        };

        scene.at_stop(hook("before"));
        scene.stop();
        scene.at_stop(hook("after"));
        scene.stop();

        assert_eq!(seen.try_iter().collect::<Vec<_>>(), ["before", "after"]);
        assert_eq!(scene.say("too late"), Err(Stopped));
        assert_eq!(scene.nap(1), Err(Stopped));
    }
}
