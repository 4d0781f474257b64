//! Trees that do not answer twice alike: an error that says where, leaves that are old or new, and
//! never a panic.

use std::cell::Cell;
use std::rc::Rc;

use flatleaf::Companion::{Grads, Values};
use flatleaf::optim::{Optimizer, Sgd};
use flatleaf::{
    Builder, DynTree, Error, FlatGrad, Key, Layout, LeafMut, LeafRef, Reader, Result, Tree,
    Visitor, VisitorMut, Writer, deep_clone,
};
use ndarray::Array2;

const OLD: f32 = 1.0;
const NEW: f32 = 2.0;

/// What may stand at one path.
#[derive(Tree, Clone)]
enum Body {
    Floats { w: Vec<f32> },
    Doubles { w: Vec<f64> },
    Integers { w: Vec<i32> },
    Matrix { w: Array2<f32> },
    Called { w: Called },
    Deeper { w: (Vec<f32>,) },
    Name { w: String },
    Nothing,
}

/// A leaf that is read and written by callbacks.
#[derive(Clone)]
struct Called(Vec<f32>);

impl Tree for Called {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.leaf(LeafRef::from_reader(
            &[self.0.len()],
            &Reader::new(|out: &mut [f32]| read(&self.0, out)),
        ))
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let shape = [self.0.len()];
        let mut writer = Writer::new(|values: &[f32]| {
            self.0.copy_from_slice(values);
            Ok(())
        });
        visitor.leaf(LeafMut::from_writer(&shape, &mut writer))
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let reader = Reader::new(|out: &mut [f32]| read(&self.0, out));
        builder
            .leaf(LeafRef::from_reader(&[self.0.len()], &reader))
            .map(Called)
    }
}

/// Panics if it is called with a slice of another length than the leaf said.
fn read(from: &[f32], out: &mut [f32]) -> Result<()> {
    out.copy_from_slice(from);
    Ok(())
}

type Children = Vec<(&'static str, Body)>;

/// Tells the truth so many times, and then a lie.
struct Liar {
    truths: Rc<Cell<usize>>,
    truth: Children,
    lie: Children,
}

impl Liar {
    fn lies(&self) -> bool {
        let left = self.truths.get();
        self.truths.set(left.saturating_sub(1));
        left == 0
    }
}

impl Tree for Liar {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let mut children = if self.lies() { &self.lie } else { &self.truth }.iter();
        children.try_for_each(|(name, child)| visitor.child(Key::Name(name), child))
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let mut children = if self.lies() {
            &mut self.lie
        } else {
            &mut self.truth
        }
        .iter_mut();
        children.try_for_each(|(name, child)| visitor.child(Key::Name(name), child))
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let children = if self.lies() { &self.lie } else { &self.truth }.iter();
        let truth = children
            .map(|(name, child)| Ok((*name, builder.child(Key::Name(name), child)?)))
            .collect::<Result<_>>()?;
        Ok(Liar {
            truths: Rc::new(Cell::new(usize::MAX)),
            truth,
            lie: Vec::new(),
        })
    }

    flatleaf::rebuild_object!();
}

fn floats(len: usize) -> Body {
    Body::Floats { w: vec![OLD; len] }
}

fn truth() -> Children {
    vec![("a", floats(2)), ("b", floats(4))]
}

/// Every lie with its name; the order alone is none, as trees are matched by path.
fn lies() -> Vec<(&'static str, Children)> {
    let instead = |body| vec![("a", floats(2)), ("b", body)];
    vec![
        ("a shorter leaf", instead(floats(3))),
        ("a longer leaf", instead(floats(5))),
        ("a leaf without elements", instead(floats(0))),
        (
            "as many elements in another shape",
            instead(Body::Matrix {
                w: Array2::from_elem((2, 2), OLD),
            }),
        ),
        (
            "the same in another order",
            instead(Body::Matrix {
                w: Array2::from_elem((2, 2), OLD).reversed_axes(),
            }),
        ),
        (
            "another type",
            instead(Body::Doubles {
                w: vec![OLD.into(); 4],
            }),
        ),
        (
            "a type of as many bytes",
            instead(Body::Integers {
                w: vec![OLD as i32; 4],
            }),
        ),
        (
            "a leaf of another length that is called",
            instead(Body::Called {
                w: Called(vec![OLD; 3]),
            }),
        ),
        (
            "a leaf that is called",
            instead(Body::Called {
                w: Called(vec![OLD; 4]),
            }),
        ),
        ("a branch", instead(Body::Deeper { w: (vec![OLD; 4],) })),
        ("no leaf", instead(Body::Name { w: "name".into() })),
        ("nothing there", instead(Body::Nothing)),
        ("fewer leaves", vec![("a", floats(2))]),
        ("no leaves", vec![]),
        (
            "more leaves",
            vec![("a", floats(2)), ("b", floats(4)), ("c", floats(2))],
        ),
        ("other names", vec![("c", floats(2)), ("d", floats(4))]),
        (
            "one path twice",
            vec![("a", floats(2)), ("a", floats(2)), ("b", floats(4))],
        ),
        (
            "one path twice, later",
            vec![("a", floats(2)), ("b", floats(4)), ("a", floats(2))],
        ),
        ("shapes exchanged", vec![("a", floats(4)), ("b", floats(2))]),
        ("another order", vec![("b", floats(4)), ("a", floats(2))]),
    ]
}

#[derive(Tree)]
struct Model {
    first: Vec<f32>,
    tied: Rc<Vec<f32>>,
    liar: Liar,
    #[tree(frozen)]
    frozen: Liar,
    shared: Rc<Liar>,
    tied_again: Rc<Vec<f32>>,
    shared_again: Rc<Liar>,
    #[tree(frozen)]
    mean: Vec<f32>,
}

impl Model {
    /// One of three that lies.
    fn with(at: usize, truths: usize, lie: &Children) -> Self {
        let liar = |is_one: bool| {
            let truths = if is_one { truths } else { usize::MAX };
            Liar {
                truths: Rc::new(Cell::new(truths)),
                truth: truth(),
                lie: lie.clone(),
            }
        };
        Model::of(liar(at == 0), liar(at == 1), liar(at == 2))
    }

    fn of(liar: Liar, frozen: Liar, shared: Liar) -> Self {
        let (tied, shared) = (Rc::new(vec![OLD; 2]), Rc::new(shared));
        Model {
            first: vec![OLD; 2],
            tied: tied.clone(),
            liar,
            frozen,
            shared: shared.clone(),
            tied_again: tied,
            shared_again: shared,
            mean: vec![OLD; 2],
        }
    }

    /// How often the one that lies would still have told the truth.
    fn truths_left(&self, at: usize) -> usize {
        [&self.liar, &self.frozen, &*self.shared][at].truths.get()
    }

    fn check(&self) {
        for leaf in [&self.first, &*self.tied, &*self.tied_again, &self.mean] {
            assert!(leaf.iter().all(|x| *x == leaf[0]), "torn: {leaf:?}");
        }
        assert!(
            Rc::ptr_eq(&self.tied, &self.tied_again)
                && Rc::ptr_eq(&self.shared, &self.shared_again),
            "a tie is broken"
        );
        let bodies = [&self.liar, &self.frozen, &*self.shared]
            .into_iter()
            .flat_map(|liar| liar.truth.iter().chain(&liar.lie));
        for (name, body) in bodies {
            let elements = DynTree::of(body).unwrap();
            let Some(elements) = elements.get("w").and_then(|w| w.as_array::<f32>()) else {
                continue;
            };
            assert!(
                elements.iter().all(|x| Some(x) == elements.first()),
                "`{name}` is torn: {elements:?}"
            );
        }
    }
}

type Operation = fn(&Layout, &mut Model) -> Result<()>;

fn new_flat(layout: &Layout) -> Vec<f32> {
    vec![NEW; layout.len()]
}

fn honest() -> Model {
    Model::with(0, usize::MAX, &truth())
}

fn operations() -> Vec<(&'static str, Operation)> {
    vec![
        ("plan", |_, model| Layout::of(model).map(drop)),
        ("gather", |layout, model| layout.gather(model).map(drop)),
        ("gather_as", |layout, model| {
            layout.gather_as::<f64>(model).map(drop)
        }),
        ("gather_grad", |layout, model| {
            layout.gather_grad(model).map(drop)
        }),
        ("gather_grad_into", |layout, model| {
            layout.gather_grad_into(model, &mut FlatGrad::zeros(layout))
        }),
        ("mask", |layout, model| layout.mask(model).map(drop)),
        ("norm", |layout, model| layout.norm_l2(model).map(drop)),
        ("copy of any tree", |_, model| DynTree::of(model).map(drop)),
        ("deep_clone", |_, model| deep_clone(model).map(drop)),
        ("restructure", |layout, model| {
            layout.restructure(model, &new_flat(layout)).map(drop)
        }),
        ("restructure_into", |layout, model| {
            layout.restructure_into(model, &new_flat(layout))
        }),
        ("restructure_into_as", |layout, model| {
            layout.restructure_into_as(model, &vec![f64::from(NEW); layout.len()])
        }),
        ("copy_frozen from", |layout, model| {
            layout.copy_frozen(model, &mut honest())
        }),
        ("copy_frozen into", |layout, model| {
            layout.copy_frozen(&honest(), model)
        }),
        ("map", |layout, model| {
            layout
                .map(model, [], |leaf, x, []| assert_eq!(leaf.len(), x.len()))
                .map(drop)
        }),
        ("map_into", |layout, model| {
            layout.map_into(model, [Values(&honest())], |leaf, x, [y]| {
                assert_eq!((leaf.len(), leaf.len()), (x.len(), y.len()));
                x.fill(NEW);
            })
        }),
        ("fold over gradients", |layout, model| {
            layout.fold(&honest(), [Grads(model)], (), |(), leaf, _, [dx]| {
                assert_eq!(leaf.len(), dx.len())
            })
        }),
        ("update", |layout, model| {
            Optimizer::new(Sgd::default(), layout)?
                .update(model, &honest())
                .map(drop)
        }),
        ("update by", |layout, model| {
            Optimizer::new(Sgd::default(), layout)?
                .update(&mut honest(), model)
                .map(drop)
        }),
        #[cfg(feature = "safetensors")]
        ("save", |_, model| files::save(model)),
        #[cfg(feature = "safetensors")]
        ("load_into", |_, model| files::load(model)),
    ]
}

#[cfg(feature = "safetensors")]
mod files {
    use std::path::PathBuf;

    use flatleaf::checkpoint::{self, LoadOptions};

    use super::{Model, Result, honest};

    fn path() -> PathBuf {
        std::env::temp_dir().join(format!("flatleaf-liars-{}.safetensors", std::process::id()))
    }

    pub(super) fn save(model: &Model) -> Result<()> {
        let saved = checkpoint::save(path(), model);
        let _ = std::fs::remove_file(path());
        saved
    }

    pub(super) fn load(model: &mut Model) -> Result<()> {
        checkpoint::save(path(), &honest())?;
        let loaded = checkpoint::load_into(path(), model, &LoadOptions::new());
        std::fs::remove_file(path()).unwrap();
        loaded.map(drop)
    }
}

/// Says what the tree did and where.
fn check_error(error: &Error, at: usize) {
    let kinds = [
        error.is_unstable(),
        error.is_shape(),
        error.is_missing(),
        error.is_unknown(),
        error.is_element_type(),
        error.is_duplicate(),
        error.is_broken_tie(),
    ];
    assert!(kinds.contains(&true), "{error:?}");
    let path = error.path().unwrap_or_else(|| panic!("no path: {error}"));
    assert!(
        path.starts_with(["liar", "frozen", "shared"][at]),
        "`{path}`: {error}"
    );
}

#[test]
fn a_tree_that_lies_gets_an_error_that_says_where_and_its_leaves_are_old_or_new() {
    let layout = Layout::of(&honest()).unwrap();
    for (operation, work) in operations() {
        for (lie, children) in lies() {
            let mut errors = 0;
            for at in 0..3 {
                for truths in 0..12 {
                    let mut model = Model::with(at, truths, &children);
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        work(&layout, &mut model)
                    }));
                    let result = result.unwrap_or_else(|_| {
                        panic!("{operation} panicked: {lie}, by number {at}, after {truths} visits")
                    });
                    model.check();
                    if let Err(error) = result {
                        check_error(&error, at);
                        errors += 1;
                    }
                    // The operation was over before the lie: one that comes later changes nothing.
                    if model.truths_left(at) > 0 {
                        break;
                    }
                }
            }
            let is_lie = !matches!(lie, "another order" | "a leaf that is called");
            assert!(
                errors > 0 || !is_lie || operation != "restructure_into",
                "{operation} took all of it: {lie}"
            );
        }
    }
}
