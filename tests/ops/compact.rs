//! Vectors in fewer bytes: what is stored is what the published formulas say, is right on average,
//! and has the same bits at every vector width and however the vector is cut.

use flatleaf::ops::compact::{self, BLOCK, Codes, RandomBits};

use crate::widths::at_every_width;

const KINDS: [Codes; 2] = [Codes::Signed, Codes::Unsigned];

/// Sizes of numbers: the ends of f32 and what lies between.
const SIZES: [f32; 9] = [1e-45, 1e-40, 1e-30, 1e-10, 1.0, 3e4, 1e12, 1e25, 3e38];

fn lengths() -> impl Iterator<Item = usize> {
    (0..=35).chain([255, 256, 257, 511, 512, 600, 4096])
}

fn random(len: usize, seed: u64) -> impl Iterator<Item = u32> {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    (0..len).map(move |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    })
}

/// Numbers of all magnitudes within nine decades below a size.
fn numbers(len: usize, seed: u64, size: f32, kind: Codes) -> Vec<f32> {
    let number = |bits: u32| {
        let fraction = (bits >> 8) as f32 / (1 << 24) as f32;
        let magnitude = size * fraction * 10_f32.powi(-((bits % 10) as i32));
        let is_negative = kind == Codes::Signed && bits & 16 == 0;
        if is_negative { -magnitude } else { magnitude }
    };
    random(len, seed).map(number).collect()
}

// ---- Plain loops.

/// Bits of an element, in the words of their formula.
fn bits_of(seed: u64, step: u64, state: u64, index: u64) -> u32 {
    let mix64 = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    const MULTIPLIERS: [u32; 8] = [
        0x846c_a68b,
        0xac4c_1b51,
        0x3184_8bab,
        0xed5a_d4bb,
        0x2c1b_3c6d,
        0xc2b2_ae35,
        0xd168_aaad,
        0xb278_e4ad,
    ];
    let of_step = mix64(mix64(seed).wrapping_add(step));
    let key = mix64(mix64(of_step.wrapping_add(state / 8)).wrapping_add(index >> 32));
    let x = (key as u32).wrapping_add((index as u32).wrapping_add(1).wrapping_mul(0x9e37_79b1));
    let mixed = x ^ (x >> 15);
    mixed.wrapping_mul(MULTIPLIERS[(state % 8) as usize])
}

/// The bf16 at or below a finite number in magnitude, one more where the fraction that is cut off
/// is not below the random one.
fn narrowed(x: f32, random: u32) -> u16 {
    let (kept, cut) = (x.to_bits() >> 16, x.to_bits() & 0xffff);
    (kept + u32::from(cut + (random >> 16) >= 1 << 16)) as u16
}

/// The values of `bitsandbytes.functional.create_dynamic_map`, in its order: sorted.
fn published_values(kind: Codes) -> Vec<f64> {
    let non_sign_bits = if kind == Codes::Signed { 7 } else { 8 };
    let mut values = vec![0.0, 1.0];
    for i in 0..7_i32 {
        let items = (1 << (i + non_sign_bits - 7)) + 1;
        let boundary = |item: i32| 0.1 + 0.9 * f64::from(item) / f64::from(items - 1);
        for item in 0..items - 1 {
            let mean = (boundary(item) + boundary(item + 1)) / 2.0;
            let value = 10_f64.powi(i - 6) * mean;
            values.push(value);
            if kind == Codes::Signed {
                values.push(-value);
            }
        }
    }
    values.sort_by(f64::total_cmp);
    assert_eq!(values.len(), 256);
    values
}

/// What a code stands for, and codes in the order of the values.
fn values_in_order(kind: Codes) -> Vec<f32> {
    let codes: Vec<u8> = match kind {
        Codes::Signed => (129..=255).chain(0..=128).collect(),
        Codes::Unsigned => (0..=255).collect(),
    };
    decoded(&codes, &[1.0], kind)
}

fn decoded(codes: &[u8], scales: &[f32], kind: Codes) -> Vec<f32> {
    let mut to = vec![f32::NAN; codes.len()];
    compact::decode((codes, scales), kind, &mut to);
    to
}

type Encoded = (Vec<u8>, Vec<f32>);

fn encoded(from: &[f32], kind: Codes, random: Option<(RandomBits, u64)>) -> Encoded {
    let (mut codes, mut scales) = (
        vec![7; from.len()],
        vec![f32::NAN; from.len().div_ceil(BLOCK)],
    );
    compact::encode(from, kind, (&mut codes, &mut scales), random);
    (codes, scales)
}

fn narrow(from: &[f32], random: Option<(RandomBits, u64)>) -> Vec<u16> {
    let mut to = vec![7; from.len()];
    compact::narrow(from, &mut to, random);
    to
}

/// Where a number from −1 to 1 is among sorted values.
fn position(y: f64, values: &[f64]) -> f64 {
    let above = values.partition_point(|value| *value <= y).clamp(1, 255);
    let (below, above, first) = (values[above - 1], values[above], above - 1);
    first as f64 + (y - below) / (above - below)
}

/// A code's place among sorted values.
fn place_of(code: u8, kind: Codes) -> f64 {
    f64::from(match kind {
        Codes::Signed => code.wrapping_add(127),
        Codes::Unsigned => code,
    })
}

// ---- Random bits.

#[test]
fn random_bits_are_those_of_the_formula() {
    for (seed, step, state, index) in [
        (0, 1, 0, 0),
        (1, 1, 0, 5),
        (7, 1000, 3, u64::from(u32::MAX)),
        (u64::MAX, 1 << 53, 9, (1 << 32) + 12),
    ] {
        let bits = RandomBits::new(seed, step, state).of(index);
        assert_eq!(bits, bits_of(seed, step, state, index));
    }
    assert_eq!(RandomBits::new(0, 1, 0).of(0), 0x5d45_4b70);
}

/// Of every bit half of all are ones, and of every two of neighbours, steps, vectors and seeds half
/// differ: to five deviations of as many draws.
#[test]
fn random_bits_are_fair_and_do_not_go_together() {
    const DRAWS: u32 = 1 << 18;
    let fair = f64::from(DRAWS) / 2.0;
    let tolerance = 5.0 * (f64::from(DRAWS) / 4.0).sqrt();
    let draw = |seed, step, state, index| RandomBits::new(seed, step, state).of(index);
    let pairs: [(&str, &dyn Fn(u64) -> u32); 6] = [
        ("one", &|i| draw(0, 1, 0, i)),
        ("neighbours", &|i| draw(0, 1, 0, i) ^ draw(0, 1, 0, i + 1)),
        ("rows", &|i| draw(0, 1, 0, i) ^ draw(0, 1, 0, i + 16)),
        ("steps", &|i| draw(0, i, 0, 3) ^ draw(0, i + 1, 0, 3)),
        ("vectors", &|i| draw(0, 1, 0, i) ^ draw(0, 1, 1, i)),
        ("seeds", &|i| draw(i, 9, 0, 3) ^ draw(i + 1, 9, 0, 3)),
    ];
    for (name, pair) in pairs {
        let mut ones = [0_u32; 16];
        for i in 0..u64::from(DRAWS) {
            let bits = pair(i);
            // The upper half, which is what rounding takes.
            for (bit, ones) in ones.iter_mut().enumerate() {
                *ones += bits >> (16 + bit) & 1;
            }
        }
        for (bit, ones) in ones.iter().enumerate() {
            let off = f64::from(*ones) - fair;
            assert!(off.abs() < tolerance, "{name}, bit {bit}: {ones}");
        }
    }
}

/// The vectors of a step are drawn from one sequence: of every two of nine, and of one and its
/// neighbours further on, what is drawn is not correlated by more than five deviations of as many
/// true random numbers.
#[test]
fn random_bits_of_two_vectors_are_not_correlated() {
    const DRAWS: usize = 1 << 13;
    let greatest = 5.0 / (DRAWS as f64).sqrt();
    for seed in 0..4 {
        let vectors: Vec<Vec<f64>> = (0..9)
            .map(|state| {
                let bits = RandomBits::new(seed, 1, state);
                let upper = (0..DRAWS as u64 + 256).map(|index| bits.of(index) >> 16);
                upper
                    .map(|upper| f64::from(upper) / 32768.0 - 1.0)
                    .collect()
            })
            .collect();
        for (a, one) in vectors.iter().enumerate() {
            for (b, other) in vectors.iter().enumerate() {
                for places in [0, 1, 16, 256] {
                    if (a, places) == (b, 0) {
                        continue;
                    }
                    let pairs = one.iter().zip(&other[places..]).take(DRAWS);
                    let products: f64 = pairs.map(|(one, other)| one * other).sum();
                    // Of numbers spread evenly from -1 to 1 the mean square is a third.
                    let correlation = 3.0 * products / DRAWS as f64;
                    assert!(
                        correlation.abs() < greatest,
                        "seed {seed}, {a} and {b}, {places} places further: {correlation}"
                    );
                }
            }
        }
    }
}

// ---- bf16.

#[test]
fn what_is_a_bf16_stays_whatever_is_drawn() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let mut wide = vec![0.0; all.len()];
    compact::widen(&all, &mut wide);
    assert_eq!(wide[0x3f80], 1.0);
    assert_eq!(narrow(&wide, None), all);
    for seed in 0..20 {
        let random = RandomBits::new(seed, 1, 0);
        // Infinities too; of NaNs one is left.
        let is_nan = |half: u16| half & 0x7fff > 0x7f80;
        let expected = (all.iter()).map(|&half| if is_nan(half) { 0xffff } else { half });
        let expected: Vec<u16> = expected.collect();
        assert_eq!(narrow(&wide, Some((random, 0))), expected, "seed {seed}");
    }
}

#[test]
fn rounding_to_bf16_at_random_is_what_its_loop_says() {
    for len in lengths() {
        for (seed, size) in SIZES.iter().enumerate() {
            let x = numbers(len, seed as u64, *size, Codes::Signed);
            let random = RandomBits::new(seed as u64, 5, 1);
            let plain: Vec<u16> = x
                .iter()
                .enumerate()
                .map(|(index, x)| narrowed(*x, random.of(100 + index as u64)))
                .collect();
            let rounded = narrow(&x, Some((random, 100)));
            assert_eq!(rounded, plain, "{len} elements of {size}");
        }
    }
}

#[test]
fn a_bf16_is_right_on_average() {
    const DRAWS: usize = 1 << 16;
    for x in [1.000_1, -1.003_9, 3.2e-5, -7e30, 1e-39, -2.5e-41] {
        let bits = RandomBits::new(3, 17, 1);
        let rounded = narrow(&vec![x; DRAWS], Some((bits, 0)));
        let mut wide = vec![0.0; DRAWS];
        compact::widen(&rounded, &mut wide);
        let mean = wide.iter().map(|x| f64::from(*x)).sum::<f64>() / DRAWS as f64;
        let (below, above) = (
            f64::from(f32::from_bits(x.to_bits() & 0xffff_0000)),
            f64::from(f32::from_bits((x.to_bits() & 0xffff_0000) + 0x1_0000)),
        );
        // Five deviations of the mean of as many draws, each one of two values.
        let tolerance = 5.0 * 0.5 * (above - below).abs() / (DRAWS as f64).sqrt();
        assert!(
            (mean - f64::from(x)).abs() < tolerance,
            "{x} became {mean} on average"
        );
        assert!(
            wide.iter()
                .all(|wide| [below, above].contains(&f64::from(*wide)))
        );
    }
}

#[test]
fn beyond_the_greatest_bf16_lies_infinity() {
    let greatest = f32::from_bits(0x7f7f_0000);
    let random = Some((RandomBits::new(0, 1, 0), 0));
    let rounded = narrow(&[f32::MAX; 64], random);
    assert!(rounded.contains(&0x7f80), "0xffff of 0x10000 go up");
    assert_eq!(narrow(&[greatest; 64], random), [0x7f7f; 64]);
    assert_eq!(narrow(&[f32::MAX], None), [0x7f80]);
}

// ---- 8 bits.

#[test]
fn values_are_the_published_ones() {
    for kind in KINDS {
        let published = published_values(kind);
        let values = values_in_order(kind);
        for (value, published) in values.iter().zip(&published) {
            assert_eq!(*value, *published as f32, "{kind:?}");
        }
    }
    // As `create_dynamic_map` prints them.
    let signed = values_in_order(Codes::Signed);
    assert_eq!(signed[0], -0.992_968_75);
    assert_eq!(signed[126..130], [-5.5e-7, 0.0, 5.5e-7, 3.25e-6]);
    assert_eq!(signed[254..], [0.992_968_75, 1.0]);
    let unsigned = values_in_order(Codes::Unsigned);
    assert_eq!(unsigned[..4], [0.0, 3.25e-7, 7.75e-7, 2.125e-6]);
    assert_eq!(unsigned[254..], [0.996_484_4, 1.0]);
}

#[test]
fn memory_of_zeros_is_zeros() {
    for kind in KINDS {
        let zeros = decoded(&[0; 300], &[0.0; 2], kind);
        assert!(zeros.iter().all(|x| x.to_bits() == 0));
        assert_eq!(
            encoded(&[0.0; 300], kind, None),
            (vec![0; 300], vec![0.0; 2])
        );
    }
}

/// Blocks of all values, once with 1 and once with −1 times the size as the largest.
#[test]
fn what_is_a_value_stays_whatever_is_drawn() {
    for kind in KINDS {
        // Of the least sizes values fall together, where f32 ends.
        for size in &SIZES[2..] {
            for sign in [1.0, -1.0] {
                if sign < 0.0 && kind == Codes::Unsigned {
                    continue;
                }
                let codes: Vec<u8> = (0..=255).collect();
                let values = decoded(&codes, &[sign * size], kind);
                let expected = (codes, vec![sign * size]);
                assert_eq!(encoded(&values, kind, None), expected, "{kind:?} {size}");
                for seed in 0..50 {
                    let random = RandomBits::new(seed, 1, 0);
                    let drawn = encoded(&values, kind, Some((random, 0)));
                    assert_eq!(drawn, expected, "{kind:?} {size}, seed {seed}");
                }
            }
        }
    }
}

/// To the nearest and at random: the position, with what is drawn, rounded.
#[test]
fn codes_are_what_their_loop_says() {
    for kind in KINDS {
        let published = published_values(kind);
        for (seed, size) in SIZES.iter().enumerate().skip(2) {
            let x = numbers(4096, seed as u64, *size, kind);
            for random in [None, Some(RandomBits::new(seed as u64, 2, 3))] {
                let (codes, scales) = encoded(&x, kind, random.map(|random| (random, 9)));
                for (block, scale) in x.chunks(BLOCK).zip(&scales) {
                    let largest = block.iter().map(|x| x.abs()).fold(0.0, f32::max);
                    assert_eq!(scale.abs(), largest);
                    assert!(block.contains(scale), "with its sign");
                }
                for (index, (x, code)) in x.iter().zip(&codes).enumerate() {
                    let y = f64::from(*x) / f64::from(scales[index / BLOCK]);
                    let drawn = random.map_or(0.0, |random| {
                        let part = random.of(9 + index as u64) >> 20;
                        (f64::from(part) + 0.5) / 4096.0 - 0.5
                    });
                    // By magnitude: what is drawn moves away from zero or towards it.
                    let drawn = if y < 0.0 { -drawn } else { drawn };
                    // Below the least value, −0.993, there is none.
                    let expected = (position(y, &published) + drawn).max(0.0);
                    let found = place_of(*code, kind);
                    let is_kept_from_zero =
                        kind == Codes::Unsigned && *x > 0.0 && found == 1.0 && expected < 1.0;
                    assert!(
                        (found - expected).abs() < 0.5 + 2e-4 || is_kept_from_zero,
                        "{kind:?}: {y} at {expected} became {found}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_nearest_value_is_as_near_as_the_map_allows() {
    for kind in KINDS {
        let x = numbers(1 << 14, 1, 1.0, kind);
        let (codes, scales) = encoded(&x, kind, None);
        let back = decoded(&codes, &scales, kind);
        // A decade's values are 0.9·10^(i−6)/n apart, the largest ones beside the next decade.
        let of_least = if kind == Codes::Signed { 1 } else { 2 };
        for (index, (x, back)) in x.iter().zip(&back).enumerate() {
            let scale = scales[index / BLOCK].abs();
            let y = (x / scale).abs();
            let decade = (y.log10().floor() as i32 + 7).clamp(0, 6);
            let apart = 0.9 * 10_f32.powi(decade - 6) / (of_least << decade) as f32;
            let error = (x - back).abs() / scale;
            assert!(error <= 0.78 * apart, "{x} became {back}, {apart} apart");
        }
    }
}

#[test]
fn codes_are_right_on_average() {
    const DRAWS: usize = 1 << 16;
    for (kind, y) in [
        (Codes::Signed, 0.7),
        (Codes::Signed, -0.123),
        (Codes::Signed, 4.4e-5),
        (Codes::Signed, -2e-7),
        (Codes::Unsigned, 0.991),
        (Codes::Unsigned, 3.3e-3),
        (Codes::Unsigned, 1.1e-6),
    ] {
        // One element of every block is the largest.
        let x: Vec<f32> = (0..DRAWS)
            .map(|i| if i % BLOCK == 0 { 1.0 } else { y })
            .collect();
        let (codes, scales) = encoded(&x, kind, Some((RandomBits::new(5, 6, 7), 0)));
        let back = decoded(&codes, &scales, kind);
        let others = back.chunks(BLOCK).flat_map(|block| &block[1..]);
        let others: Vec<f64> = others.map(|x| f64::from(*x)).collect();
        let mean = others.iter().sum::<f64>() / others.len() as f64;
        let (least, greatest) = others
            .iter()
            .fold((1.0_f64, -1.0_f64), |(l, g), x| (l.min(*x), g.max(*x)));
        let apart = greatest - least;
        // Five deviations, and what 12 random bits are short of all.
        let tolerance = apart * (2.5 / (others.len() as f64).sqrt() + 1.0 / 8192.0);
        assert!(
            (mean - f64::from(y)).abs() < tolerance,
            "{kind:?} {y} became {mean}"
        );
    }
}

#[test]
fn an_unsigned_element_that_is_not_zero_does_not_become_zero() {
    let mut x = vec![1e-20; BLOCK];
    (x[0], x[1]) = (1.0, 0.0);
    let (codes, _) = encoded(&x, Codes::Unsigned, None);
    assert_eq!((codes[0], codes[1]), (255, 0));
    assert!(codes[2..].iter().all(|code| *code == 1));
    // A signed one does.
    let (codes, _) = encoded(&x, Codes::Signed, None);
    assert!(codes[1..].iter().all(|code| *code == 0));
}

#[test]
fn a_block_with_what_is_no_number_is_nan_and_its_neighbours_are_not() {
    for kind in KINDS {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 17, 255] {
                let mut x = vec![0.5; 3 * BLOCK];
                x[BLOCK + place] = bad;
                let random = Some((RandomBits::new(0, 1, 0), 0));
                let (codes, scales) = encoded(&x, kind, random);
                let back = decoded(&codes, &scales, kind);
                assert!(back[BLOCK..2 * BLOCK].iter().all(|x| x.is_nan()));
                assert!(back[..BLOCK].iter().all(|x| *x == 0.5));
                assert!(back[2 * BLOCK..].iter().all(|x| *x == 0.5));
            }
        }
    }
    let (_, scales) = encoded(&[0.5, -1e-30], Codes::Unsigned, None);
    assert!(scales[0].is_nan(), "no unsigned code is below zero");
    let (_, scales) = encoded(&[0.5, -0.0], Codes::Unsigned, None);
    assert_eq!(scales, [0.5]);
}

#[test]
#[should_panic = "expected 300 codes and a scale for each 256 of them, found 300 and 1"]
fn a_scale_too_few_panics() {
    compact::encode(
        &[0.0; 300],
        Codes::Signed,
        (&mut [0; 300], &mut [0.0]),
        None,
    );
}

#[test]
#[should_panic = "expected room for 3 elements, found 2"]
fn room_for_too_few_panics() {
    let random = Some((RandomBits::new(0, 1, 0), 0));
    compact::narrow(&[0.0; 3], &mut [0; 2], random);
}

// ---- The same bits.

/// All that is stored of a vector that begins at an index.
fn everything(len: usize, first: u64) -> (Vec<u16>, Vec<Encoded>) {
    let random = Some((RandomBits::new(11, 12, 13), first));
    let signed = numbers(len, 3, 1.0, Codes::Signed);
    let unsigned = numbers(len, 4, 1e-9, Codes::Unsigned);
    let encoded = vec![
        encoded(&signed, Codes::Signed, None),
        encoded(&signed, Codes::Signed, random),
        encoded(&unsigned, Codes::Unsigned, None),
        encoded(&unsigned, Codes::Unsigned, random),
    ];
    (narrow(&signed, random), encoded)
}

#[test]
fn widths_agree() {
    for len in lengths() {
        at_every_width(
            || everything(len, 40),
            |width, found, widest| assert!(found == widest, "{len} elements at {width:?}"),
        );
    }
}

/// Cut anywhere, also at the border of 2³² elements, where what bits are made of changes.
#[test]
fn an_element_has_the_bits_of_its_index() {
    const LEN: usize = 4 * BLOCK;
    for first in [0, 77, (1 << 32) - 300, (1 << 32) - 1, 5 << 32] {
        let bits = RandomBits::new(1, 2, 3);
        let x = numbers(LEN, 5, 1.0, Codes::Signed);
        let whole = narrow(&x, Some((bits, first)));
        let whole_codes = encoded(&x, Codes::Signed, Some((bits, first)));
        for cut in [1, 16, 299, 300, 301, 700] {
            let (left, right) = x.split_at(cut);
            let mut cut_up = narrow(left, Some((bits, first)));
            cut_up.extend(narrow(right, Some((bits, first + cut as u64))));
            assert!(cut_up == whole, "from {first}, cut at {cut}");
        }
        for cut in [BLOCK, 3 * BLOCK] {
            let (left, right) = x.split_at(cut);
            let mut cut_up = encoded(left, Codes::Signed, Some((bits, first)));
            let right = encoded(right, Codes::Signed, Some((bits, first + cut as u64)));
            cut_up.0.extend(right.0);
            cut_up.1.extend(right.1);
            assert!(cut_up == whole_codes, "from {first}, cut at {cut}");
        }
    }
}
