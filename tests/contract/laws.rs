//! Laws over random trees with random ties, frozen leaves and absent gradients.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use flatleaf::optim::{AdamW, ClipNorm, Ema, Optimizer};
use flatleaf::{
    Builder, Companion, Dtype, DynTree, Key, Layout, Result, Tree, Visitor, VisitorMut, deep_clone,
    destructure, destructure_as,
};
use ndarray::{ArcArray, Array, Array2, IxDyn, ShapeBuilder};
use proptest::prelude::*;

#[cfg(feature = "half")]
use half::{bf16, f16};

/// Without half floats the laws are those of f32 once more.
#[cfg(not(feature = "half"))]
mod single {
    #![allow(non_camel_case_types)]
    pub(crate) type f16 = f32;
    pub(crate) type bf16 = f32;
}
#[cfg(not(feature = "half"))]
use single::{bf16, f16};

#[cfg(feature = "half")]
fn to_f16(x: f32) -> f16 {
    f16::from_f32(x)
}

#[cfg(feature = "half")]
fn to_bf16(x: f32) -> bf16 {
    bf16::from_f32(x)
}

#[cfg(not(feature = "half"))]
use std::convert::identity as to_f16;
#[cfg(not(feature = "half"))]
use std::convert::identity as to_bf16;

/// A tree of any shape: what proptest draws, made real.
enum Node {
    Plain(Array<f32, IxDyn>),
    Half(Array<f16, IxDyn>),
    HalfView(ArcArray<f16, IxDyn>),
    Brain(Rc<RefCell<Array<bf16, IxDyn>>>),
    Double(Array<f64, IxDyn>),
    SharedDouble(Rc<Array<f64, IxDyn>>),
    Shared(Rc<Array<f32, IxDyn>>),
    Cell(Rc<RefCell<Array<f32, IxDyn>>>),
    View(ArcArray<f32, IxDyn>),
    Pairs(Array<Pair, IxDyn>),
    PairsView(ArcArray<Pair, IxDyn>),
    Splats(Vec<Splat>),
    Integers(Vec<i32>),
    Scalar(f32),
    Missing(Option<Vec<f32>>),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
    Frozen(Box<Node>),
}

/// An element of two floats.
type Pair = [f32; 2];

/// An element of fields, one of them with an axis of its own.
#[cfg(feature = "derive")]
#[derive(Tree, Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[tree(element)]
#[repr(C)]
struct Splat {
    position: [f32; 3],
    opacity: f32,
}

#[cfg(feature = "derive")]
fn splat(x: f32) -> Splat {
    Splat {
        position: [x, 0.25, -1.0],
        opacity: 0.5,
    }
}

/// Without the derive an element has no fields.
#[cfg(not(feature = "derive"))]
type Splat = [f32; 4];

#[cfg(not(feature = "derive"))]
fn splat(x: f32) -> Splat {
    [x, 0.25, -1.0, 0.5]
}

/// The key of what is below a frozen node.
const FROZEN: Key<'static> = Key::Name("frozen");

impl Tree for Node {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        match self {
            Node::Plain(array) => array.visit(visitor),
            Node::Half(array) => array.visit(visitor),
            Node::HalfView(array) => array.visit(visitor),
            Node::Brain(array) => array.visit(visitor),
            Node::Double(array) => array.visit(visitor),
            Node::SharedDouble(array) => array.visit(visitor),
            Node::Shared(array) => array.visit(visitor),
            Node::Cell(array) => array.visit(visitor),
            Node::View(array) => array.visit(visitor),
            Node::Pairs(array) => array.visit(visitor),
            Node::PairsView(array) => array.visit(visitor),
            Node::Splats(list) => list.visit(visitor),
            Node::Integers(array) => array.visit(visitor),
            Node::Scalar(number) => number.visit(visitor),
            Node::Missing(array) => array.visit(visitor),
            Node::List(nodes) => nodes.visit(visitor),
            Node::Map(nodes) => nodes.visit(visitor),
            Node::Frozen(node) => visitor.frozen(FROZEN, &**node),
        }
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        match self {
            Node::Plain(array) => array.visit_mut(visitor),
            Node::Half(array) => array.visit_mut(visitor),
            Node::HalfView(array) => array.visit_mut(visitor),
            Node::Brain(array) => array.visit_mut(visitor),
            Node::Double(array) => array.visit_mut(visitor),
            Node::SharedDouble(array) => array.visit_mut(visitor),
            Node::Shared(array) => array.visit_mut(visitor),
            Node::Cell(array) => array.visit_mut(visitor),
            Node::View(array) => array.visit_mut(visitor),
            Node::Pairs(array) => array.visit_mut(visitor),
            Node::PairsView(array) => array.visit_mut(visitor),
            Node::Splats(list) => list.visit_mut(visitor),
            Node::Integers(array) => array.visit_mut(visitor),
            Node::Scalar(number) => number.visit_mut(visitor),
            Node::Missing(array) => array.visit_mut(visitor),
            Node::List(nodes) => nodes.visit_mut(visitor),
            Node::Map(nodes) => nodes.visit_mut(visitor),
            Node::Frozen(node) => visitor.child(FROZEN, &mut **node),
        }
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        Ok(match self {
            Node::Plain(array) => Node::Plain(array.rebuild(builder)?),
            Node::Half(array) => Node::Half(array.rebuild(builder)?),
            Node::HalfView(array) => Node::HalfView(array.rebuild(builder)?),
            Node::Brain(array) => Node::Brain(array.rebuild(builder)?),
            Node::Double(array) => Node::Double(array.rebuild(builder)?),
            Node::SharedDouble(array) => Node::SharedDouble(array.rebuild(builder)?),
            Node::Shared(array) => Node::Shared(array.rebuild(builder)?),
            Node::Cell(array) => Node::Cell(array.rebuild(builder)?),
            Node::View(array) => Node::View(array.rebuild(builder)?),
            Node::Pairs(array) => Node::Pairs(array.rebuild(builder)?),
            Node::PairsView(array) => Node::PairsView(array.rebuild(builder)?),
            Node::Splats(list) => Node::Splats(list.rebuild(builder)?),
            Node::Integers(array) => Node::Integers(array.rebuild(builder)?),
            Node::Scalar(number) => Node::Scalar(number.rebuild(builder)?),
            Node::Missing(array) => Node::Missing(array.rebuild(builder)?),
            Node::List(nodes) => Node::List(nodes.rebuild(builder)?),
            Node::Map(nodes) => Node::Map(nodes.rebuild(builder)?),
            Node::Frozen(node) => Node::Frozen(Box::new(builder.child(FROZEN, &**node)?)),
        })
    }

    flatleaf::rebuild_object!();
}

/// Arrays that any number of places may hold.
struct Pool {
    shared: Vec<Rc<Array<f32, IxDyn>>>,
    cells: Vec<Rc<RefCell<Array<f32, IxDyn>>>>,
    views: Vec<ArcArray<f32, IxDyn>>,
    half_views: Vec<ArcArray<f16, IxDyn>>,
    pair_views: Vec<ArcArray<Pair, IxDyn>>,
    brains: Vec<Rc<RefCell<Array<bf16, IxDyn>>>>,
    doubles: Vec<Rc<Array<f64, IxDyn>>>,
}

fn array(shape: &[usize], start: f32, fortran: bool) -> Array<f32, IxDyn> {
    let logical = Array::from_shape_fn(IxDyn(shape), |_| 0.0);
    let mut array = Array::zeros(IxDyn(shape).set_f(fortran));
    array.assign(&logical);
    array
        .iter_mut()
        .enumerate()
        .for_each(|(index, x)| *x = start + index as f32);
    array
}

fn pairs(shape: &[usize], start: f32, fortran: bool) -> Array<Pair, IxDyn> {
    array(shape, start, fortran).mapv(|x| [x, x + 0.5])
}

fn pool() -> Pool {
    Pool {
        shared: (0..3)
            .map(|seed| Rc::new(array(&[2, seed], 100.0 * seed as f32, seed == 2)))
            .collect(),
        cells: (0..2)
            .map(|seed| {
                Rc::new(RefCell::new(array(
                    &[seed + 1],
                    1000.0 * seed as f32,
                    false,
                )))
            })
            .collect(),
        views: (0..2)
            .map(|seed| array(&[3, 2 + seed], 10_000.0 * seed as f32, seed == 1).into_shared())
            .collect(),
        half_views: (0..2)
            .map(|seed| {
                array(&[3, 2 + seed], 0.1 * seed as f32, seed == 1)
                    .mapv(to_f16)
                    .into_shared()
            })
            .collect(),
        pair_views: (0..2)
            .map(|seed| pairs(&[2 + seed, 2], 100.0 * seed as f32, seed == 1).into_shared())
            .collect(),
        brains: (0..2)
            .map(|seed| Rc::new(RefCell::new(array(&[seed, 2], 0.1, false).mapv(to_bf16))))
            .collect(),
        doubles: (0..2)
            .map(|seed| {
                Rc::new(array(&[2, seed + 1], 0.1, seed == 1).mapv(|x| f64::from(x) + f64::EPSILON))
            })
            .collect(),
    }
}

/// A plan of a tree, without the pool.
#[derive(Clone, Debug)]
enum Sketch {
    Plain(Vec<usize>, bool),
    Half(Vec<usize>, bool),
    HalfView(usize, bool, bool),
    Brain(usize),
    Double(Vec<usize>, bool),
    SharedDouble(usize),
    Shared(usize),
    Cell(usize),
    View(usize, bool, bool),
    Pairs(Vec<usize>, bool),
    PairsView(usize, bool, bool),
    Splats(usize),
    Integers,
    Scalar,
    Missing(bool),
    List(Vec<Sketch>),
    Map(Vec<(String, Sketch)>),
    Frozen(Box<Sketch>),
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0_usize..4, 0..4)
}

/// Trees that a vector of f32 holds.
fn sketch() -> impl Strategy<Value = Sketch> {
    tree_of(leaf())
}

/// Trees of every float type.
fn sketch_with_doubles() -> impl Strategy<Value = Sketch> {
    let double =
        (shape(), any::<bool>()).prop_map(|(shape, fortran)| Sketch::Double(shape, fortran));
    tree_of(prop_oneof![4 => leaf(), 1 => double, 1 => (0_usize..2).prop_map(Sketch::SharedDouble)])
}

fn leaf() -> impl Strategy<Value = Sketch> {
    prop_oneof![
        4 => (shape(), any::<bool>()).prop_map(|(shape, fortran)| Sketch::Plain(shape, fortran)),
        2 => (shape(), any::<bool>()).prop_map(|(shape, fortran)| Sketch::Half(shape, fortran)),
        2 => (0_usize..2, any::<bool>(), any::<bool>()).prop_map(|(index, t, r)| Sketch::HalfView(index, t, r)),
        2 => (0_usize..2).prop_map(Sketch::Brain),
        3 => (0_usize..3).prop_map(Sketch::Shared),
        2 => (0_usize..2).prop_map(Sketch::Cell),
        3 => (0_usize..2, any::<bool>(), any::<bool>()).prop_map(|(index, t, r)| Sketch::View(index, t, r)),
        2 => (shape(), any::<bool>()).prop_map(|(shape, fortran)| Sketch::Pairs(shape, fortran)),
        2 => (0_usize..2, any::<bool>(), any::<bool>()).prop_map(|(index, t, r)| Sketch::PairsView(index, t, r)),
        2 => (0_usize..3).prop_map(Sketch::Splats),
        1 => Just(Sketch::Integers),
        1 => Just(Sketch::Scalar),
        1 => any::<bool>().prop_map(Sketch::Missing),
    ]
}

fn tree_of(leaf: impl Strategy<Value = Sketch> + 'static) -> impl Strategy<Value = Sketch> {
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Sketch::List),
            prop::collection::vec(("[a-c.*\\\\]{0,2}", inner.clone()), 0..5).prop_map(Sketch::Map),
            inner.prop_map(|node| Sketch::Frozen(Box::new(node))),
        ]
    })
}

fn make(sketch: &Sketch, pool: &Pool, counter: &mut f32) -> Node {
    match sketch {
        Sketch::Plain(shape, fortran) => {
            *counter += 1.0;
            Node::Plain(array(shape, *counter * 0.125, *fortran))
        }
        Sketch::Half(shape, fortran) => {
            *counter += 1.0;
            Node::Half(array(shape, *counter * 0.1, *fortran).mapv(to_f16))
        }
        Sketch::HalfView(index, transposed, reversed) => {
            Node::HalfView(turned(&pool.half_views[*index], *transposed, *reversed))
        }
        Sketch::Brain(index) => Node::Brain(pool.brains[*index].clone()),
        Sketch::Double(shape, fortran) => {
            *counter += 1.0;
            Node::Double(array(shape, *counter, *fortran).mapv(|x| f64::from(x) / 3.0))
        }
        Sketch::SharedDouble(index) => Node::SharedDouble(pool.doubles[*index].clone()),
        Sketch::Shared(index) => Node::Shared(pool.shared[*index].clone()),
        Sketch::Cell(index) => Node::Cell(pool.cells[*index].clone()),
        Sketch::View(index, transposed, reversed) => {
            Node::View(turned(&pool.views[*index], *transposed, *reversed))
        }
        Sketch::Pairs(shape, fortran) => {
            *counter += 1.0;
            Node::Pairs(pairs(shape, *counter * 0.125, *fortran))
        }
        Sketch::PairsView(index, transposed, reversed) => {
            Node::PairsView(turned(&pool.pair_views[*index], *transposed, *reversed))
        }
        Sketch::Splats(count) => {
            *counter += 1.0;
            Node::Splats(vec![splat(*counter); *count])
        }
        Sketch::Integers => Node::Integers(vec![1, 2, 3]),
        Sketch::Scalar => Node::Scalar(0.5),
        Sketch::Missing(there) => Node::Missing(there.then(|| vec![7.0])),
        Sketch::List(nodes) => {
            Node::List(nodes.iter().map(|node| make(node, pool, counter)).collect())
        }
        Sketch::Map(nodes) => Node::Map(
            nodes
                .iter()
                .map(|(key, node)| (key.clone(), make(node, pool, counter)))
                .collect(),
        ),
        Sketch::Frozen(node) => Node::Frozen(Box::new(make(node, pool, counter))),
    }
}

fn turned<E>(view: &ArcArray<E, IxDyn>, transposed: bool, reversed: bool) -> ArcArray<E, IxDyn> {
    let mut view = view.clone();
    if reversed {
        view.invert_axis(ndarray::Axis(0));
    }
    if transposed {
        view.reversed_axes()
    } else {
        view
    }
}

/// A number as a leaf of this type holds it.
fn held(dtype: Dtype, x: f64) -> f64 {
    match dtype {
        Dtype::F32 => f64::from(x as f32),
        Dtype::F16 => f64::from(to_f16(x as f32)),
        Dtype::BF16 => f64::from(to_bf16(x as f32)),
        _ => x,
    }
}

/// Small whole numbers, exact in every sum.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as f32 - 128.0
    };
    (0..len).map(|_| next()).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

/// A tree of every place by itself, without ties: what a gradient may look like.
fn untied(tree: &Node) -> (DynTree, Layout) {
    let copy = DynTree::of(tree).unwrap();
    let layout = Layout::of(&copy).unwrap();
    (copy, layout)
}

/// A gradient at every place, each with its own numbers.
fn gradient(tree: &Node) -> DynTree {
    let (copy, everywhere) = untied(tree);
    everywhere
        .restructure(&copy, &numbers(everywhere.len(), 99))
        .unwrap()
}

/// The same, absent at places that a seed chooses.
fn some_of(grads: &DynTree, seed: u32) -> (DynTree, Layout) {
    let is_there = |path: &str| {
        path.bytes().fold(seed, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
        }) & 64
            == 0
    };
    let there = Layout::planner()
        .keep(|leaf| is_there(leaf.path()))
        .of(grads)
        .unwrap();
    (there.mask(grads).unwrap(), there)
}

/// The places of a leaf at which its gradient counts.
fn trainable_places(leaf: &flatleaf::Leaf) -> impl Iterator<Item = &String> {
    leaf.places()
        .iter()
        .filter(|place| !place.contains("frozen"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// tree → flat → tree → flat is the identity, bit for bit, for a new tree and in place; the old
    /// tree does not change.
    #[test]
    fn round_trip(sketch in sketch(), seed in any::<u32>()) {
        let tree = make(&sketch, &pool(), &mut 0.0);
        let (flat, layout) = destructure(&tree).unwrap();
        let other = numbers(layout.len(), seed);

        let new = layout.restructure(&tree, &other).unwrap();
        prop_assert_eq!(layout.gather(&new).unwrap(), other.clone());
        prop_assert_eq!(layout.gather(&tree).unwrap(), flat.clone());
        prop_assert_eq!(&Layout::of(&new).unwrap(), &layout);

        let mut copy = deep_clone(&tree).unwrap();
        prop_assert_eq!(layout.gather(&copy).unwrap(), flat.clone());
        prop_assert_eq!(&Layout::of(&copy).unwrap(), &layout);
        layout.restructure_into(&mut copy, &other).unwrap();
        prop_assert_eq!(layout.gather(&copy).unwrap(), other);
        prop_assert_eq!(&Layout::of(&copy).unwrap(), &layout);
        prop_assert_eq!(layout.gather(&tree).unwrap(), flat);
    }

    /// The same with a vector of f64 and leaves of every float type; what goes in is rounded to the
    /// types of the leaves.
    #[test]
    fn round_trip_of_every_type(sketch in sketch_with_doubles(), seed in any::<u32>()) {
        let tree = make(&sketch, &pool(), &mut 0.0);
        let (flat, layout) = destructure_as::<f64>(&tree).unwrap();
        let same = layout.restructure_as(&tree, &flat).unwrap();
        prop_assert_eq!(&layout.gather_as::<f64>(&same).unwrap(), &flat);

        // Sevenths are rounded in every type; halves to 16 bits by way of f32 as well as at once,
        // for so few digits.
        let other: Vec<f64> = numbers(layout.len(), seed).into_iter().map(|x| f64::from(x) / 7.0).collect();
        let mut expected = other.clone();
        for leaf in layout.leaves() {
            expected[leaf.range()].iter_mut().for_each(|x| *x = held(leaf.dtype(), *x));
        }
        let new = layout.restructure_as(&tree, &other).unwrap();
        prop_assert_eq!(&layout.gather_as::<f64>(&new).unwrap(), &expected);
        prop_assert_eq!(&Layout::of(&new).unwrap(), &layout);
        let mut copy = deep_clone(&tree).unwrap();
        layout.restructure_into_as(&mut copy, &other).unwrap();
        prop_assert_eq!(&layout.gather_as::<f64>(&copy).unwrap(), &expected);
        prop_assert_eq!(&Layout::of(&copy).unwrap(), &layout);
        let mut into = vec![f64::NAN; layout.len()];
        layout.gather_into_as(&tree, &mut into).unwrap();
        prop_assert_eq!(into, flat);

        // A vector of f32 takes the tree if there is no f64, or if that is to be rounded: then to
        // what a cast makes of it.
        let has_f64 = layout.leaves().iter().any(|leaf| leaf.dtype() == Dtype::F64);
        prop_assert_eq!(layout.gather(&new).is_err(), has_f64);
        let rounding = Layout::planner().round_f64().of(&new).unwrap();
        prop_assert_eq!(rounding == layout, !has_f64);
        prop_assert_eq!(rounding.gather(&new).unwrap(), expected.iter().map(|&x| x as f32).collect::<Vec<_>>());
    }

    /// A gradient of any float type is the same in a vector of f64; in one of f32 it is rounded
    /// after all its places are summed.
    #[test]
    fn gradients_of_every_type(sketch in sketch_with_doubles(), seed in any::<u32>()) {
        let tree = make(&sketch, &pool(), &mut 0.0);
        let layout = Layout::planner().round_f64().of(&tree).unwrap();
        let (copy, everywhere) = untied(&tree);
        let values: Vec<f64> = numbers(everywhere.len(), seed).into_iter().map(f64::from).collect();
        let grads = everywhere.restructure_as(&copy, &values).unwrap();
        let (single, double) = (layout.gather_grad(&grads).unwrap(), layout.gather_grad_as::<f64>(&grads).unwrap());
        prop_assert!(single.iter().zip(double.iter()).all(|(single, double)| f64::from(*single) == *double));
        let mut twice = double.clone();
        twice.add(&double).unwrap();
        prop_assert!(twice.iter().zip(double.iter()).all(|(twice, once)| *twice == once + once));
        let mut stale = twice.clone();
        layout.gather_grad_into_as(&grads, &mut stale).unwrap();
        prop_assert_eq!(stale, double);
    }

    /// A flat vector and its tree have the same inner product with any gradient: restructure and
    /// gather_grad are adjoint. An absent gradient counts as zero in it, and is told from zero: a
    /// leaf is present if it is at one of its trainable places.
    #[test]
    fn adjoint(sketch in sketch(), seed in any::<u32>()) {
        let tree = make(&sketch, &pool(), &mut 0.0);
        let layout = Layout::of(&tree).unwrap();
        let (grads, there) = some_of(&gradient(&tree), seed);
        let grad = layout.gather_grad(&grads).unwrap();
        let v = numbers(layout.len(), seed);

        let (new, everywhere) = untied(&layout.restructure(&tree, &v).unwrap());
        let (values, gradients) = (everywhere.gather(&new).unwrap(), everywhere.gather_grad(&grads).unwrap());
        let inner = |place: &String| {
            let range = everywhere.leaf(place).unwrap().range();
            dot(&values[range.clone()], &gradients[range])
        };
        let trainable: f64 = layout.leaves().iter().flat_map(trainable_places).map(inner).sum();
        prop_assert_eq!(dot(&v, &grad), trainable);
        for (index, leaf) in layout.leaves().iter().enumerate() {
            prop_assert_eq!(grad.is_present(index), trainable_places(leaf).any(|place| there.leaf(place).is_some()));
        }

        // Into a gradient full of stale values, and through a mask: the same.
        let mut stale = layout.gather_grad(&gradient(&tree)).unwrap();
        layout.gather_grad_into(&grads, &mut stale).unwrap();
        prop_assert_eq!(&stale, &grad);
        prop_assert_eq!(&layout.gather_grad(&layout.mask(&grads).unwrap()).unwrap(), &grad);
        let flat_norm = flatleaf::ops::norm_l2(&grad);
        prop_assert!((layout.norm_l2(&grads).unwrap() - flat_norm).abs() <= flat_norm * f64::from(f32::EPSILON) / 2.0);
    }

    /// A gradient of every place of the layout is present everywhere; none at all is absent
    /// everywhere, and zero.
    #[test]
    fn absence(sketch in sketch()) {
        let tree = make(&sketch, &pool(), &mut 0.0);
        let layout = Layout::of(&tree).unwrap();
        let mut grad = layout.gather_grad(&gradient(&tree)).unwrap();
        prop_assert!((0..layout.leaves().len()).all(|index| grad.is_present(index)));
        layout.gather_grad_into(&DynTree::absent(), &mut grad).unwrap();
        prop_assert!((0..layout.leaves().len()).all(|index| !grad.is_present(index)));
        prop_assert!(grad.iter().all(|&x| x == 0.0));
    }

    /// map over a model is arithmetic on its flat vector: for a new tree, in place, and by
    /// reduction.
    #[test]
    fn map_is_flat_arithmetic(sketch in sketch(), seed in any::<u32>()) {
        let tree = make(&sketch, &pool(), &mut 0.0);
        let (flat, layout) = destructure(&tree).unwrap();
        let (grads, _) = some_of(&gradient(&tree), seed);
        let grad = layout.gather_grad(&grads).unwrap();
        let mut expected: Vec<f32> = flat.iter().zip(grad.iter()).map(|(x, dx)| x - dx).collect();
        for leaf in layout.leaves() {
            expected[leaf.range()].iter_mut().for_each(|x| *x = held(leaf.dtype(), f64::from(*x)) as f32);
        }
        let step = |_: flatleaf::LeafAt<'_, 1>, x: &mut [f32], [dx]: [&[f32]; 1]| flatleaf::ops::sub(x, dx);

        let new = layout.map(&tree, [Companion::Grads(&grads)], step).unwrap();
        prop_assert_eq!(&layout.gather(&new).unwrap(), &expected);
        prop_assert_eq!(&Layout::of(&new).unwrap(), &layout);
        let mut copy = deep_clone(&tree).unwrap();
        layout.map_into(&mut copy, [Companion::Grads(&grads)], step).unwrap();
        prop_assert_eq!(&layout.gather(&copy).unwrap(), &expected);
        prop_assert_eq!(&Layout::of(&copy).unwrap(), &layout);

        let inner = |_: flatleaf::LeafAt<'_, 1>, x: &[f32], [dx]: [&[f32]; 1]| dot(x, dx);
        let inner = layout.map_reduce(&tree, [Companion::Grads(&grads)], inner, |a, b| a + b).unwrap();
        prop_assert_eq!(inner.unwrap_or(0.0), layout.leaves().iter().map(|leaf| dot(&flat[leaf.range()], &grad[leaf.range()])).sum::<f64>());
    }

    /// An optimiser's update of a tree of f32 is its step on the flat vector, bit for bit, whatever
    /// gradients are absent.
    #[test]
    fn update_is_step(sketch in sketch(), seed in any::<u32>()) {
        let mut model = make(&sketch, &pool(), &mut 0.0);
        let Ok((mut flat, layout)) = destructure(&model) else { return Ok(()) };
        if layout.leaves().iter().any(|leaf| leaf.dtype() != Dtype::F32) {
            return Ok(()); // every update rounds such a leaf, no step does
        }
        let (grads, _) = some_of(&gradient(&model), seed);
        let grad = layout.gather_grad(&grads).unwrap();
        let clip = ClipNorm { max: 10.0, ..ClipNorm::default() };
        let optimizer = || Optimizer::new((clip, AdamW { lr: 0.1, ..AdamW::default() }, clip, Ema::default()), &layout).unwrap();
        let (mut of_tree, mut of_flat) = (optimizer(), optimizer());
        for _ in 0..2 {
            prop_assert_eq!(of_tree.update(&mut model, &grads).unwrap(), of_flat.step(&mut flat, &grad).unwrap());
        }
        let bits = |flat: &[f32]| flat.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&layout.gather(&model).unwrap()), bits(&flat));
        for (a, b) in of_tree.state().zip(of_flat.state()) {
            prop_assert_eq!(bits(a.1), bits(b.1));
        }
    }

    /// Every place prints as its own path, and the path leads back to the leaf; ranges follow one
    /// another.
    #[test]
    fn paths_and_ranges(sketch in sketch()) {
        let tree = make(&sketch, &pool(), &mut 0.0);
        let layout = Layout::of(&tree).unwrap();
        let mut next = 0;
        let mut seen = std::collections::HashSet::new();
        for (index, leaf) in layout.leaves().iter().enumerate() {
            prop_assert_eq!(leaf.range(), next..next + leaf.len());
            next += leaf.len();
            for place in leaf.places() {
                prop_assert!(seen.insert(place.clone()));
                prop_assert_eq!(layout.index_of(place), Some(index));
            }
        }
        prop_assert_eq!(next, layout.len());
    }

    /// A layout that is written and read is the same.
    #[test]
    #[cfg(feature = "serde")]
    fn serde_round_trip(sketch in sketch()) {
        let tree = make(&sketch, &pool(), &mut 0.0);
        let layout = Layout::of(&tree).unwrap();
        let text = serde_json::to_string(&layout).unwrap();
        let read: Layout = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &layout);
        prop_assert_eq!(read.fingerprint(), layout.fingerprint());
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), text);
        prop_assert_eq!(read.gather(&tree).unwrap(), layout.gather(&tree).unwrap());

        let copy = DynTree::of(&tree).unwrap();
        let back: DynTree = serde_json::from_str(&serde_json::to_string(&copy).unwrap()).unwrap();
        prop_assert_eq!(back, copy);
    }
}

/// The order of the vector is the logical order, whatever the order in memory.
#[test]
fn order_does_not_depend_on_memory_layout() {
    let c = Array2::from_shape_fn((2, 3), |(i, j)| (3 * i + j) as f32);
    let mut f = Array2::zeros((2, 3).f());
    f.assign(&c);
    let mut reversed = Array2::from_shape_fn((2, 3), |(i, j)| 5.0 - (3 * i + j) as f32);
    reversed.invert_axis(ndarray::Axis(0));
    reversed.invert_axis(ndarray::Axis(1));
    for array in [&c, &f, &reversed] {
        assert_eq!(
            destructure(array).unwrap().0,
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        );
    }
    let layout = Layout::of(&f).unwrap();
    let new = layout
        .restructure(&f, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .unwrap();
    assert_eq!(new, ndarray::arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]));
    assert_eq!(new.strides(), [1, 2]);
}
