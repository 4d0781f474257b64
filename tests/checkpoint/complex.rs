//! Complex numbers in files: `C64`, as PyTorch writes and reads them, and two numbers along a last
//! axis, as all other elements are.

use flatleaf::checkpoint::{self, Extras};
use flatleaf::{Dtype, DynTree, Layout, Tree, destructure, destructure_as, tree};
use ndarray::{ArcArray2, Array0, Array1, Array2, arr1, arr2};
use num_complex::{Complex32, Complex64};

use crate::files::{Folder, f32s, load, open, parts, raw, saved};

/// A file of one tensor of 2 × 3 complex numbers: (1 − i), (2 − 2i) to (6 − 6i).
fn file() -> Vec<u8> {
    let header = r#"{"w":{"dtype":"C64","shape":[2,3],"data_offsets":[0,48]}}"#;
    raw(header, &f32s(&numbers()))
}

fn numbers() -> Vec<f32> {
    (1..=6).flat_map(|x| [x as f32, -(x as f32)]).collect()
}

fn complex(x: f32) -> Complex32 {
    Complex32::new(x, -x)
}

#[derive(Tree, Debug, PartialEq)]
struct Filter<E: flatleaf::ArrayElement> {
    w: Array2<E>,
}

fn filter() -> Filter<Complex32> {
    let [a, b, c, d, e, f] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].map(complex);
    Filter {
        w: arr2(&[[a, b, c], [d, e, f]]),
    }
}

#[test]
fn a_c64_tensor_loads_into_complex_numbers_of_either_width_and_into_an_axis_of_two() {
    let mut narrow = Filter {
        w: Array2::<Complex32>::zeros((2, 3)),
    };
    load(&file(), &mut narrow).unwrap();
    assert_eq!(narrow, filter());
    let mut wide = Filter {
        w: Array2::<Complex64>::zeros((2, 3)),
    };
    load(&file(), &mut wide).unwrap();
    assert_eq!(wide.w[[1, 2]], Complex64::new(6.0, -6.0));
    let mut parts = tree!({ "w": [[[0, 0], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 0]]] });
    load(&file(), &mut parts).unwrap();
    let parts = parts.get("w").unwrap().as_array::<f32>().unwrap();
    assert_eq!(parts.as_slice().unwrap(), numbers());
}

#[test]
fn two_numbers_along_a_last_axis_load_into_complex_numbers() {
    let header = r#"{"w":{"dtype":"F32","shape":[2,3,2],"data_offsets":[0,48]}}"#;
    let mut model = Filter {
        w: Array2::<Complex32>::zeros((2, 3)),
    };
    load(&raw(header, &f32s(&numbers())), &mut model).unwrap();
    assert_eq!(model, filter());
}

#[test]
fn real_numbers_are_not_taken_for_complex_ones_nor_the_other_way_round() {
    let mut real = tree!({ "w": [[7, 7, 7], [7, 7, 7]] });
    let error = load(&file(), &mut real).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(
        error.to_string(),
        "`w`: expected shape [2, 3], found shape [2, 3, 2]"
    );
    assert_eq!(real, tree!({ "w": [[7, 7, 7], [7, 7, 7]] }));

    let header = r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
    let mut model = filter();
    let error = load(&raw(header, &[0; 24]), &mut model).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`w`: expected shape [2, 3, 2], found shape [2, 3]"
    );
    assert_eq!(model, filter());

    #[derive(Tree)]
    struct Bare {
        w: Complex32,
    }
    let header = r#"{"w":{"dtype":"C64","shape":[],"data_offsets":[0,8]}}"#;
    let one = raw(header, &f32s(&[1.5, -2.5]));
    let mut bare = Bare { w: complex(0.0) };
    let error = load(&one, &mut bare).unwrap_err();
    assert!(error.to_string().contains("mark it `#[tree(param)]`"));
    assert_eq!(bare.w, complex(0.0));
    let mut array = (Array0::from_elem((), complex(0.0)),);
    let renamed = raw(&header.replace('w', "0"), &f32s(&[1.5, -2.5]));
    load(&renamed, &mut array).unwrap();
    assert_eq!(array.0[[]], Complex32::new(1.5, -2.5));
}

#[test]
fn complex_numbers_of_f32_are_c64_in_a_file_and_those_of_f64_an_axis_of_two() {
    let bytes = saved(&filter());
    let (header, data) = parts(&bytes);
    assert!(header.contains(r#""w":{"dtype":"C64","shape":[2,3],"data_offsets":[0,48]}"#));
    assert_eq!(data, f32s(&numbers()));
    let stored = open(&bytes).unwrap();
    let tensor = stored.tensor("w").unwrap();
    assert_eq!(
        (tensor.type_name().as_str(), tensor.dtype(), tensor.shape()),
        ("C64", Some(Dtype::F32), &[2, 3, 2][..])
    );

    let wide = saved(&(arr1(&[Complex64::new(0.1, 0.2)]),));
    assert!(parts(&wide).0.contains(r#""dtype":"F64","shape":[1,2]"#));
    let mut model = (Array1::<Complex64>::zeros(1),);
    load(&wide, &mut model).unwrap();
    assert_eq!(model.0[0], Complex64::new(0.1, 0.2));

    // Elements of several complex numbers, none of them, and one alone.
    let many = (
        vec![[complex(1.0), complex(2.0)]; 3],
        Array2::<Complex32>::zeros((0, 4)),
        Array0::from_elem((), complex(3.0)),
    );
    let bytes = saved(&many);
    let header = parts(&bytes).0;
    for shape in ["[3,2]", "[0,4]", "[]"] {
        let stated = format!(r#""dtype":"C64","shape":{shape}"#);
        assert!(header.contains(&stated), "{stated}: {header}");
    }
    let mut empty = (
        vec![[complex(0.0); 2]; 3],
        Array2::<Complex32>::zeros((0, 4)),
        Array0::from_elem((), complex(0.0)),
    );
    load(&bytes, &mut empty).unwrap();
    assert_eq!(empty, many);
}

/// A flat vector is written in its own type: one of f64 has no complex numbers in a file.
#[test]
fn vectors_come_back_with_their_complex_leaves() {
    let folder = Folder::new();
    let model = (
        vec![0.5_f32, 0.25],
        arr1(&[complex(1.0), complex(2.0)]),
        vec![[1.0_f32; 3]],
    );
    let (flat, layout) = destructure(&model).unwrap();
    let average: Vec<f32> = flat.iter().map(|x| x * 0.5).collect();
    let extras = Extras::new().vector("ema", &average);
    checkpoint::save_flat(folder.path("narrow"), &layout, &flat, &extras).unwrap();
    let file = checkpoint::open(folder.path("narrow")).unwrap();
    assert_eq!(file.flat_for(&layout).unwrap(), flat);
    assert_eq!(
        file.part("ema").unwrap().flat_for(&layout).unwrap(),
        average
    );
    assert_eq!(file.tensor("ema.1").unwrap().type_name(), "C64");
    assert_eq!(
        file.view::<f32>("1").unwrap(),
        arr2(&[[1.0, -1.0], [2.0, -2.0]]).into_dyn()
    );
    assert_eq!(file.fingerprint(), Some(layout.fingerprint()));

    let (wide, _) = destructure_as::<f64>(&model).unwrap();
    checkpoint::save_flat(folder.path("wide"), &layout, &wide, &Extras::new()).unwrap();
    let file = checkpoint::open(folder.path("wide")).unwrap();
    assert_eq!(file.tensor("1").unwrap().type_name(), "F64");
    assert_eq!(file.flat_for(&layout).unwrap(), flat);

    // Of complex numbers alone the file is the vector.
    let only = arr1(&[complex(1.0), complex(2.0)]);
    let layout = Layout::of(&only).unwrap();
    checkpoint::save(folder.path("only"), &only).unwrap();
    let file = checkpoint::open(folder.path("only")).unwrap();
    let flat = file.flat_for(&layout).unwrap();
    assert!(matches!(flat, std::borrow::Cow::Borrowed(_)));
    assert_eq!(*flat, [1.0, -1.0, 2.0, -2.0]);
}

/// Trees made of a file are trained as real numbers, and written as what they were.
#[test]
fn a_copy_of_a_file_has_its_complex_numbers() {
    let folder = Folder::new();
    std::fs::write(folder.path("a"), file()).unwrap();
    let file = checkpoint::open(folder.path("a")).unwrap();
    let copy = DynTree::of(&file).unwrap();
    assert_eq!(
        copy,
        tree!({ "w": [[[1, -1], [2, -2], [3, -3]], [[4, -4], [5, -5], [6, -6]]] })
    );
    let layout = file.layout().unwrap();
    assert_eq!(layout.element_name(3), "w[0, 1].im");
    assert_eq!(Layout::of(&copy).unwrap().element_name(3), "w[0, 1].im");
    let halved: Vec<f32> = numbers().iter().map(|x| x * 0.5).collect();
    let halved = layout.restructure(&copy, &halved).unwrap();
    checkpoint::save(folder.path("b"), &halved).unwrap();
    let mut model = filter();
    load(&std::fs::read(folder.path("b")).unwrap(), &mut model).unwrap();
    assert_eq!(model.w[[0, 1]], complex(1.0));
    for model in [&file as &dyn Tree, &copy, &copy.clone(), &halved] {
        assert!(parts(&saved(model)).0.contains(r#""C64","shape":[2,3]"#));
    }
    // Gathered by a model's own layout, too.
    let of_model = Layout::of(&filter()).unwrap();
    assert_eq!(of_model.gather(&file).unwrap(), numbers());

    checkpoint::average(&[folder.path("a"), folder.path("b")], folder.path("mean")).unwrap();
    let mean = std::fs::read(folder.path("mean")).unwrap();
    assert!(parts(&mean).0.contains(r#""C64","shape":[2,3]"#));
    load(&mean, &mut model).unwrap();
    assert_eq!(model.w[[1, 2]], complex(4.5));
    let comparison = checkpoint::compare(folder.path("a"), folder.path("b")).unwrap();
    assert_eq!(comparison.tensors[0].max_abs, 3.0);
}

#[test]
fn a_transposed_tie_of_complex_numbers_comes_back() {
    let array = ArcArray2::from(filter().w);
    let tied = (array.clone(), array.t().to_owned().into_shared());
    let turned = array.clone().reversed_axes();
    let model = (array, turned);
    let bytes = saved(&model);
    assert!(parts(&bytes).0.contains(r#""C64","shape":[2,3]"#));
    assert_eq!(open(&bytes).unwrap().tensors().len(), 1);
    // Into a model that is not tied: both get the value.
    let mut untied = (
        ArcArray2::<Complex32>::zeros((2, 3)),
        ArcArray2::<Complex32>::zeros((3, 2)),
    );
    load(&bytes, &mut untied).unwrap();
    assert_eq!(untied, tied);
    let zeros = ArcArray2::<Complex32>::zeros((2, 3));
    let mut retied = (zeros.clone(), zeros.reversed_axes());
    load(&bytes, &mut retied).unwrap();
    assert_eq!(retied, tied);
}

#[test]
fn a_frozen_complex_leaf_is_c64_too() {
    #[derive(Tree)]
    struct Frozen {
        #[tree(frozen)]
        w: Array1<Complex32>,
        b: Vec<f32>,
    }
    let model = Frozen {
        w: arr1(&[complex(1.0)]),
        b: vec![2.0],
    };
    let bytes = saved(&model);
    assert_eq!(
        open(&bytes).unwrap().tensor("w").unwrap().type_name(),
        "C64"
    );
    let mut other = Frozen {
        w: arr1(&[complex(0.0)]),
        b: vec![0.0],
    };
    load(&bytes, &mut other).unwrap();
    assert_eq!((other.w[0], other.b[0]), (complex(1.0), 2.0));
}

#[test]
fn a_file_that_lies_of_complex_numbers_is_refused() {
    let short = r#"{"w":{"dtype":"C64","shape":[2,3],"data_offsets":[0,24]}}"#;
    let error = open(&raw(short, &[0; 24])).unwrap_err();
    assert!(error.is_invalid_file());
    assert_eq!(error.path(), Some("w"));
    assert!(error.to_string().contains("48 bytes for C64"), "{error}");
    // With the axis of two there would be one more than an array may have.
    let many = ["1"; 64].join(",");
    let header = format!(r#"{{"w":{{"dtype":"C64","shape":[{many}],"data_offsets":[0,8]}}}}"#);
    let error = open(&raw(&header, &[0; 8])).unwrap_err();
    assert!(error.to_string().contains("at most 63 axes"), "{error}");
}
