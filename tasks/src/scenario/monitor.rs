//! Monitor: a mutex and a condition variable around a value, whose waits end with the item.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::scene::lock;
use super::{Scene, Stopped};

/// A value behind a mutex, and a condition variable to wait for its changes.
#[derive(Debug)]
pub struct Monitor<T> {
    scene: Scene,
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    value: Mutex<T>,
    changed: Condvar,
}

/// The value, while its mutex is held.
#[derive(Debug)]
pub struct Held<'a, T> {
    value: MutexGuard<'a, T>,
    of: &'a Monitor<T>,
}

impl<T: Send + 'static> Monitor<T> {
    /// A monitor whose waits end when the scene is stopped.
    pub fn new(scene: &Scene, value: T) -> Self {
        let shared = Arc::new(Shared { value: Mutex::new(value), changed: Condvar::new() });
        let weak = Arc::downgrade(&shared);
        scene.at_stop(move || {
            if let Some(shared) = weak.upgrade() {
                // Held once after the flag was set: whoever saw no flag waits by now, and hears the call. Whoever holds
                // it in a nap was woken before.
                drop(lock(&shared.value));
                shared.changed.notify_all();
            }
        });
        Self { scene: scene.clone(), shared }
    }

    /// Takes the mutex.
    pub fn lock(&self) -> Held<'_, T> {
        Held { value: lock(&self.shared.value), of: self }
    }

    /// Takes the mutex and waits until the value is as it should.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn wait_until(&self, is_so: impl FnMut(&T) -> bool) -> Result<Held<'_, T>, Stopped> {
        self.lock().wait_until(is_so)
    }

    /// Changes the value and tells all who wait.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut held = self.lock();
        let result = change(&mut held);
        held.tell_all();
        result
    }
}

impl<T> Held<'_, T> {
    /// Gives the mutex back and waits until the value is as it should; then holds it again.
    ///
    /// # Errors
    /// [`Stopped`], as soon as the item is.
    pub fn wait_until(mut self, mut is_so: impl FnMut(&T) -> bool) -> Result<Self, Stopped> {
        loop {
            self.of.scene.go_on()?;
            if is_so(&self.value) {
                return Ok(self);
            }
            self.value = self.of.shared.changed.wait(self.value).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells all who wait that the value has changed.
    pub fn tell_all(&self) {
        self.of.shared.changed.notify_all();
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
