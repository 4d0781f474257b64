//! Calls that share work among threads while somebody holds a lock come back.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread;
use std::time::Duration;

use flatleaf::{Error, Layout, Objective, Tree, destructure, objective};

/// A generous bound: each test takes a fraction of a second where nothing hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Does the work on a thread of its own, which is left behind if it hangs.
#[track_caller]
fn comes_back(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = channel();
    let worker = thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    match is_done.recv_timeout(LIMIT) {
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        _ => worker.join().expect("no panic in the work"),
    }
}

/// So many elements are copied by all threads.
const SHARED: usize = 1 << 20;

fn large() -> Vec<Vec<f32>> {
    vec![vec![1.0; SHARED / 4]; 4]
}

fn pool() -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap()
}

/// Points of which no two are alike, so that each is an evaluation.
fn points() -> impl Iterator<Item = (f64, Vec<f32>)> {
    (0..4).map(|k| (f64::from(k), vec![k as f32; SHARED]))
}

#[test]
fn tasks_of_one_pool_evaluate_one_objective() {
    comes_back(|| {
        let (model, layout) = (large(), Layout::of(&large()).unwrap());
        let first = objective(&layout, &model, |model| (model[0][0], model.clone())).unwrap();
        let points: Vec<_> = points().collect();
        let evaluate = |(expected, point): &(f64, Vec<f32>)| {
            let mut gradient = vec![0.0; SHARED];
            let value = first.value_and_gradient(point, &mut gradient).unwrap();
            assert_eq!(value, *expected);
            assert_eq!((gradient[0], gradient[SHARED - 1]), (point[0], point[0]));
        };
        // One task is to find the pool's other thread free, and a second one to come while they
        // work together: at another moment in each round.
        let pool = pool();
        for round in 0..40 {
            pool.in_place_scope(|scope| {
                for point in &points[round % 3..][..2] {
                    scope.spawn(|_| evaluate(point));
                    thread::sleep(Duration::from_micros(50 * round as u64));
                }
            });
        }
    });
}

#[test]
fn a_thread_outside_of_the_pool_evaluates_beside_its_tasks() {
    comes_back(|| {
        let (model, layout) = (large(), Layout::of(&large()).unwrap());
        let first = objective(&layout, &model, |model| (model[3][0], ())).unwrap();
        let points: Vec<_> = points().collect();
        let evaluate = |(expected, point): &(f64, Vec<f32>)| {
            assert_eq!(first.value(point).unwrap(), *expected)
        };
        let all = || (0..3).flat_map(|_| &points);
        rayon::in_place_scope(|scope| {
            for _ in 0..rayon::current_num_threads() {
                scope.spawn(|_| all().for_each(evaluate));
            }
            all().for_each(evaluate);
        });
    });
}

#[test]
fn what_a_function_calls_of_this_crate_stays_on_its_thread() {
    comes_back(|| {
        let (model, layout) = (large(), Layout::of(&large()).unwrap());
        let norm = objective(&layout, &model, |model| {
            let flat = layout.gather(model)?;
            Ok::<_, Error>((flatleaf::ops::norm_inf(&flat), ()))
        })
        .unwrap();
        pool().scope(|scope| {
            for (expected, point) in points() {
                let norm = &norm;
                scope.spawn(move |_| assert_eq!(norm.value(&point).unwrap(), expected));
            }
        });
    });
}

type OfItself = Objective<[f32; 1], fn(&[f32; 1]) -> flatleaf::Result<(f64, ())>>;

static OF_ITSELF: OnceLock<OfItself> = OnceLock::new();

#[test]
fn a_function_that_asks_for_its_own_value_is_an_error() {
    comes_back(|| {
        let layout = Layout::of(&[0.0_f32]).unwrap();
        let asks_itself = |model: &[f32; 1]| -> flatleaf::Result<(f64, ())> {
            let objective = OF_ITSELF.get().expect("made before it is evaluated");
            // What waits for nobody answers in the middle of an evaluation too.
            assert_eq!(objective.evaluations(), 1);
            assert!(format!("{objective:?}").contains("1 evaluations"));
            Ok((objective.value(&[model[0] + 1.0])?, ()))
        };
        let objective: OfItself =
            Objective::new(&layout, [0.0], asks_itself as fn(&_) -> _).unwrap();
        let objective = OF_ITSELF.get_or_init(|| objective);
        let error = objective.value(&[1.0]).unwrap_err();
        assert!(error.is_borrowed(), "{error}");
    });
}

/// One lock that several tasks want, with leaves that are shared among threads behind it and beside
/// it.
fn under_locks<L: Tree + Send + Sync + 'static>(lock: fn(Vec<Vec<f32>>) -> L) {
    let guarded = Arc::new(lock(large()));
    let (flat, layout) = destructure(&(guarded.clone(), large())).unwrap();
    pool().scope(|scope| {
        for k in 0..4 {
            let (guarded, flat, layout) = (guarded.clone(), flat.clone(), &layout);
            scope.spawn(move |_| {
                let mut model = (guarded, large());
                if k % 2 == 0 {
                    assert_eq!(layout.gather(&model).unwrap().len(), flat.len());
                    assert_eq!(layout.gather_grad(&model).unwrap()[0], 1.0);
                    layout.norm_l2(&model).unwrap();
                } else {
                    layout.restructure_into(&mut model, &flat).unwrap();
                    layout.map_into(&mut model, [], |_, _, []| ()).unwrap();
                    let new = layout.restructure(&model, &flat).unwrap();
                    assert_eq!((new.1[0][0], new.1[3][0]), (1.0, 1.0));
                }
            });
        }
    });
}

#[test]
fn tasks_of_one_pool_move_models_of_one_lock() {
    comes_back(|| {
        under_locks(Mutex::new);
        under_locks(RwLock::new);
    });
}
