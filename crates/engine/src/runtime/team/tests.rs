//! Forks under stress: many, late, panicking, nested, led by many threads at once.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread::{self, ThreadId};

use super::*;
use crate::ThreadPool;

const PATIENCE: Duration = Duration::from_secs(20);

/// Tries again until `check` holds: when a sleeping thread wakes is up to the system.
#[track_caller]
fn eventually(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::yield_now();
    }
}

/// Runs a fork that writes to memory of its own, and checks that every part ran exactly once.
#[track_caller]
fn check_fork(parts: usize) {
    let runs: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
    share(parts, |part| {
        runs[part].fetch_add(1, Relaxed);
    });
    assert!(runs.iter().all(|runs| runs.load(Relaxed) == 1), "{runs:?}");
}

/// The threads that ran the parts of one fork, each of which takes a while.
fn threads_of_a_fork() -> HashSet<ThreadId> {
    let threads = Mutex::new(HashSet::new());
    share(8, |_| {
        threads.lock().unwrap().insert(thread::current().id());
        thread::sleep(Duration::from_micros(50));
    });
    threads.into_inner().unwrap()
}

#[track_caller]
fn check_all_released(pool: &ThreadPool) {
    eventually("everything is released", || pool.engaged() == 0);
}

#[test]
fn every_part_runs_once() {
    for threads in [1, 2, 5] {
        let pool = ThreadPool::new(Some(threads)).unwrap();
        pool.with_team(|| (0..20_000).for_each(|fork| check_fork(fork % 23)));
        check_all_released(&pool);
    }
}

#[test]
fn without_a_team_parts_run_in_order_on_the_calling_thread() {
    let order = Mutex::new(Vec::new());
    share(5, |part| order.lock().unwrap().push((part, thread::current().id())));
    let here = thread::current().id();
    assert_eq!(order.into_inner().unwrap(), Vec::from_iter((0..5).map(|part| (part, here))));
}

#[test]
fn idle_threads_join() {
    for threads in [2, 5] {
        let pool = ThreadPool::new(Some(threads)).unwrap();
        pool.with_team(|| eventually("all join", || threads_of_a_fork().len() == threads));
        check_all_released(&pool);
    }
}

#[test]
fn members_come_late_to_teams_that_are_closed() {
    for threads in [2, 5] {
        let pool = ThreadPool::new(Some(threads)).unwrap();
        for team in 0..3_000 {
            pool.with_team(|| (0..team % 4).for_each(|_| check_fork(5)));
        }
        check_all_released(&pool);
    }
}

#[test]
fn a_busy_pool_is_not_waited_for() {
    let rayon = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let pool = ThreadPool::from_rayon(Arc::clone(&rayon));
    let busy = Arc::new(Barrier::new(3));
    for _ in 0..2 {
        let busy = Arc::clone(&busy);
        rayon.spawn(move || {
            busy.wait();
        });
    }
    let here = HashSet::from([thread::current().id()]);
    pool.with_team(|| (0..100).for_each(|_| assert_eq!(threads_of_a_fork(), here)));
    busy.wait();
    check_all_released(&pool);
}

#[test]
fn panics_reach_the_leader_after_all_parts_are_done() {
    let pool = ThreadPool::new(Some(5)).unwrap();
    pool.with_team(|| {
        for fork in 0..300 {
            let done = AtomicUsize::new(0);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                share(10, |part| {
                    assert_ne!(part, fork % 10, "part {part}");
                    done.fetch_add(1, Relaxed);
                });
            }));
            let payload = outcome.expect_err("a part panicked");
            assert!(payload.downcast_ref::<String>().unwrap().contains(&format!("part {}", fork % 10)));
            assert_eq!(done.into_inner(), 9);
            check_fork(10);
            catch_unwind(|| share(3, |_| panic!("all"))).expect_err("all parts panicked");
        }
    });
    let outcome =
        catch_unwind(AssertUnwindSafe(|| pool.with_team(|| share(3, |_| panic!("out of the team")))));
    outcome.expect_err("a part panicked");
    assert_eq!(threads_of_a_fork().len(), 1, "no team is led any more");
    check_all_released(&pool);
}

#[test]
fn a_fork_inside_a_part_stays_on_its_thread() {
    let pool = ThreadPool::new(Some(2)).unwrap();
    pool.with_team(|| {
        for _ in 0..200 {
            share(4, |_| {
                let here = thread::current().id();
                share(4, |_| assert_eq!(thread::current().id(), here));
            });
        }
        eventually("the team is still there", || threads_of_a_fork().len() == 2);
    });
}

#[test]
fn teams_nest() {
    let [outer, inner] = [2, 3].map(|threads| ThreadPool::new(Some(threads)).unwrap());
    outer.with_team(|| {
        inner.with_team(|| eventually("the inner team", || threads_of_a_fork().len() == 3));
        share(2, |_| inner.with_team(|| check_fork(7)));
        eventually("the outer team again", || threads_of_a_fork().len() == 2);
    });
    check_all_released(&outer);
    check_all_released(&inner);
}

#[test]
fn many_leaders_share_a_pool() {
    let pool = ThreadPool::new(Some(3)).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                (0..300).for_each(|_| pool.with_team(|| (0..10).for_each(check_fork)));
            });
        }
    });
    check_all_released(&pool);
}

#[test]
fn members_leave_a_leader_that_stalls_and_come_back() {
    let pool = ThreadPool::new(Some(2)).unwrap();
    pool.with_team(|| {
        for _ in 0..3 {
            eventually("the member joins", || threads_of_a_fork().len() == 2);
            eventually("the member leaves", || pool.engaged() == 1);
        }
    });
}

#[test]
fn threads_without_an_item_join_those_that_have_one() {
    let pool = ThreadPool::new(Some(2)).unwrap();
    let here = thread::current().id();
    for _ in 0..20 {
        let is_long = [true, false];
        let join = |&is_long: &bool| {
            assert_ne!(thread::current().id(), here);
            if is_long {
                eventually("the other thread joins", || threads_of_a_fork().len() == 2);
            }
            Ok::<_, ()>(())
        };
        pool.try_map(&is_long, join).unwrap();
        check_all_released(&pool);
    }
}

#[test]
fn errors_and_panics_release_what_was_not_started() {
    let pool = ThreadPool::new(Some(2)).unwrap();
    let items: Vec<usize> = (0..100).collect();
    pool.try_map(&items, |item| if item % 7 == 3 { Err(()) } else { Ok(()) }).unwrap_err();
    check_all_released(&pool);
    let map = || pool.try_map(&items, |&item| if item == 50 { panic!("fifty") } else { Ok::<_, ()>(()) });
    catch_unwind(AssertUnwindSafe(map)).expect_err("an item panicked");
    check_all_released(&pool);
}
