//! In what order: a graph's nodes side by side, each as soon as its inputs are there.
//!
//! Knows nothing of what the nodes do, so it is tested with arithmetic. Most nodes are looked up in no time, and to
//! look up two at once is no faster, since both ask one database: the caller's thread takes a node after the other. A node
//! that turns out to take [long](Long) says so, and another thread takes over what is ready: steps that sleep or
//! download must not wait for a core, so of those there may be as many as there are. A node may be slow without
//! knowing: twice as many threads are allowed whenever nodes wait and a thread spends longer than [`PATIENCE`] on
//! one; the more there are, the longer is waited, lest they only wait for a machine that is busy with other things.
//! What computes is bounded by pools of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The most nodes under way at once.
const WIDTH: usize = 256;
/// How long a node that is ready waits for a thread that ends another one. What is known takes some ten
/// microseconds, unless the machine is busy.
const PATIENCE: Duration = Duration::from_millis(3);

struct State<T, E> {
    /// Those that somebody still wants.
    results: Vec<Option<Arc<T>>>,
    /// How many nodes have not read a node yet, whoever wants the results counted as one.
    unread: Vec<usize>,
    waiting: Vec<usize>,
    ready: Vec<usize>,
    /// How many threads there are, and how many of them are at nodes that did not say that they take long.
    threads: usize,
    quick: usize,
    /// How many quick ones may be.
    width: usize,
    /// How many nodes have ended.
    ended: usize,
    failure: Option<E>,
}

/// What a node tells that takes long: nobody waits for it to end before others begin.
pub struct Long<'a> {
    said: AtomicBool,
    tell: &'a (dyn Fn() + Sync),
}

impl<'a> Long<'a> {
    /// Calls `tell` the first time that it is said.
    pub fn new(tell: &'a (dyn Fn() + Sync)) -> Self {
        Self { said: AtomicBool::new(false), tell }
    }

    /// Says it.
    pub fn say(&self) {
        if !self.said.swap(true, Ordering::Relaxed) {
            (self.tell)();
        }
    }
}

/// Runs `work` on every node once, after all of its inputs, and gives the results of `wanted`; others are let go
/// of once their readers have ended. `inputs[n]` are the nodes that node `n` reads, every one of them less than `n`.
///
/// After the first failure no further node starts, `stop` is called once, and the failure is given
/// when all that was under way has ended.
///
/// # Errors
/// The first failure of `work`.
pub fn run<T, E>(
    inputs: &[Vec<usize>],
    wanted: &[usize],
    work: impl Fn(usize, &[Arc<T>], &Long<'_>) -> Result<T, E> + Sync,
    stop: impl Fn() + Sync,
) -> Result<Vec<Arc<T>>, E>
where
    T: Send + Sync,
    E: Send,
{
    let mut readers = vec![Vec::new(); inputs.len()];
    for (node, reads) in inputs.iter().enumerate() {
        for &input in reads {
            assert!(input < node, "the inputs of a node precede it");
            readers[input].push(node);
        }
    }
    let mut unread: Vec<usize> = readers.iter().map(Vec::len).collect();
    wanted.iter().for_each(|&node| unread[node] += 1);
    let waiting: Vec<usize> = inputs.iter().map(Vec::len).collect();
    // The last is taken first, so that nodes start in their order.
    let ready = (0..inputs.len()).rev().filter(|&node| waiting[node] == 0).collect();
    let results = vec![None; inputs.len()];
    let mut state =
        State { results, unread, waiting, ready, threads: 0, quick: 0, width: 1, ended: 0, failure: None };
    let Some(first) = next(&mut state) else { return Ok(Vec::new()) };
    state.threads = 1;
    let state = Mutex::new(state);
    let idle = Condvar::new();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let is_long = || {
        let mut state = lock();
        state.quick -= 1;
        if !state.ready.is_empty() {
            idle.notify_all();
        }
    };

    // A thread takes nodes until none is ready, or enough others do; the one who makes several ready, or takes long,
    // has others started.
    let drain = |mut node: usize| {
        // Also when the work panics: nobody shall wait for this thread then.
        let _leaving = Leaving(|| {
            lock().threads -= 1;
            idle.notify_all();
        });
        let mut arguments: Vec<Arc<T>> = Vec::new();
        let mut guard = lock();
        loop {
            let result = |&input: &usize| {
                Arc::clone(guard.results[input].as_ref().expect("a ready node's inputs are there"))
            };
            arguments.extend(inputs[node].iter().map(result));
            drop(guard);
            let long = Long::new(&is_long);
            let outcome = work(node, &arguments, &long);
            guard = lock();
            let state = &mut *guard;
            for &input in &inputs[node] {
                state.unread[input] -= 1;
                if state.unread[input] == 0 {
                    state.results[input] = None;
                }
            }
            arguments.clear();
            state.quick -= usize::from(!long.said.into_inner());
            state.ended += 1;
            let nothing_waited = state.ready.is_empty();
            match outcome {
                Ok(result) => {
                    state.results[node] = (state.unread[node] > 0).then(|| Arc::new(result));
                    for &reader in readers[node].iter().rev() {
                        state.waiting[reader] -= 1;
                        if state.waiting[reader] == 0 {
                            state.ready.push(reader);
                        }
                    }
                }
                Err(error) => {
                    let first = state.failure.is_none();
                    state.failure.get_or_insert(error);
                    if first {
                        drop(guard);
                        stop();
                        guard = lock();
                    }
                }
            }
            match next(&mut guard) {
                Some(ready) => {
                    node = ready;
                    if nothing_waited && !guard.ready.is_empty() {
                        idle.notify_all();
                    }
                }
                None => return,
            }
        }
    };

    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut guard = lock();
            while guard.threads > 0 {
                while guard.threads < WIDTH {
                    let Some(node) = next(&mut guard) else { break };
                    guard.threads += 1;
                    let drain = &drain;
                    scope.spawn(move || drain(node));
                }
                if guard.ready.is_empty() || guard.threads == WIDTH {
                    guard = idle.wait(guard).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let (before, quick) = (guard.ended, guard.quick);
                let patience = PATIENCE * guard.width.div_ceil(4) as u32;
                let (woken, waited) =
                    idle.wait_timeout(guard, patience).unwrap_or_else(PoisonError::into_inner);
                guard = woken;
                // Each of them should have ended one at least; one that did not may never.
                if waited.timed_out() && guard.ended - before < quick {
                    guard.width = (guard.width * 2).min(WIDTH);
                }
            }
        });
        drain(first);
    });

    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = state.failure {
        return Err(error);
    }
    let result =
        |&node: &usize| Arc::clone(state.results[node].as_ref().expect("every node ran without failure"));
    Ok(wanted.iter().map(result).collect())
}

/// Does something when it goes.
struct Leaving<F: Fn()>(F);

impl<F: Fn()> Drop for Leaving<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A node to begin with, if there is one and not enough threads are at such.
fn next<T, E>(state: &mut State<T, E>) -> Option<usize> {
    if state.failure.is_some() || state.quick >= state.width {
        return None;
    }
    let node = state.ready.pop()?;
    state.quick += 1;
    Some(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Node 0 and 1 are constants, every other the sum of its inputs.
    fn sums(inputs: &[Vec<usize>]) -> (Vec<u64>, usize) {
        let calls = AtomicUsize::new(0);
        let work = |node: usize, values: &[Arc<u64>], _: &Long<'_>| -> Result<u64, ()> {
            calls.fetch_add(1, Ordering::Relaxed);
            Ok(if values.is_empty() { node as u64 } else { values.iter().map(|v| **v).sum() })
        };
        let wanted: Vec<usize> = (0..inputs.len()).collect();
        let results = run(inputs, &wanted, work, || {}).unwrap();
        (results.iter().map(|v| **v).collect(), calls.into_inner())
    }

    #[test]
    fn each_node_runs_once_after_its_inputs() {
        let (values, calls) = sums(&[vec![], vec![], vec![0, 1], vec![2, 2, 1], vec![]]);
        assert_eq!(values, [0, 1, 1, 3, 4]);
        assert_eq!(calls, 5);
        assert_eq!(sums(&[]), (vec![], 0));
    }

    #[test]
    fn long_chains_and_wide_graphs() {
        let chain: Vec<Vec<usize>> =
            (0..5_000).map(|n: usize| n.checked_sub(1).into_iter().collect()).collect();
        assert_eq!(sums(&chain).1, 5_000);
        let wide: Vec<Vec<usize>> = (0..2_000).map(|n| if n == 0 { vec![] } else { vec![0] }).collect();
        assert_eq!(sums(&wide).1, 2_000);
    }

    #[test]
    fn independent_nodes_run_side_by_side() {
        let barrier = std::sync::Barrier::new(8);
        let inputs = vec![vec![]; 8];
        // Every node waits for the seven others: one after the other this would never end.
        let work = |node, _: &[Arc<usize>], _: &Long<'_>| Ok::<_, ()>((barrier.wait(), node).1);
        assert_eq!(run(&inputs, &[3, 5], work, || {}).map(|results| [*results[0], *results[1]]), Ok([3, 5]));
    }

    #[test]
    fn nodes_that_take_long_run_side_by_side() {
        // Those that read others, too, once these have ended.
        for reads in [vec![], vec![0]] {
            let barrier = std::sync::Barrier::new(100);
            let inputs: Vec<Vec<usize>> =
                std::iter::once(vec![]).chain((1..=100).map(|_| reads.clone())).collect();
            let work = |node: usize, _: &[Arc<usize>], long: &Long<'_>| {
                if node > 0 {
                    long.say();
                    long.say();
                    barrier.wait();
                }
                Ok::<_, ()>(node)
            };
            assert_eq!(run(&inputs, &[100], work, || {}).map(|results| *results[0]), Ok(100));
        }
    }

    #[test]
    fn results_are_let_go_of_when_their_readers_have_ended() {
        let held = AtomicUsize::new(0);
        struct Counted<'a>(&'a AtomicUsize);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let inputs: Vec<Vec<usize>> =
            (0..1000).map(|node: usize| node.checked_sub(1).into_iter().collect()).collect();
        let work = |_, values: &[Arc<Counted<'_>>], _: &Long<'_>| {
            assert!(values.len() <= 1);
            // The one that is read, the one that is made, and the one that is wanted.
            assert!(held.fetch_add(1, Ordering::Relaxed) < 3);
            Ok::<_, ()>(Counted(&held))
        };
        let results = run(&inputs, &[500, 999], work, || {}).unwrap_or_default();
        assert_eq!((results.len(), held.load(Ordering::Relaxed)), (2, 2));
    }

    #[test]
    fn a_panic_is_passed_on_and_nobody_waits() {
        for panicking in [0, 1, 5] {
            let inputs = vec![vec![], vec![0], vec![0], vec![0], vec![1], vec![2], vec![4, 5]];
            let work = |node: usize, _: &[Arc<usize>], long: &Long<'_>| {
                long.say();
                assert_ne!(node, panicking, "as it should");
                Ok::<_, ()>(node)
            };
            let ran = std::panic::catch_unwind(|| run(&inputs, &[6], work, || {}));
            assert!(ran.is_err(), "{panicking}");
        }
    }

    #[test]
    fn what_follows_long_nodes_is_not_forgotten() {
        let layers = 20;
        let inputs: Vec<Vec<usize>> = (0..layers * 10)
            .map(
                |node: usize| {
                    if node < 10 { vec![] } else { (node / 10 * 10 - 10..node / 10 * 10).collect() }
                },
            )
            .collect();
        for rest in 1..4 {
            let work = |node: usize, _: &[Arc<usize>], long: &Long<'_>| {
                if node % 4 < rest {
                    long.say();
                }
                Ok::<_, ()>(node)
            };
            assert_eq!(
                run(&inputs, &[layers * 10 - 1], work, || {}).map(|results| *results[0]),
                Ok(layers * 10 - 1)
            );
        }
    }

    #[test]
    fn after_a_failure_nothing_starts() {
        let (calls, stops) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let inputs: Vec<Vec<usize>> =
            (0..100).map(|n: usize| n.checked_sub(1).into_iter().collect()).collect();
        let work = |node: usize, _: &[Arc<()>], _: &Long<'_>| {
            calls.fetch_add(1, Ordering::Relaxed);
            if node == 10 { Err("ten") } else { Ok(()) }
        };
        let stop = || {
            stops.fetch_add(1, Ordering::Relaxed);
        };
        assert_eq!(run(&inputs, &[99], work, stop).unwrap_err(), "ten");
        assert_eq!((calls.into_inner(), stops.into_inner()), (11, 1));
    }
}
