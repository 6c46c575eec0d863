//! In what order: a graph's nodes side by side, each as soon as its inputs are there.
//!
//! Knows nothing of what the nodes do, so it is tested with arithmetic. Steps that sleep or download must
//! not wait for a core, so there are as many threads as it takes to leave no node waiting; and most nodes
//! are looked up in no time, so there are no more. It begins with a few, and twice as many are allowed
//! whenever nodes wait and a thread spends longer than [`PATIENCE`] on one; the more there are, the longer is
//! waited, lest they only wait for a machine that is busy with other things. What computes is bounded by pools of its
//! own.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The most nodes under way at once.
const WIDTH: usize = 256;
/// How many threads it begins with.
const FIRST: usize = 4;
/// How long a node that is ready waits for a thread that ends another one. What is known takes some ten
/// microseconds.
const PATIENCE: Duration = Duration::from_millis(1);

struct State<T, E> {
    results: Vec<Option<Arc<T>>>,
    waiting: Vec<usize>,
    ready: Vec<usize>,
    threads: usize,
    /// How many nodes have ended.
    ended: usize,
    failure: Option<E>,
}

/// Runs `work` on every node once, after all of its inputs, and gives the results in the order of
/// `inputs`. `inputs[n]` are the nodes that node `n` reads, every one of them less than `n`.
///
/// After the first failure no further node starts, `stop` is called once, and the failure is given
/// when all that was under way has ended.
///
/// # Errors
/// The first failure of `work`.
pub fn run<T, E>(
    inputs: &[Vec<usize>],
    work: impl Fn(usize, &[Arc<T>]) -> Result<T, E> + Sync,
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
    let waiting: Vec<usize> = inputs.iter().map(Vec::len).collect();
    // The last is taken first, so that nodes start in their order.
    let ready = (0..inputs.len()).rev().filter(|&node| waiting[node] == 0).collect();
    let results = vec![None; inputs.len()];
    let state = Mutex::new(State { results, waiting, ready, threads: 0, ended: 0, failure: None });
    let idle = Condvar::new();
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);

    // A thread takes nodes until none is ready; the one who makes several ready starts the others.
    let drain = |mut node: usize| {
        loop {
            let arguments: Vec<Arc<T>> = {
                let state = lock();
                let result = |&input: &usize| {
                    Arc::clone(state.results[input].as_ref().expect("a ready node's inputs are there"))
                };
                inputs[node].iter().map(result).collect()
            };
            let outcome = work(node, &arguments);
            drop(arguments);
            let mut state = lock();
            let nothing_waited = state.ready.is_empty();
            state.ended += 1;
            match outcome {
                Ok(result) => {
                    state.results[node] = Some(Arc::new(result));
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
                        drop(state);
                        stop();
                        state = lock();
                    }
                }
            }
            match next(&mut state) {
                Some(ready) => {
                    node = ready;
                    if nothing_waited && !state.ready.is_empty() {
                        idle.notify_all();
                    }
                }
                None => {
                    state.threads -= 1;
                    idle.notify_all();
                    return;
                }
            }
        }
    };

    std::thread::scope(|scope| {
        let mut guard = lock();
        let mut width = FIRST;
        loop {
            while guard.threads < width {
                let Some(node) = next(&mut guard) else { break };
                guard.threads += 1;
                let drain = &drain;
                scope.spawn(move || drain(node));
            }
            if guard.threads == 0 {
                break;
            }
            if guard.ready.is_empty() || guard.threads == WIDTH {
                guard = idle.wait(guard).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (before, threads) = (guard.ended, guard.threads);
            let patience = PATIENCE * (width / FIRST) as u32;
            let (woken, waited) = idle.wait_timeout(guard, patience).unwrap_or_else(PoisonError::into_inner);
            guard = woken;
            // Each of them should have ended one at least; one that did not may never.
            if waited.timed_out() && guard.ended - before < threads {
                width = (threads * 2).clamp(FIRST, WIDTH);
            }
        }
    });

    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.failure {
        Some(error) => Err(error),
        None => Ok(state
            .results
            .into_iter()
            .map(|result| result.expect("every node ran without failure"))
            .collect()),
    }
}

fn next<T, E>(state: &mut State<T, E>) -> Option<usize> {
    if state.failure.is_some() { None } else { state.ready.pop() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Node 0 and 1 are constants, every other the sum of its inputs.
    fn sums(inputs: &[Vec<usize>]) -> (Vec<u64>, usize) {
        let calls = AtomicUsize::new(0);
        let work = |node: usize, values: &[Arc<u64>]| -> Result<u64, ()> {
            calls.fetch_add(1, Ordering::Relaxed);
            Ok(if values.is_empty() { node as u64 } else { values.iter().map(|v| **v).sum() })
        };
        let results = run(inputs, work, || {}).unwrap();
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
        let results = run(&inputs, |node, _: &[Arc<usize>]| Ok::<_, ()>((barrier.wait(), node).1), || {});
        assert_eq!(results.unwrap().len(), 8);
    }

    #[test]
    fn after_a_failure_nothing_starts() {
        let (calls, stops) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let inputs: Vec<Vec<usize>> =
            (0..100).map(|n: usize| n.checked_sub(1).into_iter().collect()).collect();
        let work = |node: usize, _: &[Arc<()>]| {
            calls.fetch_add(1, Ordering::Relaxed);
            if node == 10 { Err("ten") } else { Ok(()) }
        };
        let stop = || {
            stops.fetch_add(1, Ordering::Relaxed);
        };
        assert_eq!(run(&inputs, work, stop).unwrap_err(), "ten");
        assert_eq!((calls.into_inner(), stops.into_inner()), (11, 1));
    }
}
