//! Any float on disk becomes the leaf's own: exactly where it fits, otherwise rounded once, to
//! nearest and ties to even.

use std::borrow::Cow;

use flatleaf::checkpoint::{self, Extras, LoadOptions};
use flatleaf::{Element, Layout, tree};
use half::{bf16, f16};
use ndarray::Array1;

use crate::files::{Folder, f32s, load, open, tensors};

fn loaded<E: Element>(dtype: &str, bytes: &[u8], zero: E, len: usize) -> Array1<E> {
    let mut target = vec![Array1::from_elem(len, zero)];
    load(&tensors(&[("0", dtype, bytes)], ""), &mut target).unwrap();
    target.remove(0)
}

fn f64s(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

const EXACT: [f64; 6] = [
    1.5,
    -2.0,
    0.0,
    f64::INFINITY,
    f64::NEG_INFINITY,
    0.000_030_517_578_125,
];

/// Four types on disk, four in memory.
#[test]
fn what_fits_arrives_exactly() {
    let f16_bits: Vec<u8> = EXACT
        .iter()
        .flat_map(|&x| f16::from_f64(x).to_le_bytes())
        .collect();
    let bf16_bits: Vec<u8> = EXACT
        .iter()
        .flat_map(|&x| bf16::from_f64(x).to_le_bytes())
        .collect();
    let f32_bits = f32s(&EXACT.map(|x| x as f32));
    for (dtype, bytes) in [
        ("F64", f64s(&EXACT)),
        ("F32", f32_bits),
        ("F16", f16_bits),
        ("BF16", bf16_bits),
    ] {
        assert_eq!(loaded(dtype, &bytes, 0.0_f64, 6).to_vec(), EXACT, "{dtype}");
        assert_eq!(
            loaded(dtype, &bytes, 0.0_f32, 6).to_vec(),
            EXACT.map(|x| x as f32),
            "{dtype}"
        );
        assert_eq!(
            loaded(dtype, &bytes, f16::ZERO, 6).to_vec(),
            EXACT.map(f16::from_f64),
            "{dtype}"
        );
        assert_eq!(
            loaded(dtype, &bytes, bf16::ZERO, 6).to_vec(),
            EXACT.map(bf16::from_f64),
            "{dtype}"
        );
    }
}

/// P.A21: within one type no bit changes.
#[test]
fn bits_of_one_type_stay() {
    let bits = [
        0x8000_0000_u32,
        0x7fc0_0001,
        0x7f80_0001,
        0x0000_0001,
        0xff80_0000,
    ];
    let arrived = loaded("F32", bytemuck::cast_slice(&bits), 0.0_f32, 5);
    assert_eq!(arrived.mapv(f32::to_bits).to_vec(), bits);
}

fn to_f16(x: f64) -> u16 {
    loaded("F64", &f64s(&[x]), f16::ZERO, 1)[0].to_bits()
}

fn to_bf16(x: f64) -> u16 {
    loaded("F64", &f64s(&[x]), bf16::ZERO, 1)[0].to_bits()
}

/// Just above and just below the middle of two neighbours: whoever rounds to f32 first takes both
/// for the middle.
#[test]
fn an_f64_is_rounded_once() {
    let tiny = f64::powi(2.0, -40);
    let middle = 1.0 + f64::powi(2.0, -11);
    assert_eq!(to_f16(middle), 0x3c00);
    assert_eq!(to_f16(middle + tiny), 0x3c01);
    assert_eq!(to_f16(-middle - tiny), 0xbc01);
    assert_eq!(to_f16(middle + f64::powi(2.0, -10) - tiny), 0x3c01);
    let middle = 1.0 + f64::powi(2.0, -8);
    assert_eq!(to_bf16(middle), 0x3f80);
    assert_eq!(to_bf16(middle + tiny), 0x3f81);
}

#[test]
fn the_ends_of_the_range_are_kept() {
    assert_eq!(to_f16(65519.999), 0x7bff);
    assert_eq!(to_f16(65520.0), 0x7c00);
    assert_eq!(to_bf16(1e300), 0x7f80);
    assert_eq!(to_f16(-1e-300), 0x8000);
    assert_eq!(to_f16(f64::powi(2.0, -25)), 0);
    assert_eq!(to_f16(f64::powi(2.0, -25) * 1.000_000_1), 1);
    assert!(f16::from_bits(to_f16(f64::NAN)).is_nan());
    assert!(bf16::from_bits(to_bf16(-f64::NAN)).is_nan());
}

/// Every 16-bit float, and the neighbours of every middle between two.
#[test]
fn every_middle_goes_to_the_even_one() {
    let low: Vec<f64> = (0..0x7bff)
        .map(|bits| f16::from_bits(bits).to_f64())
        .collect();
    let middles: Vec<f64> = low
        .iter()
        .zip(1..)
        .map(|(low, next)| (low + f16::from_bits(next).to_f64()) / 2.0)
        .collect();
    let all: Vec<f64> = middles
        .iter()
        .flat_map(|middle| [middle.next_down(), *middle, middle.next_up()])
        .collect();
    let rounded = loaded("F64", &f64s(&all), f16::ZERO, all.len());
    for (bits, rounded) in (0_u16..).zip(rounded.to_vec().chunks(3)) {
        assert_eq!(
            rounded.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            [bits, bits + bits % 2, bits + 1]
        );
    }
    let low: Vec<f64> = (0..0x7f7f)
        .map(|bits| bf16::from_bits(bits).to_f64())
        .collect();
    let middles: Vec<f64> = low
        .iter()
        .zip(1..)
        .map(|(low, next)| (low + bf16::from_bits(next).to_f64()) / 2.0)
        .collect();
    let all: Vec<f64> = middles
        .iter()
        .flat_map(|middle| [middle.next_down(), *middle, middle.next_up()])
        .collect();
    let rounded = loaded("F64", &f64s(&all), bf16::ZERO, all.len());
    for (bits, rounded) in (0_u16..).zip(rounded.to_vec().chunks(3)) {
        assert_eq!(
            rounded.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            [bits, bits + bits % 2, bits + 1]
        );
    }
}

#[test]
fn integers_are_not_converted() {
    let file = tensors(&[("0", "I32", &7_i32.to_le_bytes())], "");
    let error = load(&file, &mut vec![Array1::<i64>::zeros(1)]).unwrap_err();
    assert_eq!(error.to_string(), "`0`: expected i64, found I32");
    let error = load(&file, &mut vec![Array1::<f32>::zeros(1)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`0`: expected floats of 16 bits or more, found I32"
    );
    let error = load(
        &tensors(&[("0", "F32", &f32s(&[1.0]))], ""),
        &mut vec![Array1::<i64>::zeros(1)],
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "`0`: expected i64, found F32");
    let eight = load(
        &tensors(&[("0", "F8_E4M3", &[1])], ""),
        &mut vec![Array1::<f32>::zeros(1)],
    )
    .unwrap_err();
    assert_eq!(
        eight.to_string(),
        "`0`: expected floats of 16 bits or more, found F8_E4M3"
    );
}

/// J.A12, P.B4: a model of mixed types comes back exactly; in a flat vector of f32 an f64 has no
/// place.
#[test]
fn a_mixed_file_as_a_flat_vector() {
    let bytes = tensors(
        &[
            ("b", "BF16", &bf16::from_f32(2.0).to_le_bytes()),
            ("w", "F32", &f32s(&[1.0])),
        ],
        "",
    );
    let file = open(&bytes).unwrap();
    assert_eq!(file.flat().unwrap(), [2.0, 1.0].as_slice());
    let layout = Layout::of(&tree!({ "w": [0.0], "b": [0.0] })).unwrap();
    assert_eq!(file.flat_for(&layout).unwrap(), [1.0, 2.0].as_slice());

    let wide = open(&tensors(&[("w", "F64", &f64s(&[0.1]))], "")).unwrap();
    let error = wide.flat().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`w`: expected f32, f16 or bf16, for a vector of f32"),
        "{error}"
    );
    let flat = wide.flat_for_as::<f64>(&wide.layout().unwrap()).unwrap();
    assert_eq!(flat, [0.1].as_slice());
    let mut target = tree!({ "w": (vec![0.0_f64]) });
    wide.load_into(&mut target, &LoadOptions::new()).unwrap();
    assert_eq!(target, tree!({ "w": (vec![0.1_f64]) }));
}

/// A bf16 model's master copy: the file keeps what the model would round.
#[test]
fn a_master_copy_is_not_rounded() {
    let folder = Folder::new();
    let model = vec![Array1::from_elem(3, bf16::ONE)];
    let layout = Layout::of(&model).unwrap();
    let master = [1.001_f32, 2.002, 3.003];
    checkpoint::save_flat(folder.path("f32"), &layout, &master, &Extras::new()).unwrap();
    let file = checkpoint::open(folder.path("f32")).unwrap();
    assert!(matches!(file.flat_for(&layout).unwrap(), Cow::Borrowed(flat) if flat == master));
    let mut loaded = model.clone();
    file.load_into(&mut loaded, &LoadOptions::new()).unwrap();
    assert_eq!(loaded[0].to_vec(), master.map(bf16::from_f32));

    let wide = master.map(|x| f64::from(x) + 1e-12);
    checkpoint::save_flat(folder.path("f64"), &layout, &wide, &Extras::new()).unwrap();
    let file = checkpoint::open(folder.path("f64")).unwrap();
    assert!(
        matches!(file.flat_for_as::<f64>(&layout).unwrap(), Cow::Borrowed(flat) if flat == wide)
    );
    assert_eq!(file.flat_for(&layout).unwrap(), master.as_slice());
}
