//! Containers, enums and generic structs in views: each looks like the model's.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::rc::Rc;

use flatleaf::{FlatElement, FlatGrad, Layout, Tree, destructure, destructure_as, view};
use indexmap::IndexMap;
use ndarray::{Array, Array0, Array1, Array2, ArrayD, Dimension, arr0, arr1, arr2};

#[derive(Tree)]
#[tree(view)]
struct Dense {
    weight: Array1<f32>,
}

fn dense(x: f32) -> Dense {
    Dense { weight: arr1(&[x]) }
}

#[derive(Tree)]
#[tree(view)]
struct All {
    list: Vec<Dense>,
    numbers: Vec<f32>,
    boxed: Box<Dense>,
    boxed_numbers: Box<[f32]>,
    boxed_list: Box<[Dense]>,
    array: [Dense; 2],
    array_of_numbers: [f32; 2],
    tuple: (Array2<f32>, Vec<Vec<f32>>, u8),
    some: Option<Dense>,
    none: Option<Dense>,
    ordered: BTreeMap<String, Dense>,
    hashed: HashMap<String, Dense>,
    inserted: IndexMap<&'static str, Dense>,
    integers: Array1<i64>,
    flags: Vec<bool>,
    scalar: Array0<f32>,
    any: ArrayD<f32>,
    name: String,
    nothing: PhantomData<u8>,
}

/// The flat vector is 1 to 20.
fn all() -> All {
    All {
        list: vec![dense(1.0), dense(2.0)],
        numbers: vec![3.0, 4.0],
        boxed: Box::new(dense(5.0)),
        boxed_numbers: Box::new([6.0]),
        boxed_list: Box::new([dense(7.0)]),
        array: [dense(8.0), dense(9.0)],
        array_of_numbers: [10.0, 11.0],
        tuple: (arr2(&[[12.0]]), vec![vec![13.0], vec![]], 200),
        some: Some(dense(14.0)),
        none: None,
        ordered: BTreeMap::from([("a".to_owned(), dense(15.0))]),
        hashed: HashMap::from([("c".to_owned(), dense(17.0)), ("b".to_owned(), dense(16.0))]),
        inserted: IndexMap::from([("z", dense(18.0))]),
        integers: arr1(&[7]),
        flags: vec![true],
        scalar: arr0(19.0),
        any: arr1(&[20.0]).into_dyn(),
        name: "net".to_owned(),
        nothing: PhantomData,
    }
}

#[test]
fn every_container_looks_like_the_models() {
    let net = all();
    let (flat, layout) = destructure(&net).unwrap();
    assert_eq!(flat, (1..=20).map(|x| x as f32).collect::<Vec<_>>());
    let flat: Vec<f32> = flat.iter().map(|x| -x).collect();
    let check = |seen: &AllView<'_>, sign: f32| {
        assert_eq!(seen.list[1].weight[0], sign * 2.0);
        assert_eq!(seen.list.len(), 2);
        assert_eq!(seen.numbers, arr1(&[sign * 3.0, sign * 4.0]));
        assert_eq!(seen.boxed.weight[0], sign * 5.0);
        assert_eq!(seen.boxed_numbers[0], sign * 6.0);
        assert_eq!(seen.boxed_list[0].weight[0], sign * 7.0);
        let [first, second] = &seen.array;
        assert_eq!(
            (first.weight[0], second.weight[0]),
            (sign * 8.0, sign * 9.0)
        );
        assert_eq!(seen.array_of_numbers[1], sign * 11.0);
        let (matrix, lists, byte) = &seen.tuple;
        assert_eq!((matrix[[0, 0]], lists[0][0]), (sign * 12.0, sign * 13.0));
        assert_eq!((lists[1].len(), **byte), (0, 200));
        assert_eq!(seen.some.as_ref().unwrap().weight[0], sign * 14.0);
        assert!(seen.none.is_none());
        assert_eq!(seen.ordered["a"].weight[0], sign * 15.0);
        assert_eq!(seen.hashed["b"].weight[0], sign * 16.0);
        assert_eq!(seen.hashed["c"].weight[0], sign * 17.0);
        assert_eq!(seen.inserted["z"].weight[0], sign * 18.0);
        assert_eq!((seen.integers[0], seen.flags[0]), (7, true));
        assert_eq!(seen.integers.as_ptr(), net.integers.as_ptr());
        assert_eq!(seen.scalar[()], sign * 19.0);
        assert_eq!((seen.any.shape(), seen.any[[0]]), (&[1][..], sign * 20.0));
        assert_eq!(seen.name, "net");
        assert_eq!(seen.nothing, &PhantomData);
    };
    check(&layout.view_tree(&net, &flat).unwrap(), -1.0);
    check(&view(&net).unwrap(), 1.0);
}

#[test]
fn every_container_can_be_written_through() {
    let net = all();
    let (mut flat, layout) = destructure(&net).unwrap();
    let mut seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    seen.list[1].weight[0] = 102.0;
    seen.numbers[1] = 104.0;
    seen.boxed.weight += 100.0;
    seen.boxed_numbers[0] = 106.0;
    seen.boxed_list[0].weight[0] = 107.0;
    let [_, second] = &mut seen.array;
    second.weight[0] = 109.0;
    seen.array_of_numbers[0] = 110.0;
    seen.tuple.0[[0, 0]] = 112.0;
    seen.tuple.1[0][0] = 113.0;
    seen.some.as_mut().unwrap().weight[0] = 114.0;
    seen.ordered.get_mut("a").unwrap().weight[0] = 115.0;
    seen.hashed.get_mut("c").unwrap().weight[0] = 117.0;
    seen.inserted["z"].weight[0] = 118.0;
    seen.scalar += 100.0;
    seen.any[[0]] = 120.0;
    assert!(seen.integers.is_frozen() && seen.integers.trainable().is_none());
    assert_eq!((seen.integers[0], seen.flags[0]), (7, true));
    let expected = [
        1.0, 102.0, 3.0, 104.0, 105.0, 106.0, 107.0, 8.0, 109.0, 110.0, 11.0, 112.0, 113.0, 114.0,
        115.0, 16.0, 117.0, 118.0, 119.0, 120.0,
    ];
    assert_eq!(flat, expected);
}

/// One of each kind of variant.
#[derive(Tree)]
#[tree(view)]
enum Layer {
    Linear {
        weight: Array2<f32>,
        bias: Array1<f32>,
    },
    Scale(Array1<f32>, #[tree(skip)] &'static str),
    Flatten,
}

#[derive(Tree, PartialEq, Debug)]
#[tree(view)]
enum Activation {
    Relu,
    Tanh,
}

#[derive(Tree)]
#[tree(view)]
struct Marker;

#[test]
fn an_enum_is_seen_as_its_variant() {
    let net = (
        vec![
            Layer::Linear {
                weight: arr2(&[[1.0]]),
                bias: arr1(&[2.0]),
            },
            Layer::Flatten,
            Layer::Scale(arr1(&[3.0]), "scale"),
        ],
        [Activation::Relu, Activation::Tanh],
        Marker,
    );
    let (mut flat, layout) = destructure(&net).unwrap();
    let seen = layout.view_tree(&net, &flat).unwrap();
    let total = |layer: &LayerView<'_>| match layer {
        LayerView::Linear { weight, bias } => weight.sum() + bias.sum(),
        LayerView::Scale(scale, name) => scale.sum() * name.len() as f32,
        LayerView::Flatten => 0.0,
    };
    assert_eq!(
        seen.0.iter().map(total).collect::<Vec<_>>(),
        [3.0, 0.0, 15.0]
    );
    assert_eq!(seen.1, [&Activation::Relu, &Activation::Tanh]);
    let _: MarkerView<'_> = seen.2;

    let mut seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    match &mut seen.0[0] {
        LayerViewMut::Linear { bias, .. } => *bias += 10.0,
        LayerViewMut::Scale(..) | LayerViewMut::Flatten => unreachable!(),
    }
    assert_eq!(flat, [1.0, 12.0, 3.0]);
}

/// Recursive by way of boxes.
#[derive(Tree)]
#[tree(view)]
struct Node<T> {
    value: T,
    next: Option<Box<Node<T>>>,
}

#[test]
fn a_recursive_type_has_a_view_to_the_deepest_level() {
    let mut list = None;
    for depth in 0..500 {
        list = Some(Box::new(Node {
            value: vec![depth as f32],
            next: list,
        }));
    }
    let list = list.unwrap();
    let (mut flat, layout) = destructure(&list).unwrap();
    let seen = layout.view_tree(&list, &flat).unwrap();
    let (mut node, mut sum) = (Some(&seen), 0.0);
    while let Some(here) = node {
        sum += here.value[0];
        node = here.next.as_ref();
    }
    assert_eq!(sum, 499.0 * 250.0);
    let mut seen = layout.view_tree_mut(&list, &mut flat).unwrap();
    seen.next.as_mut().unwrap().value[0] = -1.0;
    assert_eq!(flat[..3], [499.0, -1.0, 497.0]);
}

/// Generic in its elements, its number of axes, a part and a constant; with a lifetime and a bound.
#[derive(Tree)]
#[tree(view)]
struct Generic<'v, E, D: Dimension, T, const N: usize>
where
    E: FlatElement,
{
    array: Array<E, D>,
    parts: [T; N],
    #[tree(skip)]
    name: &'v str,
}

/// A loop that does not know its element type.
fn doubled<E: FlatElement + std::ops::Mul<Output = E> + ndarray::ScalarOperand>(two: E) -> Vec<E> {
    let ones = |len| Array1::from_elem(len, two);
    let net: Generic<'_, E, _, _, 2> = Generic {
        array: ones(1),
        parts: [ones(1), ones(2)],
        name: "generic",
    };
    let (mut flat, layout) = destructure_as::<E>(&net).unwrap();
    let seen = layout.view_tree(&net, &flat).unwrap();
    assert_eq!((seen.parts[1].len(), *seen.name), (2, "generic"));
    let mut seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    for x in seen.array.iter_mut().chain(seen.parts[1].iter_mut()) {
        *x *= two;
    }
    flat
}

#[test]
fn generic_structs_and_vectors_of_f64_have_views() {
    assert_eq!(doubled(2.0_f32), [4.0, 2.0, 4.0, 4.0]);
    assert_eq!(doubled(2.0_f64), [4.0, 2.0, 4.0, 4.0]);

    let net = (arr1(&[0.1_f64]), vec![0.2_f64]);
    let layout = Layout::of(&net).unwrap();
    let mut grad: FlatGrad<f64> = FlatGrad::zeros(&layout);
    let mut seen = layout.view_grad(&net, &mut grad).unwrap();
    seen.0[0] += 0.1;
    seen.1 -= 0.25;
    assert_eq!(*grad, [0.1, -0.25]);
}

/// Bare numbers, some of which are parameters.
#[derive(Tree)]
#[tree(view, params)]
struct Spring {
    k: f32,
    #[tree(frozen)]
    rest: f32,
    #[tree(skip)]
    damping: f32,
    steps: u32,
    masses: Array1<f32>,
}

#[derive(Tree)]
#[tree(view)]
struct Scaled {
    #[tree(param)]
    temperature: f32,
    eps: f32,
}

#[test]
fn bare_numbers_are_parameters_where_they_say_so() {
    let net = (
        Spring {
            k: 1.0,
            rest: 2.0,
            damping: 3.0,
            steps: 4,
            masses: arr1(&[5.0]),
        },
        Scaled {
            temperature: 6.0,
            eps: 7.0,
        },
    );
    let (mut flat, layout) = destructure(&net).unwrap();
    assert_eq!(flat, [1.0, 5.0, 6.0]);
    flat[0] = 10.0;
    let (spring, scaled) = layout.view_tree(&net, &flat).unwrap();
    assert_eq!(
        (*spring.k, *spring.rest, *spring.damping, *spring.steps),
        (10.0, 2.0, 3.0, 4)
    );
    assert_eq!((*scaled.temperature, *scaled.eps), (6.0, 7.0));
    let (mut spring, mut scaled) = layout.view_tree_mut(&net, &mut flat).unwrap();
    spring.k += 1.0;
    scaled.temperature[()] = 60.0;
    assert!(spring.rest.is_frozen());
    assert_eq!(flat, [11.0, 5.0, 60.0]);
}

/// Transparent, renamed, a tuple struct.
#[derive(Tree)]
#[tree(view, transparent)]
struct Wrapper(Array1<f32>, #[tree(skip, default)] u8);

#[derive(Tree)]
#[tree(view)]
struct Renamed {
    #[tree(rename = "weight")]
    w: Wrapper,
    r#type: Rc<Wrapper>,
}

#[test]
fn names_and_wrappers_do_not_matter() {
    let net = Renamed {
        w: Wrapper(arr1(&[1.0]), 3),
        r#type: Rc::new(Wrapper(arr1(&[2.0]), 4)),
    };
    let (flat, layout) = destructure(&net).unwrap();
    assert!(layout.leaf("weight").is_some());
    let seen = layout.view_tree(&net, &flat).unwrap();
    assert_eq!((seen.w.0[0], *seen.w.1), (1.0, 3));
    assert_eq!((seen.r#type.0[0], *seen.r#type.1), (2.0, 4));
}

#[test]
fn memory_order_is_the_vectors_and_strided_arrays_have_views_of_themselves() {
    let weight = arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).reversed_axes();
    let (flat, layout) = destructure(&weight).unwrap();
    let seen = layout.view_tree(&weight, &flat).unwrap();
    assert_eq!(seen, weight);
    assert_eq!(
        (seen.strides(), view(&weight).unwrap().strides()),
        (&[2, 1][..], &[1, 3][..])
    );
}

#[test]
fn a_model_without_leaves_has_a_view() {
    let (mut flat, layout) = destructure(&(1_u8, Vec::<f32>::new())).unwrap();
    let net = (2_u8, Vec::<f32>::new());
    let seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    assert_eq!((*seen.0, seen.1.len()), (2, 0));
}

fn is_send<T: Send>(_: &T) {}

#[test]
fn views_are_send_where_the_model_is() {
    let net = crate::models::net();
    let (mut flat, layout) = destructure(&net).unwrap();
    is_send(&net);
    is_send(&layout.view_tree(&net, &flat).unwrap());
    is_send(&layout.view_tree_mut(&net, &mut flat).unwrap());
    is_send(&view(&net).unwrap());
}
