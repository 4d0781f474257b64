//! Locks that break half-way, and threads that share a layout and a model.

use std::sync::{Arc, Barrier, Mutex, RwLock};

use flatleaf::{Builder, FlatGrad, Key, Layout, Result, Tree, Visitor, VisitorMut, deep_clone};

/// Poisons a lock that stands elsewhere in the tree, so many visits from now.
struct Saboteur {
    visits: usize,
    lock: Arc<Mutex<Vec<f32>>>,
    value: Vec<f32>,
}

impl Saboteur {
    fn poison(&self) {
        let lock = self.lock.clone();
        let poisoning = std::thread::spawn(move || {
            let _guard = lock.lock();
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        poisoning.join().unwrap_err();
    }
}

impl Tree for Saboteur {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.child(Key::Name("value"), &self.value)
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        if self.visits == 0 {
            self.poison();
        }
        self.visits = self.visits.wrapping_sub(1);
        visitor.child(Key::Name("value"), &mut self.value)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        self.poison();
        Ok(Saboteur {
            visits: 0,
            lock: self.lock.clone(),
            value: builder.child(Key::Name("value"), &self.value)?,
        })
    }
}

type Model = (
    Vec<f32>,
    Arc<Vec<f32>>,
    Saboteur,
    Arc<Mutex<Vec<f32>>>,
    Vec<f32>,
    Arc<Vec<f32>>,
);

fn model(visits: usize) -> Model {
    let (lock, tied) = (Arc::new(Mutex::new(vec![1.0; 2])), Arc::new(vec![1.0; 2]));
    (
        vec![1.0; 2],
        tied.clone(),
        Saboteur {
            visits,
            lock: lock.clone(),
            value: vec![1.0; 2],
        },
        lock,
        vec![1.0; 2],
        tied,
    )
}

/// All leaves are old or new, and the tie is a tie.
fn check(model: &Model) {
    let locked = model
        .3
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    for leaf in [
        &model.0,
        &*model.1,
        &model.2.value,
        &locked,
        &model.4,
        &*model.5,
    ] {
        assert!(leaf == &[1.0; 2] || leaf == &[2.0; 2], "torn: {leaf:?}");
    }
    assert!(Arc::ptr_eq(&model.1, &model.5));
}

#[test]
fn a_lock_that_is_poisoned_between_two_visits() {
    let layout = Layout::of(&model(0)).unwrap();
    let flat = vec![2.0; layout.len()];
    for visits in 0..4 {
        for work in [
            |layout: &Layout, model: &mut Model, flat: &[f32]| layout.restructure_into(model, flat),
            |layout: &Layout, model: &mut Model, _: &[f32]| {
                layout.map_into(model, [], |_, x, []| x.fill(2.0))
            },
        ] {
            let mut model = model(visits);
            let result = work(&layout, &mut model, &flat);
            check(&model);
            if let Err(error) = result {
                assert!(error.is_poisoned(), "{error:?}");
                assert_eq!(error.path(), Some("3"));
            }
            model.3.clear_poison();
            model.2.visits = usize::MAX;
            layout.restructure_into(&mut model, &flat).unwrap();
            assert_eq!(layout.gather(&model).unwrap(), flat);
        }
    }
    let mut broken = model(0);
    assert!(
        layout
            .restructure_into(&mut broken, &flat)
            .unwrap_err()
            .is_poisoned()
    );
    let whole = model(usize::MAX);
    let error = layout.restructure(&whole, &flat).err().unwrap();
    assert!(error.is_poisoned());
    assert_eq!(error.path(), Some("3"));
}

#[derive(Tree)]
struct Net {
    weight: Vec<f32>,
    tied: Arc<Vec<f32>>,
    lock: Arc<Mutex<Vec<f32>>>,
    half: Arc<RwLock<Vec<f32>>>,
    tied_again: Arc<Vec<f32>>,
}

#[test]
fn threads_read_one_model_while_others_write_their_own_copies() {
    const ROUNDS: usize = 200;
    let tied = Arc::new(vec![1.0; 64]);
    let model = Net {
        weight: vec![1.0; 5000],
        tied: tied.clone(),
        lock: Arc::new(vec![1.0; 3].into()),
        half: Arc::new(vec![1.0; 3].into()),
        tied_again: tied,
    };
    let layout = Layout::of(&model).unwrap();
    let together = Barrier::new(4);
    let read = || {
        let mut grad = FlatGrad::zeros(&layout);
        together.wait();
        for _ in 0..ROUNDS {
            assert_eq!(layout.gather(&model).unwrap(), vec![1.0; layout.len()]);
            layout.gather_grad_into(&model, &mut grad).unwrap();
            assert_eq!((grad[0], grad[5000]), (1.0, 2.0));
        }
    };
    let write = |value: f32| {
        let mut copy = deep_clone(&model).unwrap();
        together.wait();
        for round in 0..ROUNDS {
            let flat = vec![value + round as f32; layout.len()];
            layout.restructure_into(&mut copy, &flat).unwrap();
            assert_eq!(layout.gather(&copy).unwrap(), flat);
            layout
                .map_into(&mut copy, [], |_, x, []| {
                    x.iter_mut().for_each(|x| *x += 1.0)
                })
                .unwrap();
        }
        assert!(Arc::ptr_eq(&copy.tied, &copy.tied_again));
    };
    std::thread::scope(|scope| {
        scope.spawn(read);
        scope.spawn(read);
        scope.spawn(|| write(10.0));
        scope.spawn(|| write(500.0));
    });
    assert_eq!(Layout::of(&model).unwrap(), layout);
}
