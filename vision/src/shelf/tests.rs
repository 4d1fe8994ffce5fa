use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A model that tells its place how many of it there are.
#[derive(Debug)]
struct Fake {
    name: &'static str,
    alive: Arc<AtomicUsize>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct World {
    alive: Arc<AtomicUsize>,
    loads: Arc<AtomicUsize>,
}

impl World {
    async fn get(&self, shelf: &Shelf<&'static str, Fake>, name: &'static str) -> Result<InUse<Fake>, Failure> {
        self.get_thought(shelf, name, 40).await
    }

    /// As it is got, where it is thought to take so many bytes.
    async fn get_thought(
        &self,
        shelf: &Shelf<&'static str, Fake>,
        name: &'static str,
        thought: u64,
    ) -> Result<InUse<Fake>, Failure> {
        let (alive, loads) = (Arc::clone(&self.alive), Arc::clone(&self.loads));
        let load = move || {
            loads.fetch_add(1, Ordering::SeqCst);
            alive.fetch_add(1, Ordering::SeqCst);
            Ok((Fake { name, alive }, 40))
        };
        shelf.get(&name, move || Ok(thought), load).await
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

fn no_weights<M>() -> Result<(M, u64), Failure> {
    Err(Failure::permanent("model", "no weights"))
}

#[tokio::test]
async fn a_model_is_loaded_once_and_what_was_used_longest_ago_makes_room() {
    let (world, shelf) = (World::default(), Shelf::new(100));

    for (name, loads) in [("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4)] {
        let model = world.get(&shelf, name).await.unwrap();
        assert_eq!(model.name, name);
        assert_eq!(world.loads(), loads, "after {name}");
        assert!(world.alive.load(Ordering::SeqCst) <= 2);
    }
}

#[tokio::test]
async fn what_is_in_use_stays_until_it_is_given_back() {
    let (world, shelf) = (World::default(), Shelf::new(50));
    let first = world.get(&shelf, "a").await.unwrap();

    let mut second = Box::pin(world.get(&shelf, "b"));
    assert!(futures::poll!(&mut second).is_pending());
    tokio::task::yield_now().await;
    assert!(futures::poll!(&mut second).is_pending());
    assert_eq!((first.name, world.loads()), ("a", 1));
    drop(first);

    assert_eq!(second.await.unwrap().name, "b");
    assert_eq!(world.alive.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_load_goes_on_without_who_asked_for_it_and_is_found_by_who_asks_next() {
    let (world, shelf) = (World::default(), Shelf::new(100));
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let (alive, loads) = (Arc::clone(&world.alive), Arc::clone(&world.loads));
    let slow = move || {
        loads.fetch_add(1, Ordering::SeqCst);
        assert!(gate.lock().unwrap().recv().is_err(), "a gate is dropped, and nothing goes through it");
        alive.fetch_add(1, Ordering::SeqCst);
        Ok((Fake { name: "a", alive }, 40))
    };
    let mut first = Box::pin(shelf.get(&"a", || Ok(40), slow));
    assert!(futures::poll!(&mut first).is_pending());
    while world.loads() == 0 {
        tokio::task::yield_now().await;
    }
    drop(first);

    let mut second = Box::pin(world.get(&shelf, "a"));
    assert!(futures::poll!(&mut second).is_pending(), "it waits for the load that has begun");
    drop(open);

    assert_eq!(second.await.unwrap().name, "a");
    assert_eq!((world.loads(), world.alive.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_models_that_do_not_fit_together_take_turns_and_none_is_starved() {
    let (world, shelf) = (Arc::new(World::default()), Arc::new(Shelf::new(50)));
    let tasks = (0..400).map(|number| {
        let (world, shelf) = (Arc::clone(&world), Arc::clone(&shelf));
        tokio::spawn(async move {
            let model = world.get(&shelf, if number % 2 == 0 { "a" } else { "b" }).await.unwrap();
            assert_eq!(world.alive.load(Ordering::SeqCst), 1);
            tokio::task::yield_now().await;
            model.name
        })
    });

    let used = futures::future::join_all(tasks).await;

    assert_eq!(used.into_iter().filter(|name| *name.as_ref().unwrap() == "a").count(), 200);
    assert!(world.loads() < 200, "{} loads: those who waited for a model did not get it together", world.loads());
}

#[tokio::test]
async fn what_is_larger_than_the_limit_or_cannot_be_loaded_says_so_every_time() {
    let shelf: Shelf<&str, u8> = Shelf::new(1 << 20);

    for _ in 0..2 {
        let said = shelf.get(&"large", || Ok(3 << 20), || Ok((1, 1))).await.unwrap_err().message;
        assert_eq!(said, "its weights take 3MiB, and vision.model_memory allows 1MiB for all models together");
        let said = shelf.get(&"larger than thought", || Ok(1), || Ok((1, 2 << 20))).await.unwrap_err().message;
        assert!(said.starts_with("its weights take 2MiB"), "{said}");
        assert_eq!(shelf.get(&"broken", || Ok(1), no_weights).await.unwrap_err().message, "no weights");
    }
}

#[tokio::test]
async fn what_is_at_fault_already_takes_nobodys_room() {
    let (world, shelf) = (World::default(), Shelf::new(50));
    drop(world.get(&shelf, "a").await.unwrap());

    let other = || Err(Failure::permanent("model", "another file than its card means"));
    let refused = shelf.get(&"b", other, || unreachable!("it is not loaded")).await.unwrap_err();

    assert_eq!((&*refused.message, world.alive.load(Ordering::SeqCst)), ("another file than its card means", 1));
    assert_eq!((world.get(&shelf, "a").await.unwrap().name, world.loads()), ("a", 1));
}

#[tokio::test]
async fn what_a_model_took_the_last_time_is_what_others_make_room_for() {
    let (world, shelf) = (World::default(), Shelf::new(130));
    let alive = || world.alive.load(Ordering::SeqCst);
    drop(world.get_thought(&shelf, "a", 120).await.unwrap());
    for name in ["b", "c", "d"] {
        drop(world.get(&shelf, name).await.unwrap());
    }
    assert_eq!(alive(), 3, "the first had to go");

    drop(world.get_thought(&shelf, "a", 120).await.unwrap());

    assert_eq!((alive(), world.loads()), (3, 5), "one made room for it, and not all");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_loaded_is_tried_again_after_a_while() {
    let (world, shelf) = (World::default(), Shelf::new(100));
    let broken = || shelf.get(&"a", || Ok(40), no_weights);
    assert_eq!(broken().await.unwrap_err().message, "no weights");

    // The weights are there now.
    tokio::time::advance(NOT_BEFORE / 2).await;
    assert_eq!(world.get(&shelf, "a").await.unwrap_err().message, "no weights");
    tokio::time::advance(NOT_BEFORE / 2).await;
    assert_eq!(world.get(&shelf, "a").await.unwrap().name, "a");

    // What is loaded stays so.
    tokio::time::advance(NOT_BEFORE).await;
    assert_eq!(broken().await.unwrap().name, "a");
    assert_eq!(world.loads(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_says_when_it_is_tried_again() {
    let shelf: Shelf<&str, u8> = Shelf::new(100);
    let busy = || shelf.get(&"a", || Ok(40), || Err(Failure::transient("model", "no memory")));

    assert_eq!(busy().await.unwrap_err().retry_after, Some(NOT_BEFORE));
    tokio::time::advance(NOT_BEFORE / 4).await;
    let again = busy().await.unwrap_err();

    assert_eq!((&*again.message, again.retryable, again.retry_after), ("no memory", true, Some(NOT_BEFORE * 3 / 4)));
}
