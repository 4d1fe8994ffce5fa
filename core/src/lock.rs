//! Locks that outlive a panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also where somebody panicked who held it. It is for what no panic leaves half done: critical sections of a
/// few operations on a map, each of which checks before it changes.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use super::*;

    #[test]
    fn a_lock_goes_on_where_its_holder_panicked() {
        let count = Mutex::new(7);

        let holder = std::panic::catch_unwind(AssertUnwindSafe(|| -> () {
            let _held = lock(&count);
            panic!("while it is held");
        }));

        assert!(holder.is_err() && count.is_poisoned());
        assert_eq!(*lock(&count), 7);
    }
}
