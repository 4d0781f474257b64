//! The menagerie: one small model a situation. Where a case does not say otherwise its numbers
//! count from 1 in flat order.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, RwLock};

use flatleaf::Tree;
use ndarray::{
    ArcArray, ArcArray2, Array0, Array1, Array2, Array4, ArrayD, Axis, IxDyn, ShapeBuilder, arr0,
    arr1, arr2, s,
};

/// A fact about trees of any type.
pub(crate) trait Law {
    fn holds<T: Tree>(&self, name: &str, model: T);
}

macro_rules! check_each {
    ($law:ident: $($model:ident),* $(,)?) => { $($law.holds(stringify!($model), $model());)* };
}

/// Checks a law with every model.
pub(crate) fn every(law: &impl Law) {
    check_each! { law:
        empty, one_leaf, pair, with_function, tied, masked, tied_in_list, carried, dense, dense_without_bias, nested, opaque, single,
        batch_norm, chain, duo, tied_in_tuple, tied_containers, maps, deep, recursive_mask, zero_d, zero_length, fortran, strided, conv,
        static_fields, scalars, transparent, renamed, activation, tied_cells, tied_locks, rw_lock, tied_arrays, tied_subtree, tied_transposed,
        tied_across_frozen, tied_in_cells, frozen_subtree, tied_integers, layers, lists, boxed_slices, of_list,
    }
    #[cfg(feature = "half")]
    law.holds("mixed", mixed());
    #[cfg(feature = "indexmap")]
    law.holds("in_insertion_order", in_insertion_order());
}

pub(crate) type Function = fn(f32) -> f32;

pub(crate) fn relu(x: f32) -> f32 {
    x.max(0.0)
}

#[derive(Tree, Debug)]
pub(crate) struct Empty {
    pub(crate) a: Option<Array1<f32>>,
    pub(crate) b: Option<Array1<f32>>,
    #[tree(skip)]
    pub(crate) c: Function,
}

pub(crate) fn empty() -> Empty {
    Empty {
        a: None,
        b: None,
        c: relu,
    }
}

pub(crate) fn one_leaf() -> Array1<f32> {
    arr1(&[1.0, 2.0, 3.0])
}

pub(crate) fn pair() -> (Array1<f32>, Array1<f32>) {
    (arr1(&[1.0, 2.0, 3.0]), arr1(&[4.0, 5.0, 6.0]))
}

#[derive(Tree, Debug)]
pub(crate) struct WithFunction {
    pub(crate) x: Array1<f32>,
    #[tree(skip)]
    pub(crate) y: Function,
    pub(crate) z: Array1<f32>,
}

pub(crate) fn with_function() -> WithFunction {
    WithFunction {
        x: arr1(&[1.0, 2.0, 3.0]),
        y: relu,
        z: arr1(&[4.0, 5.0, 6.0]),
    }
}

/// `x` and `y` are one parameter where `P` is a shared pointer.
#[derive(Tree, Debug)]
pub(crate) struct Tied<P> {
    pub(crate) x: P,
    pub(crate) y: P,
    pub(crate) z: Array1<f32>,
}

pub(crate) fn tied_by<P: Clone>(shared: P) -> Tied<P> {
    Tied {
        x: shared.clone(),
        y: shared,
        z: arr1(&[4.0, 5.0, 6.0]),
    }
}

pub(crate) fn tied() -> Tied<Arc<Array1<f32>>> {
    tied_by(Arc::new(arr1(&[1.0, 2.0, 3.0])))
}

/// A function and an array: field 0 is skipped, field 1 keeps its index.
#[derive(Tree, Debug, Clone)]
pub(crate) struct Layered(#[tree(skip)] pub(crate) Function, pub(crate) Array1<f32>);

/// `b` is no child, `c` is not trainable.
#[derive(Tree, Debug)]
pub(crate) struct Masked {
    pub(crate) a: Layered,
    #[tree(skip)]
    pub(crate) b: Layered,
    #[tree(frozen)]
    pub(crate) c: Layered,
}

pub(crate) fn masked() -> Masked {
    let layered = |first: f32| Layered(relu, arr1(&[first, first + 1.0, first + 2.0]));
    Masked {
        a: layered(1.0),
        b: layered(4.0),
        c: layered(7.0),
    }
}

#[derive(Tree, Debug)]
pub(crate) struct TiedInList {
    pub(crate) a: Arc<Array1<f32>>,
    pub(crate) b: Arc<Array2<f32>>,
    pub(crate) c: (Arc<Array2<f32>>, Arc<Array1<f32>>),
}

pub(crate) fn tied_in_list() -> TiedInList {
    let (one, two) = (
        Arc::new(arr1(&[1.0, 2.0, 3.0])),
        Arc::new(arr2(&[[4.0, 6.0], [5.0, 7.0]])),
    );
    TiedInList {
        a: one.clone(),
        b: two.clone(),
        c: (two, one),
    }
}

/// One float array among what is carried along: integers, booleans, bare numbers.
#[derive(Tree, Debug)]
pub(crate) struct Carried {
    pub(crate) a: Array1<f32>,
    pub(crate) n: Array1<i64>,
    pub(crate) flags: Vec<bool>,
    pub(crate) flag: bool,
    pub(crate) s: f32,
    pub(crate) name: String,
}

pub(crate) fn carried() -> Carried {
    let name = "carried".to_owned();
    Carried {
        a: arr1(&[1.0, 2.0]),
        n: arr1(&[7, 8, 9]),
        flags: vec![true, false],
        flag: true,
        s: 3.5,
        name,
    }
}

#[derive(Tree, Debug, Clone, PartialEq)]
pub(crate) struct Dense {
    pub(crate) weight: Array2<f32>,
    pub(crate) bias: Option<Array1<f32>>,
}

impl Dense {
    /// Weight and bias count on from `first`.
    pub(crate) fn counting(first: f32, outputs: usize, inputs: usize, bias: bool) -> Dense {
        let weight = Array1::from_iter(super::count_from(first, outputs * inputs));
        let weight = weight.into_shape_with_order((outputs, inputs)).unwrap();
        let bias =
            bias.then(|| super::count_from(first + (outputs * inputs) as f32, outputs).into());
        Dense { weight, bias }
    }
}

pub(crate) fn dense() -> Dense {
    Dense {
        weight: arr2(&[[1.0, 2.0], [3.0, 4.0]]),
        bias: Some(arr1(&[0.0, 0.0])),
    }
}

/// The gradient of a [`Dense`], any part of it absent.
#[derive(Tree, Debug, Default)]
pub(crate) struct DenseGrad {
    pub(crate) weight: Option<Array2<f32>>,
    pub(crate) bias: Option<Array1<f32>>,
}

pub(crate) fn dense_without_bias() -> Dense {
    Dense::counting(1.0, 2, 3, false)
}

#[derive(Tree, Debug)]
pub(crate) struct Matrix {
    pub(crate) mat: Array2<f32>,
    #[tree(skip)]
    pub(crate) function: Function,
}

#[derive(Tree, Debug)]
pub(crate) struct Nested {
    pub(crate) lay: Matrix,
    pub(crate) vec: Array1<f32>,
}

pub(crate) fn nested() -> Nested {
    Nested {
        lay: Matrix {
            mat: arr2(&[[1.0, 2.0], [3.0, 4.0]]),
            function: relu,
        },
        vec: arr1(&[5.0, 6.0]),
    }
}

/// A type that is no tree.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Foreign(pub(crate) [[f32; 2]; 2]);

#[derive(Tree, Debug)]
pub(crate) struct Opaque {
    #[tree(skip)]
    pub(crate) lay: Foreign,
    pub(crate) vec: Array1<f32>,
}

pub(crate) fn opaque() -> Opaque {
    Opaque {
        lay: Foreign([[1.0, 2.0], [3.0, 4.0]]),
        vec: arr1(&[5.0, 6.0]),
    }
}

#[derive(Tree, Debug)]
pub(crate) struct Single<D> {
    pub(crate) x: D,
}

pub(crate) fn single() -> Single<Array1<f32>> {
    Single { x: arr1(&[5.0]) }
}

#[derive(Tree, Debug)]
pub(crate) struct BatchNorm {
    pub(crate) beta: Array1<f32>,
    pub(crate) gamma: Array1<f32>,
    #[tree(frozen)]
    pub(crate) mean: Array1<f32>,
    #[tree(frozen)]
    pub(crate) var: Array1<f32>,
    pub(crate) seen: Array0<u64>,
    pub(crate) momentum: f32,
}

pub(crate) fn batch_norm() -> BatchNorm {
    let three = |first: f32| arr1(&[first, first + 1.0, first + 2.0]);
    BatchNorm {
        beta: three(1.0),
        gamma: three(4.0),
        mean: three(7.0),
        var: three(10.0),
        seen: arr0(100),
        momentum: 0.1,
    }
}

/// Three layers, 3 → 5 → 4 → 3, none or all with a bias.
pub(crate) fn chain_with(bias: bool) -> Vec<Dense> {
    let mut first = 1.0;
    let mut layer = |outputs: usize, inputs: usize| {
        let dense = Dense::counting(first, outputs, inputs, bias);
        first += (outputs * inputs + if bias { outputs } else { 0 }) as f32;
        dense
    };
    vec![layer(5, 3), layer(4, 5), layer(3, 4)]
}

pub(crate) fn chain() -> Vec<Dense> {
    chain_with(true)
}

#[derive(Tree, Debug)]
pub(crate) struct Scale {
    pub(crate) scale: Array1<f32>,
    pub(crate) bias: Array1<f32>,
}

#[derive(Tree, Debug)]
pub(crate) struct Dropout {
    pub(crate) p: f64,
}

#[derive(Tree, Debug)]
pub(crate) struct Duo {
    pub(crate) a: Dense,
    pub(crate) b: (Scale, Dropout),
}

pub(crate) fn duo() -> Duo {
    let scale = Scale {
        scale: arr1(&[7.0, 8.0]),
        bias: arr1(&[9.0, 10.0]),
    };
    Duo {
        a: Dense::counting(1.0, 2, 2, true),
        b: (scale, Dropout { p: 0.5 }),
    }
}

pub(crate) type TiedInTuple = (
    Option<Array1<f32>>,
    Rc<Array2<f32>>,
    (u32, Rc<Array2<f32>>, u32),
);

pub(crate) fn tied_in_tuple() -> TiedInTuple {
    let shared = Rc::new(arr2(&[[1.0, 2.0], [3.0, 4.0]]));
    (None, shared.clone(), (3, shared, 4))
}

#[derive(Tree, Debug)]
pub(crate) struct Container {
    pub(crate) x: Rc<Array1<f32>>,
    pub(crate) y: Rc<Array1<f32>>,
}

#[derive(Tree, Debug)]
pub(crate) struct TiedContainers {
    pub(crate) a: Rc<Container>,
    pub(crate) b: Rc<Container>,
    pub(crate) c: Container,
}

/// `a` and `b` are one container; `c` is another that holds the same arrays.
pub(crate) fn tied_containers() -> TiedContainers {
    let (x, y) = (Rc::new(arr1(&[1.0, 2.0])), Rc::new(arr1(&[3.0])));
    let shared = Rc::new(Container {
        x: x.clone(),
        y: y.clone(),
    });
    TiedContainers {
        a: shared.clone(),
        b: shared,
        c: Container { x, y },
    }
}

#[derive(Tree, Debug)]
pub(crate) struct Maps {
    pub(crate) a: Array1<f32>,
    pub(crate) b: BTreeMap<String, Array1<f32>>,
    pub(crate) c: HashMap<&'static str, Array1<f32>>,
}

pub(crate) fn maps() -> Maps {
    let of = |entries: [(&'static str, f32); 3]| entries.map(|(key, x)| (key, arr1(&[x])));
    let b = of([("z", 5.0), ("k", 3.0), ("n", 4.0)])
        .map(|(key, x)| (key.to_owned(), x))
        .into();
    Maps {
        a: arr1(&[1.0, 2.0]),
        b,
        c: of([("y", 8.0), ("x", 7.0), ("w", 6.0)]).into(),
    }
}

#[derive(Tree, Debug)]
pub(crate) struct Deep {
    pub(crate) a: Array1<f32>,
    pub(crate) b: Array1<f32>,
    pub(crate) c: Deeper,
}

#[derive(Tree, Debug)]
pub(crate) struct Deeper {
    pub(crate) a: Deepest,
    pub(crate) b: Array1<f32>,
}

#[derive(Tree, Debug)]
pub(crate) struct Deepest {
    pub(crate) a: Array1<f32>,
    pub(crate) b: Array1<f32>,
}

pub(crate) fn deep() -> Deep {
    let deepest = Deepest {
        a: arr1(&[1.0]),
        b: arr1(&[1.0, 4.4]),
    };
    Deep {
        a: arr1(&[100.0]),
        b: arr1(&[4.0, 1.3]),
        c: Deeper {
            a: deepest,
            b: arr1(&[0.4, 2.0, 1.0, 45.0]),
        },
    }
}

/// A frozen field at every level.
#[derive(Tree, Debug)]
pub(crate) struct Third<A> {
    pub(crate) a: A,
    pub(crate) b: Array0<f32>,
    #[tree(frozen)]
    pub(crate) c: Array0<f32>,
}

pub(crate) fn recursive_mask() -> Third<Third<Array0<f32>>> {
    let inner = Third {
        a: arr0(1.0),
        b: arr0(2.0),
        c: arr0(3.0),
    };
    Third {
        a: inner,
        b: arr0(4.0),
        c: arr0(5.0),
    }
}

pub(crate) fn zero_d() -> (Array0<f32>, Array1<f32>, Array1<f32>) {
    (arr0(2.0), arr1(&[1.0, 2.0]), arr1(&[3.0, 4.0]))
}

#[derive(Tree, Debug)]
pub(crate) struct ZeroLength {
    pub(crate) none: Array2<f32>,
    pub(crate) one: Array1<f32>,
    pub(crate) list: Vec<f32>,
    pub(crate) branch: Vec<Array1<f32>>,
}

pub(crate) fn zero_length() -> ZeroLength {
    ZeroLength {
        none: Array2::zeros((0, 3)),
        one: arr1(&[1.0]),
        list: Vec::new(),
        branch: Vec::new(),
    }
}

/// All float types that a vector of `f32` holds, plain, strided, shared, frozen and behind a lock.
#[cfg(feature = "half")]
#[derive(Tree, Debug)]
pub(crate) struct MixedTypes {
    pub(crate) single: Array1<f32>,
    pub(crate) half: Vec<half::f16>,
    pub(crate) brain: Array2<half::bf16>,
    pub(crate) shared: Rc<Vec<half::bf16>>,
    #[tree(frozen)]
    pub(crate) mean: Vec<half::bf16>,
    pub(crate) view: ArcArray2<half::f16>,
    pub(crate) transposed: ArcArray2<half::f16>,
    pub(crate) locked: Arc<Mutex<Vec<half::f16>>>,
    pub(crate) shared_again: Rc<Vec<half::bf16>>,
}

#[cfg(feature = "half")]
pub(crate) fn mixed() -> MixedTypes {
    use half::{bf16, f16};
    let brain = arr2(&[[4.0_f32, 6.0], [5.0, 7.0]])
        .reversed_axes()
        .mapv(bf16::from_f32);
    let shared = Rc::new([8.0, 9.0].map(bf16::from_f32).to_vec());
    let view = arr2(&[[10.0_f32, 11.0, 12.0]])
        .mapv(f16::from_f32)
        .into_shared();
    MixedTypes {
        single: arr1(&[1.0]),
        half: [2.0, 3.0].map(f16::from_f32).to_vec(),
        brain,
        shared: shared.clone(),
        mean: vec![bf16::from_f32(0.25)],
        view: view.clone(),
        transposed: view.reversed_axes(),
        locked: Arc::new(Mutex::new(vec![f16::from_f32(13.0)])),
        shared_again: shared,
    }
}

/// `[[1, 2], [3, 4]]`, in memory 1, 3, 2, 4.
pub(crate) fn fortran() -> Array2<f32> {
    Array2::from_shape_vec((2, 2).f(), vec![1.0, 3.0, 2.0, 4.0]).unwrap()
}

#[derive(Tree, Debug)]
pub(crate) struct Strided {
    pub(crate) reversed: Array1<f32>,
    pub(crate) every_other: Array1<f32>,
    pub(crate) transposed: Array2<f32>,
}

pub(crate) fn strided() -> Strided {
    let mut reversed = arr1(&[1.0, 2.0, 3.0, 4.0]);
    reversed.invert_axis(Axis(0));
    let every_other = arr1(&[1.0, 2.0, 3.0, 4.0, 5.0]).slice_move(s![..;2]);
    Strided {
        reversed,
        every_other,
        transposed: arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).reversed_axes(),
    }
}

#[derive(Tree, Debug)]
pub(crate) struct Conv {
    pub(crate) weight: Array4<f32>,
    pub(crate) bias: Array1<f32>,
}

#[derive(Tree, Debug)]
pub(crate) struct ConvNet {
    pub(crate) conv: Conv,
    pub(crate) linear: Dense,
}

pub(crate) fn conv() -> ConvNet {
    let conv = Conv {
        weight: Array4::zeros((10, 3, 5, 5)),
        bias: Array1::zeros(10),
    };
    ConvNet {
        conv,
        linear: Dense {
            weight: Array2::zeros((20, 10)),
            bias: Some(Array1::zeros(20)),
        },
    }
}

#[derive(Tree, Debug)]
pub(crate) struct StaticFields {
    pub(crate) w: Array1<f32>,
    #[tree(skip)]
    pub(crate) name: &'static str,
    pub(crate) stride: usize,
    #[tree(skip, default)]
    pub(crate) cache: Vec<Foreign>,
}

pub(crate) fn static_fields() -> StaticFields {
    StaticFields {
        w: arr1(&[1.0, 2.0]),
        name: "x",
        stride: 3,
        cache: vec![Foreign([[0.0; 2]; 2])],
    }
}

#[derive(Tree, Debug)]
pub(crate) struct Scalars {
    #[tree(param)]
    pub(crate) temperature: f32,
    #[tree(param, frozen)]
    pub(crate) scale: f32,
    pub(crate) eps: f32,
}

pub(crate) fn scalars() -> Scalars {
    Scalars {
        temperature: 1.0,
        scale: 2.0,
        eps: 1e-5,
    }
}

#[derive(Tree, Debug)]
#[tree(transparent)]
pub(crate) struct Transparent(pub(crate) Array1<f32>);

pub(crate) fn transparent() -> Single<Transparent> {
    Single {
        x: Transparent(arr1(&[1.0, 2.0])),
    }
}

#[derive(Tree, Debug)]
pub(crate) struct Renamed {
    #[tree(rename = "weight.raw")]
    pub(crate) weight: Array1<f32>,
    pub(crate) r#type: Array1<f32>,
}

pub(crate) fn renamed() -> Renamed {
    Renamed {
        weight: arr1(&[1.0]),
        r#type: arr1(&[2.0]),
    }
}

#[derive(Tree, Debug)]
pub(crate) enum Activation {
    Relu,
    Prelu { slope: Array1<f32> },
    Affine(Array1<f32>, Array1<f32>),
}

pub(crate) fn activation() -> Vec<Activation> {
    let affine = Activation::Affine(arr1(&[2.0]), arr1(&[3.0]));
    vec![
        Activation::Relu,
        Activation::Prelu {
            slope: arr1(&[1.0]),
        },
        affine,
    ]
}

pub(crate) fn tied_cells() -> Tied<Rc<RefCell<Array1<f32>>>> {
    tied_by(Rc::new(RefCell::new(arr1(&[1.0, 2.0, 3.0]))))
}

pub(crate) fn tied_locks() -> Tied<Arc<Mutex<Array1<f32>>>> {
    tied_by(Arc::new(Mutex::new(arr1(&[1.0, 2.0, 3.0]))))
}

pub(crate) fn rw_lock() -> Single<RwLock<Vec<f32>>> {
    Single {
        x: RwLock::new(vec![1.0, 2.0]),
    }
}

pub(crate) fn tied_arrays() -> Tied<ArcArray<f32, ndarray::Ix1>> {
    tied_by(arr1(&[1.0, 2.0, 3.0]).into_shared())
}

/// One layer used twice.
#[derive(Tree, Debug)]
pub(crate) struct TiedSubtree {
    pub(crate) a: Rc<Dense>,
    pub(crate) b: Rc<Dense>,
}

pub(crate) fn tied_subtree() -> TiedSubtree {
    let shared = Rc::new(Dense::counting(1.0, 1, 1, true));
    TiedSubtree {
        a: shared.clone(),
        b: shared,
    }
}

/// A matrix and the same matrix transposed.
#[derive(Tree, Debug)]
pub(crate) struct TiedTransposed {
    pub(crate) m: ArcArray2<f32>,
    pub(crate) t: ArcArray2<f32>,
}

pub(crate) fn tied_transposed() -> TiedTransposed {
    let m = arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).into_shared();
    TiedTransposed {
        t: m.clone().reversed_axes(),
        m,
    }
}

/// A parameter whose first place is frozen.
#[derive(Tree, Debug)]
pub(crate) struct TiedAcrossFrozen {
    #[tree(frozen)]
    pub(crate) a: Arc<Array1<f32>>,
    pub(crate) b: Array1<f32>,
    pub(crate) c: Arc<Array1<f32>>,
    pub(crate) d: Arc<Array1<f32>>,
}

pub(crate) fn tied_across_frozen() -> TiedAcrossFrozen {
    let shared = Arc::new(arr1(&[2.0, 3.0]));
    TiedAcrossFrozen {
        a: shared.clone(),
        b: arr1(&[1.0]),
        c: shared.clone(),
        d: shared,
    }
}

/// A matrix, and its transpose in a cell that two places share.
#[derive(Tree, Debug)]
pub(crate) struct TiedInCells {
    pub(crate) m: ArcArray2<f32>,
    pub(crate) a: Rc<RefCell<ArcArray2<f32>>>,
    pub(crate) b: Rc<RefCell<ArcArray2<f32>>>,
}

pub(crate) fn tied_in_cells() -> TiedInCells {
    let TiedTransposed { m, t } = tied_transposed();
    let cell = Rc::new(RefCell::new(t));
    TiedInCells {
        m,
        a: cell.clone(),
        b: cell,
    }
}

/// A normalisation whose first place is frozen as a whole.
#[derive(Tree, Debug)]
pub(crate) struct FrozenSubtree {
    #[tree(frozen)]
    pub(crate) a: Rc<BatchNorm>,
    pub(crate) b: Rc<BatchNorm>,
    #[tree(frozen)]
    pub(crate) c: Rc<BatchNorm>,
}

pub(crate) fn frozen_subtree() -> FrozenSubtree {
    let shared = Rc::new(batch_norm());
    FrozenSubtree {
        a: shared.clone(),
        b: shared.clone(),
        c: shared,
    }
}

/// What is carried along may be tied too.
#[derive(Tree, Debug)]
pub(crate) struct TiedIntegers {
    pub(crate) x: Array1<f32>,
    pub(crate) n: ArcArray2<i64>,
    pub(crate) t: ArcArray2<i64>,
    pub(crate) p: Arc<Vec<bool>>,
    pub(crate) q: Arc<Vec<bool>>,
}

pub(crate) fn tied_integers() -> TiedIntegers {
    let n = arr2(&[[1, 2, 3], [4, 5, 6]]).into_shared();
    let p = Arc::new(vec![true, false]);
    TiedIntegers {
        x: arr1(&[1.0]),
        t: n.clone().reversed_axes(),
        n,
        q: p.clone(),
        p,
    }
}

pub(crate) trait Layer: Tree + fmt::Debug {
    fn outputs(&self) -> usize;
}

#[derive(Tree, Debug)]
#[tree(object = "dyn Layer")]
pub(crate) struct Linear {
    pub(crate) weight: Array2<f32>,
}

#[derive(Tree, Debug)]
#[tree(object = "dyn Layer")]
pub(crate) struct Bias(pub(crate) Array1<f32>);

impl Layer for Linear {
    fn outputs(&self) -> usize {
        self.weight.nrows()
    }
}

impl Layer for Bias {
    fn outputs(&self) -> usize {
        self.0.len()
    }
}

pub(crate) fn layers() -> Vec<Box<dyn Layer>> {
    vec![
        Box::new(Linear {
            weight: arr2(&[[1.0, 2.0], [3.0, 4.0]]),
        }),
        Box::new(Bias(arr1(&[5.0, 6.0]))),
    ]
}

/// Lists of numbers are leaves, lists of lists branches.
#[derive(Tree, Debug, PartialEq)]
pub(crate) struct Lists {
    pub(crate) vec: Vec<f32>,
    pub(crate) array: [f32; 2],
    pub(crate) slice: Box<[f32]>,
    pub(crate) branch: Vec<Vec<f32>>,
    pub(crate) arrays: [Array1<f32>; 2],
}

pub(crate) fn lists() -> Lists {
    let branch = vec![vec![6.0], vec![7.0, 8.0]];
    Lists {
        vec: vec![1.0, 2.0],
        array: [3.0, 4.0],
        slice: [5.0].into(),
        branch,
        arrays: [arr1(&[9.0]), arr1(&[10.0, 11.0])],
    }
}

pub(crate) fn boxed_slices() -> Box<[Box<Array1<f32>>]> {
    [Box::new(arr1(&[1.0])), Box::new(arr1(&[2.0, 3.0]))].into()
}

#[derive(Tree, Debug)]
pub(crate) struct Foo<X, Y> {
    pub(crate) x: X,
    pub(crate) y: Y,
}

#[derive(Tree, Debug)]
pub(crate) struct Bar {
    pub(crate) a: bool,
    pub(crate) b: Foo<Array1<f32>, bool>,
    pub(crate) c: (),
}

pub(crate) type Shared = Rc<Array1<f32>>;

pub(crate) fn of_list() -> (Foo<Shared, Shared>, Bar, (Array1<f32>,)) {
    let shared = Rc::new(arr1(&[1.0, 2.0, 3.0]));
    let bar = Bar {
        a: true,
        b: Foo {
            x: arr1(&[4.0]),
            y: false,
        },
        c: (),
    };
    (
        Foo {
            x: shared.clone(),
            y: shared,
        },
        bar,
        (arr1(&[5.0]),),
    )
}

#[cfg(feature = "indexmap")]
pub(crate) fn in_insertion_order() -> indexmap::IndexMap<String, Array1<f32>> {
    [("weight", 1.0), ("bias", 2.0)]
        .map(|(key, x)| (key.to_owned(), arr1(&[x])))
        .into_iter()
        .collect()
}

/// An array of any number of axes.
pub(crate) fn array(shape: &[usize], elements: &[f32]) -> ArrayD<f32> {
    ArrayD::from_shape_vec(IxDyn(shape), elements.to_vec()).unwrap()
}
