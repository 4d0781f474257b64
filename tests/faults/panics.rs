//! A panic in a user's tree or closure, at any moment of any operation: every leaf is old or new,
//! and all of it can be used.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use flatleaf::Companion::{Grads, Values};
use flatleaf::optim::{ClipNorm, Kernel, Optimizer, Rule, Sgd, each};
use flatleaf::{
    Builder, DynTree, FlatGrad, Key, Layout, Result, TiedGrads, Tree, Visitor, VisitorMut,
    deep_clone, destructure, tree,
};
use ndarray::{ArcArray2, Array2, ShapeBuilder};

/// Burns down by one call of a user's code after the other, and panics at the end.
#[derive(Clone, Default)]
struct Fuse(Rc<Cell<Option<usize>>>);

impl Fuse {
    fn light(&self, calls: usize) {
        self.0.set(Some(calls));
    }

    fn put_out(&self) {
        self.0.set(None);
    }

    fn burn(&self) {
        match self.0.take() {
            Some(0) => blow_up(),
            left => self.0.set(left.map(|left| left - 1)),
        }
    }
}

/// A panic that prints nothing.
fn blow_up() -> ! {
    resume_unwind(Box::new("on purpose"))
}

/// A tree whose every method may panic, before and after it has said what it holds.
struct Fused {
    fuse: Fuse,
    value: Vec<f32>,
}

impl Tree for Fused {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.fuse.burn();
        visitor.child(Key::Name("value"), &self.value)?;
        self.fuse.burn();
        Ok(())
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        self.fuse.burn();
        visitor.child(Key::Name("value"), &mut self.value)?;
        self.fuse.burn();
        Ok(())
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        self.fuse.burn();
        let value = builder.child(Key::Name("value"), &self.value)?;
        self.fuse.burn();
        Ok(Fused {
            fuse: self.fuse.clone(),
            value,
        })
    }

    flatleaf::rebuild_object!();
}

/// A model of which every element is the same number, with something of every kind.
#[derive(Tree)]
struct Mixed {
    first: Vec<f32>,
    tied: Rc<Vec<f32>>,
    view: ArcArray2<f32>,
    node: Rc<Fused>,
    middle: Fused,
    lock: Arc<Mutex<Vec<f32>>>,
    strided: Array2<f32>,
    #[tree(frozen)]
    mean: Vec<f32>,
    #[tree(frozen)]
    statistics: Fused,
    counts: Vec<i32>,
    tied_again: Rc<Vec<f32>>,
    turned: ArcArray2<f32>,
    node_again: Rc<Fused>,
    cell: Rc<RefCell<Fused>>,
    last: Fused,
}

/// Lent whole: written in the walk that checks it.
#[derive(Tree)]
struct Plain {
    first: Vec<f32>,
    middle: Fused,
    #[tree(frozen)]
    statistics: Fused,
    counts: Vec<i32>,
    last: Fused,
}

const OLD: f32 = 1.0;
const NEW: f32 = 2.0;

trait Model: Tree + Sized {
    fn holding(value: f32, fuse: &Fuse) -> Self;

    /// What every leaf holds, at every place of it.
    fn trainable(&self) -> Vec<(&'static str, Vec<f32>)>;

    fn others(&self) -> Vec<(&'static str, Vec<f32>)>;

    /// Every leaf is one number, old or new, and ties are ties.
    fn check(&self) {
        for (name, values) in self.trainable().into_iter().chain(self.others()) {
            assert!(
                values.iter().all(|x| *x == values[0]),
                "`{name}` is torn: {values:?}"
            );
        }
        self.check_ties();
    }

    fn check_ties(&self) {}

    fn is(&self, trainable: f32, others: f32) {
        all_are(&self.trainable(), trainable);
        all_are(&self.others(), others);
    }
}

fn all_are(leaves: &[(&str, Vec<f32>)], value: f32) {
    assert!(
        leaves.iter().all(|leaf| leaf.1.iter().all(|x| *x == value)),
        "not {value} everywhere: {leaves:?}"
    );
}

fn fused(value: f32, fuse: &Fuse) -> Fused {
    Fused {
        fuse: fuse.clone(),
        value: vec![value; 3],
    }
}

fn count(counts: &[i32]) -> Vec<f32> {
    counts.iter().map(|count| *count as f32).collect()
}

impl Model for Mixed {
    fn holding(value: f32, fuse: &Fuse) -> Self {
        let (tied, node) = (Rc::new(vec![value; 2]), Rc::new(fused(value, fuse)));
        let view = Array2::from_elem((2, 3), value).into_shared();
        Mixed {
            first: vec![value; 2],
            tied: tied.clone(),
            view: view.clone(),
            node: node.clone(),
            middle: fused(value, fuse),
            lock: Arc::new(Mutex::new(vec![value; 2])),
            strided: Array2::from_elem((2, 2).f(), value),
            mean: vec![value; 2],
            statistics: fused(value, fuse),
            counts: vec![value as i32; 2],
            tied_again: tied,
            turned: view.reversed_axes(),
            node_again: node,
            cell: Rc::new(RefCell::new(fused(value, fuse))),
            last: fused(value, fuse),
        }
    }

    fn trainable(&self) -> Vec<(&'static str, Vec<f32>)> {
        vec![
            ("first", self.first.clone()),
            ("tied", [&self.tied[..], &self.tied_again].concat()),
            (
                "view",
                self.view.iter().chain(&self.turned).copied().collect(),
            ),
            (
                "node",
                [&self.node.value[..], &self.node_again.value].concat(),
            ),
            ("middle", self.middle.value.clone()),
            ("lock", self.lock.lock().unwrap().clone()),
            ("strided", self.strided.iter().copied().collect()),
            ("cell", self.cell.borrow().value.clone()),
            ("last", self.last.value.clone()),
        ]
    }

    fn others(&self) -> Vec<(&'static str, Vec<f32>)> {
        vec![
            ("mean", self.mean.clone()),
            ("statistics", self.statistics.value.clone()),
            ("counts", count(&self.counts)),
        ]
    }

    fn check_ties(&self) {
        assert!(
            Rc::ptr_eq(&self.tied, &self.tied_again),
            "the tie of two pointers"
        );
        assert!(
            Rc::ptr_eq(&self.node, &self.node_again),
            "the tie of two pointers to a user's tree"
        );
        assert_eq!(
            self.view.as_ptr(),
            self.turned.as_ptr(),
            "the tie of two views"
        );
    }
}

impl Model for Plain {
    fn holding(value: f32, fuse: &Fuse) -> Self {
        Plain {
            first: vec![value; 2],
            middle: fused(value, fuse),
            statistics: fused(value, fuse),
            counts: vec![value as i32],
            last: fused(value, fuse),
        }
    }

    fn trainable(&self) -> Vec<(&'static str, Vec<f32>)> {
        vec![
            ("first", self.first.clone()),
            ("middle", self.middle.value.clone()),
            ("last", self.last.value.clone()),
        ]
    }

    fn others(&self) -> Vec<(&'static str, Vec<f32>)> {
        vec![
            ("statistics", self.statistics.value.clone()),
            ("counts", count(&self.counts)),
        ]
    }
}

/// A model, its layout from before, and a fuse in the model.
struct Scene<M> {
    model: M,
    layout: Layout,
    fuse: Fuse,
}

impl<M: Model> Scene<M> {
    fn new() -> Self {
        let fuse = Fuse::default();
        let model = M::holding(OLD, &fuse);
        Scene {
            layout: Layout::of(&model).unwrap(),
            model,
            fuse,
        }
    }

    fn new_flat(&self) -> Vec<f32> {
        vec![NEW; self.layout.len()]
    }
}

/// Panics at each call of the user's code in turn, until the work comes through. After every panic
/// the model is whole and the work can be done.
fn at_every_moment<M: Model, O>(
    start: impl Fn(&Scene<M>) -> O,
    work: impl Fn(&mut Scene<M>, &mut O),
    check: impl Fn(&Scene<M>, &O),
) {
    for calls in 0.. {
        let mut scene = Scene::<M>::new();
        let mut output = start(&scene);
        scene.fuse.light(calls);
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut scene, &mut output)));
        scene.fuse.put_out();
        scene.model.check();
        assert_eq!(Layout::of(&scene.model).unwrap(), scene.layout);
        scene.layout.gather(&scene.model).unwrap();
        check(&scene, &output);
        work(&mut scene, &mut output);
        scene.model.check();
        if outcome.is_ok() {
            assert!(calls > 1, "no user's code was called");
            return;
        }
    }
}

/// Work that leaves the model as it was.
fn reads<M: Model>(work: impl Fn(&Layout, &M)) {
    at_every_moment(
        |_: &Scene<M>| (),
        |scene, ()| work(&scene.layout, &scene.model),
        |scene, ()| scene.model.is(OLD, OLD),
    );
}

fn readers<M: Model>() {
    reads::<M>(|_, model| drop(Layout::of(model).unwrap()));
    reads::<M>(|_, model| {
        drop(
            Layout::planner()
                .freeze("first")
                .keep(|leaf| leaf.len() > 1)
                .of(model)
                .unwrap(),
        )
    });
    reads::<M>(|_, model| drop(destructure(model).unwrap()));
    reads::<M>(|layout, model| drop(layout.gather(model).unwrap()));
    reads::<M>(|layout, model| drop(layout.gather_grad(model).unwrap()));
    reads::<M>(|layout, model| drop(layout.mask(model).unwrap()));
    reads::<M>(|layout, model| assert!(layout.norm_l2(model).unwrap() > OLD.into()));
    reads::<M>(|_, model| drop(DynTree::of(model).unwrap()));
    reads::<M>(|_, model| deep_clone(model).unwrap().is(OLD, OLD));
    reads::<M>(|layout, model| {
        layout
            .restructure(model, &vec![NEW; layout.len()])
            .unwrap()
            .is(NEW, OLD)
    });
    reads::<M>(|layout, model| {
        layout
            .map(model, [Values(model)], |_, x, [_]| x.fill(NEW))
            .unwrap()
            .is(NEW, OLD)
    });
    reads::<M>(|layout, model| {
        let sum = layout
            .map_reduce(model, [Grads(model)], |_, x, [_]| x.len(), |a, b| a + b)
            .unwrap();
        assert_eq!(sum, Some(layout.len()));
    });
    reads::<M>(|layout, model| {
        let objective = flatleaf::Objective::new(layout, deep_clone(model).unwrap(), |_: &M| {
            (0.0_f32, tree!({ "first": [1.0, 1.0] }))
        });
        assert_eq!(
            objective.unwrap().value(&vec![NEW; layout.len()]).unwrap(),
            0.0
        );
    });
}

#[test]
fn a_tree_that_is_read_is_as_it_was() {
    readers::<Mixed>();
    readers::<Plain>();
}

fn outputs<M: Model>() {
    at_every_moment(
        |scene: &Scene<M>| vec![-1.0; scene.layout.len()],
        |scene, flat| scene.layout.gather_into(&scene.model, flat).unwrap(),
        |_, flat| assert!(flat.iter().all(|x| *x == flat[0])),
    );
    at_every_moment(
        |scene: &Scene<M>| {
            FlatGrad::from_flat(&scene.layout, vec![-1.0; scene.layout.len()]).unwrap()
        },
        |scene, grad| scene.layout.gather_grad_into(&scene.model, grad).unwrap(),
        |_, grad| assert!(grad.iter().all(|x| *x == -1.0) || grad.iter().all(|x| *x >= OLD)),
    );
}

#[test]
fn a_vector_that_is_written_is_as_it_was() {
    outputs::<Mixed>();
    outputs::<Plain>();
}

fn writers<M: Model>() {
    at_every_moment(
        Scene::<M>::new_flat,
        |scene, flat| {
            scene
                .layout
                .restructure_into(&mut scene.model, flat)
                .unwrap()
        },
        |scene, _| all_are(&scene.model.others(), OLD),
    );
    at_every_moment(
        |scene: &Scene<M>| M::holding(NEW, &scene.fuse),
        |scene, source| scene.layout.copy_frozen(source, &mut scene.model).unwrap(),
        |scene, _| all_are(&scene.model.trainable(), OLD),
    );
    at_every_moment(
        |_: &Scene<M>| (),
        |scene, ()| {
            scene
                .layout
                .map_into(&mut scene.model, [], |_, x, []| x.fill(NEW))
                .unwrap()
        },
        |_, ()| (),
    );
    at_every_moment(
        |_: &Scene<M>| (),
        |scene, ()| {
            scene
                .layout
                .par_map_into(&mut scene.model, [], |_, x, []| x.fill(NEW))
                .unwrap()
        },
        |_, ()| (),
    );
}

#[test]
fn a_tree_that_is_written_is_old_or_new_leaf_by_leaf() {
    writers::<Mixed>();
    writers::<Plain>();
}

fn optimizers<M: Model>() {
    at_every_moment(
        |scene: &Scene<M>| {
            let rule = (
                ClipNorm {
                    max: 1e9,
                    ..Default::default()
                },
                Sgd {
                    lr: 1.0,
                    ..Default::default()
                },
            );
            (
                Optimizer::new(rule, &scene.layout).unwrap(),
                M::holding(-1.0, &scene.fuse),
            )
        },
        |scene, (optimizer, grads)| {
            drop(
                optimizer
                    .update_with(&mut scene.model, grads, TiedGrads::AlreadyTotal)
                    .unwrap(),
            )
        },
        |scene, (optimizer, grads)| {
            assert!(optimizer.step_count("first") <= Some(1));
            grads.is(-1.0, -1.0);
            all_are(&scene.model.others(), OLD);
        },
    );
}

#[test]
fn an_optimiser_goes_on_after_a_panic_of_a_tree() {
    optimizers::<Mixed>();
    optimizers::<Plain>();
}

#[cfg(feature = "safetensors")]
mod files {
    use std::path::{Path, PathBuf};

    use flatleaf::checkpoint::{self, LoadOptions};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("flatleaf-panics-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }

        fn file(&self) -> PathBuf {
            self.0.join("model.safetensors")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn save<M: Model>(path: &Path, value: f32) {
        checkpoint::save(path, &M::holding(value, &Fuse::default())).unwrap();
    }

    fn files<M: Model>(folder: &Folder) {
        let path = folder.file();
        save::<M>(&path, OLD);
        let before = std::fs::read(&path).unwrap();
        reads::<M>(|_, model| {
            let saved = catch_unwind(AssertUnwindSafe(|| checkpoint::save(&path, model)));
            assert_eq!(std::fs::read(&path).unwrap(), before);
            assert_eq!(
                std::fs::read_dir(&folder.0).unwrap().count(),
                1,
                "a file that nobody wants"
            );
            saved.unwrap_or_else(|panic| resume_unwind(panic)).unwrap();
        });
        save::<M>(&path, NEW);
        at_every_moment(
            |_: &Scene<M>| (),
            |scene, ()| {
                drop(checkpoint::load_into(&path, &mut scene.model, &LoadOptions::new()).unwrap())
            },
            |_, ()| (),
        );
        let rename = |_: &str| -> String { blow_up() };
        let mut model = M::holding(OLD, &Fuse::default());
        let load = || checkpoint::load_into(&path, &mut model, &LoadOptions::new().rename(rename));
        catch_unwind(AssertUnwindSafe(load)).unwrap_err();
        model.is(OLD, OLD);
    }

    #[test]
    fn a_file_is_old_or_new_and_so_is_what_it_is_loaded_into() {
        let folder = Folder::new("files");
        files::<Mixed>(&folder);
        files::<Plain>(&folder);
    }
}

/// Calls of a closure; the last one panics.
struct Calls(AtomicUsize);

impl Calls {
    fn until(last: usize) -> Self {
        Calls(AtomicUsize::new(last))
    }

    /// Hands a value through, unless it is the last call.
    fn count<T>(&self, value: T) -> T {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 0 {
            blow_up()
        } else {
            value
        }
    }
}

fn panics<R>(work: impl FnOnce() -> R) {
    assert!(
        catch_unwind(AssertUnwindSafe(work)).is_err(),
        "nobody panicked"
    );
}

/// All leaves are old or new but the one that the closure had, which holds what the closure left
/// there.
fn only_one_is_torn<M: Model>(scene: &Scene<M>, torn: &str) {
    let is_torn = |leaf: &(&str, Vec<f32>)| leaf.1.iter().any(|x| *x != leaf.1[0]);
    let found: Vec<&str> = scene
        .model
        .trainable()
        .iter()
        .filter(|leaf| is_torn(leaf))
        .map(|leaf| leaf.0)
        .collect();
    assert!(
        found.is_empty() || found == [torn],
        "torn: {found:?}, expected `{torn}`"
    );
    all_are(&scene.model.others(), OLD);
    scene.model.check_ties();
    scene.layout.gather(&scene.model).unwrap();
}

/// A closure that is half-way through a leaf, at each leaf in turn.
fn closures_in_place<M: Model>() {
    let names: Vec<&str> = Scene::<M>::new()
        .model
        .trainable()
        .into_iter()
        .map(|leaf| leaf.0)
        .collect();
    for (leaf, name) in names.into_iter().enumerate() {
        let (calls, parallel_calls) = (Calls::until(leaf), Calls::until(leaf));
        let map = |x: &mut [f32], calls: &Calls| {
            x[0] = NEW;
            let rest = calls.count(&mut x[1..]);
            rest.fill(NEW);
        };
        let mut scene = Scene::<M>::new();
        panics(|| {
            scene
                .layout
                .map_into(&mut scene.model, [], |_, x, []| map(x, &calls))
        });
        only_one_is_torn(&scene, name);
        scene
            .layout
            .map_into(&mut scene.model, [], |_, x, []| x.fill(NEW))
            .unwrap();
        scene.model.is(NEW, OLD);

        let mut scene = Scene::<M>::new();
        panics(|| {
            scene
                .layout
                .par_map_into(&mut scene.model, [], |_, x, []| map(x, &parallel_calls))
        });
        only_one_is_torn(&scene, name);
        scene
            .layout
            .par_map_into(&mut scene.model, [], |_, x, []| x.fill(NEW))
            .unwrap();
        scene.model.is(NEW, OLD);
    }
}

#[test]
fn a_closure_that_panics_in_place_tears_the_leaf_that_it_writes_and_no_other() {
    closures_in_place::<Mixed>();
    closures_in_place::<Plain>();
}

/// Leaves of which all threads have some at a time.
#[test]
fn a_panic_on_one_thread_leaves_the_leaves_of_the_others_whole() {
    let mut model = vec![vec![OLD; 1 << 16]; 64];
    let layout = Layout::of(&model).unwrap();
    for leaf in [0, 7, 31, 63] {
        let work = |at: usize, x: &mut [f32]| {
            if at == leaf {
                blow_up();
            }
            x.fill(NEW);
        };
        panics(|| layout.par_map_into(&mut model, [], |leaf, x, []| work(leaf.index(), x)));
        assert!(model.iter().all(|leaf| leaf.iter().all(|x| *x == leaf[0])));
        assert_eq!(model[leaf][0], OLD);
        layout
            .map_into(&mut model, [], |_, x, []| x.fill(OLD))
            .unwrap();
    }
}

#[test]
fn closures_that_only_read_leave_all_as_it_was() {
    let scene = Scene::<Mixed>::new();
    let Scene { layout, model, .. } = &scene;
    for last in 0..9 {
        let calls = Calls::until(last);
        panics(|| layout.map(model, [], |_, x, []| calls.count(x).fill(NEW)));
        let calls = Calls::until(last);
        panics(|| layout.fold(model, [], 0, |sum, _, x, []| calls.count(sum + x.len())));
        let calls = Calls::until(last);
        panics(|| layout.map_reduce(model, [], |_, x, []| calls.count(x.len()), |a, b| a + b));
        let calls = Calls::until(last);
        panics(|| layout.par_map_reduce(model, [], |_, x, []| calls.count(x.len()), |a, b| a + b));
        let calls = Calls::until(last);
        panics(|| Layout::planner().keep(|_| calls.count(true)).of(model));
        let calls = Calls::until(last.min(7));
        panics(|| layout.par_map_reduce(model, [], |_, x, []| x.len(), |a, b| calls.count(a + b)));
    }
    model.is(OLD, OLD);
    assert_eq!(layout.gather(model).unwrap(), vec![OLD; layout.len()]);
}

/// Subtracts the gradient; an element that is not old panics.
#[derive(Clone, PartialEq)]
struct Touchy {
    lr: f32,
}

impl Rule for Touchy {
    fn states(&self) -> Vec<&'static str> {
        vec!["seen"]
    }

    fn kernel(&self, _step: u64) -> impl Kernel {
        let lr = self.lr;
        each(move |x, dx, [seen]| {
            // Zeros fill up the last row of a leaf.
            if x != OLD && x != 0.0 {
                blow_up();
            }
            *seen = x;
            lr * dx
        })
    }
}

#[test]
fn a_rule_that_panics_tears_the_leaf_that_it_moves_and_no_other() {
    let mut model = (
        vec![OLD; 2],
        Rc::new(vec![OLD; 3]),
        vec![OLD, OLD, 5.0],
        vec![OLD; 2],
    );
    let layout = Layout::of(&model).unwrap();
    let mut optimizer = Optimizer::new(Touchy { lr: 1.0 }, &layout).unwrap();
    let grads = (
        vec![-1.0_f32; 2],
        vec![-1.0_f32; 3],
        vec![-1.0_f32; 3],
        vec![-1.0_f32; 2],
    );
    panics(|| optimizer.update(&mut model, &grads));
    for leaf in [&model.0, &model.1, &model.3] {
        assert!(leaf.iter().all(|x| *x == leaf[0]), "{leaf:?}");
    }
    model = (
        vec![OLD; 2],
        Rc::new(vec![OLD; 3]),
        vec![OLD; 3],
        vec![OLD; 2],
    );
    let change = |rule: &mut Touchy| {
        rule.lr = 3.0;
        blow_up()
    };
    panics(|| optimizer.adjust("0", change));
    assert_eq!(optimizer.step_count("2"), Some(0));
    optimizer.update(&mut model, &grads).unwrap();
    assert_eq!(
        (layout.gather(&model).unwrap(), optimizer.step_count("2")),
        (vec![NEW; 10], Some(1))
    );
}

#[test]
fn a_panic_under_a_guard_poisons_the_lock_and_frees_the_cell() {
    let fuse = Fuse::default();
    let mut model = (
        vec![OLD],
        Rc::new(Mutex::new(fused(OLD, &fuse))),
        Rc::new(RefCell::new(fused(OLD, &fuse))),
    );
    let layout = Layout::of(&model).unwrap();
    // One to read, under the guard of the lock, and a third under that of the cell.
    fuse.light(2);
    panics(|| layout.gather(&model));
    assert!(model.2.try_borrow_mut().is_ok());
    fuse.light(0);
    panics(|| layout.restructure_into(&mut model, &[NEW; 7]));
    let error = layout.gather(&model).unwrap_err();
    assert!(error.is_poisoned());
    assert_eq!(error.path(), Some("1"));
    model.1.clear_poison();
    layout.restructure_into(&mut model, &[NEW; 7]).unwrap();
    assert_eq!(layout.gather(&model).unwrap(), [NEW; 7]);
}

#[test]
fn a_lock_is_not_held_while_a_closure_runs() {
    let lock = Arc::new(Mutex::new(vec![OLD; 2]));
    let layout = Layout::of(&lock).unwrap();
    panics(|| layout.map_into(&mut lock.clone(), [], |_, _, []| blow_up()));
    panics(|| layout.map_reduce(&lock, [], |_, _, []| blow_up(), |a: (), _| a));
    assert_eq!(layout.gather(&lock).unwrap(), [OLD; 2]);
}
