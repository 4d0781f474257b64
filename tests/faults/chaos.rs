//! Trees that answer at random, each time otherwise, and do not always hand errors on: whatever
//! comes of it, it is no panic, and the slices that a closure gets are as long as their leaves.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use flatleaf::Companion::{Grads, Totals, Values};
use flatleaf::optim::{AdamW, ClipNorm, Optimizer};
use flatleaf::{
    Builder, DynTree, FlatGrad, Identity, Key, Layout, LeafMut, LeafRef, Reader, Result, Tree,
    Visitor, VisitorMut, Writer, deep_clone,
};
use ndarray::{ArcArray2, Array2};

/// A sequence that looks random: xorshift.
#[derive(Clone)]
struct Dice(Rc<Cell<u64>>);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(Rc::new(Cell::new(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        )))
    }

    fn roll(&self, sides: usize) -> usize {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        (x >> 33) as usize % sides
    }

    fn key(&self) -> Key<'static> {
        match self.roll(12) {
            0 => Key::Same,
            1 => Key::Name("b"),
            2 => Key::Index(0),
            3 => Key::Name("0"),
            _ => Key::Name("a"),
        }
    }

    /// Hands an error on, or does as if there were none.
    fn take(&self, result: Result<()>) -> Result<()> {
        if self.roll(4) == 0 { Ok(()) } else { result }
    }
}

/// Any node: what it holds is always the same, what it says of it never.
struct Chaos {
    dice: Dice,
    /// The same for all handles of what is shared.
    floats: Vec<f32>,
    called: Vec<f32>,
    doubles: Vec<f64>,
    integers: Vec<i32>,
    booleans: Vec<bool>,
    matrix: Array2<f32>,
    view: ArcArray2<f32>,
    children: Vec<Chaos>,
    cell: Option<Rc<RefCell<Chaos>>>,
    shared: Vec<Rc<Chaos>>,
    lock: Option<Arc<std::sync::RwLock<Vec<f32>>>>,
}

impl Chaos {
    fn new(dice: &Dice, levels: usize) -> Self {
        let below = |sides: usize| if levels > 0 { dice.roll(sides) } else { 0 };
        let node = (below(2) > 0).then(|| Rc::new(Chaos::new(dice, levels - 1)));
        Chaos {
            dice: dice.clone(),
            floats: vec![1.0; dice.roll(4)],
            called: vec![1.0; 2],
            doubles: vec![1.0; 2],
            integers: vec![1; 2],
            booleans: vec![true; 2],
            matrix: Array2::ones((2, 1 + dice.roll(2))).reversed_axes(),
            view: Array2::ones((2, 2)).into_shared(),
            children: (0..below(3))
                .map(|_| Chaos::new(dice, levels - 1))
                .collect(),
            cell: (below(2) > 0).then(|| Rc::new(RefCell::new(Chaos::new(dice, levels - 1)))),
            shared: node
                .into_iter()
                .flat_map(|node| [node.clone(), node])
                .collect(),
            lock: (below(2) > 0).then(|| Arc::new(vec![1.0; 2].into())),
        }
    }

    fn say<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let dice = &self.dice;
        let child: &'a dyn Tree = match dice.roll(9) {
            0 => &self.floats,
            1 => &self.doubles,
            2 => &self.integers,
            3 => &self.booleans,
            4 => &self.matrix,
            5 => &self.view,
            6 => &self.cell,
            7 => &self.lock,
            _ => &self.children,
        };
        match dice.roll(12) {
            0 => visitor.no_leaf(),
            1 => visitor.skipped(dice.key()),
            2 => visitor.leaf(LeafRef::from_slice(&[self.floats.len()], &self.floats)),
            3 => visitor.leaf(
                LeafRef::from_slice(&[2, 1], &self.doubles)
                    .with_identity(&Identity::of(dice.roll(2))),
            ),
            4 => {
                let reader = Reader::new(|out: &mut [f32]| {
                    out.copy_from_slice(&self.called);
                    Ok(())
                });
                visitor.leaf(
                    LeafRef::from_reader(&[2], &reader).with_identity(&Identity::of(dice.roll(3))),
                )
            }
            5 => visitor.shared(Identity::of(dice.roll(3)), &self.children),
            6 => visitor.frozen(dice.key(), child),
            7 => self
                .shared
                .get(dice.roll(3))
                .map_or(Ok(()), |node| visitor.child(dice.key(), node)),
            _ => visitor.child(dice.key(), child),
        }
    }

    fn say_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let Chaos {
            dice,
            floats,
            doubles,
            called,
            shared,
            children,
            cell,
            matrix,
            view,
            integers,
            booleans,
            lock,
        } = self;
        let child: &'a mut dyn Tree = match dice.roll(9) {
            0 => floats,
            1 => doubles,
            2 => integers,
            3 => booleans,
            4 => matrix,
            5 => view,
            6 => cell,
            7 => lock,
            _ => children,
        };
        match dice.roll(8) {
            0 => visitor.leaf(LeafMut::from_slice(&[2], called)),
            1 => {
                let mut writer = Writer::new(|values: &[f32]| {
                    called.copy_from_slice(values);
                    Ok(())
                });
                visitor.leaf(LeafMut::from_writer(&[2], &mut writer))
            }
            2 => shared
                .first_mut()
                .map_or(Ok(()), |node| visitor.child(dice.key(), node)),
            3 => shared
                .iter_mut()
                .try_for_each(|node| visitor.child(dice.key(), node)),
            _ => visitor.child(dice.key(), child),
        }
    }
}

impl Tree for Chaos {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        (0..self.dice.roll(4)).try_for_each(|_| self.dice.take(self.say(visitor)))
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let dice = self.dice.clone();
        if dice.roll(4) == 0 {
            return Ok(());
        }
        let said = self.say_mut(visitor);
        dice.take(said)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let mut new = Chaos::new(&self.dice, 0);
        for _ in 0..self.dice.roll(4) {
            let rebuilt = match self.dice.roll(6) {
                0 => builder.child(self.dice.key(), &self.floats).map(drop),
                1 => builder.child(self.dice.key(), &self.matrix).map(drop),
                2 => builder.child(self.dice.key(), &self.view).map(drop),
                3 => builder.child(self.dice.key(), &self.shared).map(drop),
                4 => builder.child(self.dice.key(), &self.cell).map(drop),
                _ => builder
                    .leaf(LeafRef::from_slice(&[self.floats.len()], &self.floats))
                    .map(|floats| new.floats = floats),
            };
            self.dice.take(rebuilt)?;
        }
        Ok(new)
    }

    flatleaf::rebuild_object!();
}

/// A layout that a tree may or may not fit.
fn layout(dice: &Dice, tree: &Chaos) -> Layout {
    let planned = Layout::planner().of(tree);
    if dice.roll(2) == 0
        && let Ok(planned) = planned
    {
        return planned;
    }
    Layout::of(&flatleaf::tree!({ "a": [1.0, 1.0], "b": { "a": [1.0, 1.0] }, "c": [[1.0], [1.0]] }))
        .unwrap()
}

fn all_operations(dice: &Dice, tree: &mut Chaos) {
    let layout = &layout(dice, tree);
    let _ = layout.to_string();
    let flat = vec![2.0; layout.len()];
    let mut grad = FlatGrad::zeros(layout);
    let _ = layout.gather(tree);
    let _ = layout.gather_as::<f64>(tree);
    let _ = layout.gather_grad_into(tree, &mut grad);
    let _ = layout.gather_grad_as::<f64>(tree);
    let _ = layout.mask(tree);
    let _ = layout.norm_l2(tree);
    let _ = layout.restructure(tree, &flat);
    let _ = layout.restructure_into(tree, &flat);
    let _ = layout.restructure_into_as(tree, &vec![2.0_f64; layout.len()]);
    let _ = layout.copy_frozen(&Chaos::new(dice, 3), tree);
    let _ = deep_clone(tree);
    let _ = DynTree::of(tree);
    let other = Chaos::new(dice, 3);
    let _ = layout.map_into(
        tree,
        [Grads(&other), Totals(&other), Values(&other)],
        |leaf, x, others| {
            assert!(x.len() == leaf.len() && others.iter().all(|other| other.len() == leaf.len()));
        },
    );
    let _ = layout.map_into(tree, [], |leaf, x, []| assert_eq!(x.len(), leaf.len()));
    let _ = layout.map(tree, [], |leaf, x, []| assert_eq!(x.len(), leaf.len()));
    let mut optimizer = Optimizer::new((ClipNorm::default(), AdamW::default()), layout).unwrap();
    let _ = optimizer.update(tree, &other);
    let ones = DynTree::of(
        &layout
            .map_reduce(tree, [], |_, x, []| x.to_vec(), |a, _| a)
            .ok()
            .flatten()
            .unwrap_or_default(),
    );
    let _ = optimizer.update(tree, &ones.unwrap());
    let grads = flatleaf::tree!({ "a": [1.0, 1.0] });
    let _ = optimizer.update(tree, &grads);
}

#[test]
fn whatever_a_tree_says_is_no_panic() {
    for seed in 0..SEEDS {
        let dice = Dice::new(seed);
        let mut tree = Chaos::new(&dice, 3);
        let outcome = catch_unwind(AssertUnwindSafe(|| all_operations(&dice, &mut tree)));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// Fewer in a debug build, in which each takes several times as long.
const SEEDS: u64 = if cfg!(debug_assertions) {
    2_500
} else {
    10_000
};
