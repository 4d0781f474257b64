//! Norms and statistics by leaf, and clipping that has to name leaves.

use flatleaf::{Layout, tree};

fn layout() -> Layout {
    Layout::of(
        &tree!({ "a": [0, 0], "none": (ndarray::Array1::<f32>::zeros(0)), "b": [[0], [0], [0]] }),
    )
    .unwrap()
}

#[test]
fn norms_are_of_each_leaf_by_itself() {
    let flat = [3.0, -4.0, 1.0, -2.0, 2.0];
    let norms = |p| layout().leaf_norms(&flat, p).unwrap();
    assert_eq!(norms(2.0), [5.0, 0.0, 3.0]);
    assert_eq!(norms(1.0), [7.0, 0.0, 5.0]);
    assert_eq!(norms(0.0), [2.0, 0.0, 3.0]);
    assert_eq!(norms(f64::INFINITY), [4.0, 0.0, 2.0]);
    let mut bad = flat;
    bad[3] = f32::NAN;
    let norms = layout().leaf_norms(&bad, f64::INFINITY).unwrap();
    assert!(norms[0] == 4.0 && norms[2].is_nan());
    let huge = layout()
        .leaf_norms(&[3e38, 0.0, 1e-40, 0.0, 0.0], 2.0)
        .unwrap();
    assert_eq!(huge, [f64::from(3e38_f32), 0.0, f64::from(1e-40_f32)]);
    let error = layout().leaf_norms(&flat[..4], 2.0).unwrap_err();
    assert!(error.is_length(), "{error}");
}

#[test]
fn statistics_are_of_the_finite_elements() {
    let stats = layout()
        .leaf_stats(&[1.0, 3.0, 2.0, f32::NAN, f32::INFINITY])
        .unwrap();
    let of = |leaf: usize| {
        let stats = stats[leaf];
        (
            stats.mean,
            stats.std,
            stats.min,
            stats.max,
            stats.non_finite,
        )
    };
    assert_eq!(of(0), (2.0, 1.0, 1.0, 3.0, 0));
    assert_eq!(of(2), (2.0, 0.0, 2.0, 2.0, 2));
    assert!(layout().leaf_stats(&[0.0; 6]).unwrap_err().is_length());
}

#[test]
fn a_leaf_without_elements_has_the_mean_zero_and_not_minus_zero() {
    let empty = layout().leaf_stats(&[1.0; 5]).unwrap()[1];
    assert_eq!((empty.mean.to_bits(), empty.std.to_bits()), (0, 0));
    assert!(empty.min.is_nan() && empty.max.is_nan());
    assert_eq!(empty.non_finite, 0);
    // All of it non-finite is no element either.
    let lost = layout().leaf_stats(&[f32::NAN; 5]).unwrap()[0];
    assert_eq!(
        (lost.mean.to_bits(), lost.std.to_bits(), lost.non_finite),
        (0, 0, 2)
    );
}

#[test]
fn statistics_of_f64_neither_overflow_nor_vanish() {
    let layout = Layout::of(&tree!([[0], [0, 0]])).unwrap();
    let of = |flat: [f64; 3]| {
        let stats = layout.leaf_stats_as(&flat).unwrap();
        (stats[0].mean, stats[0].std, stats[1].mean, stats[1].std)
    };
    assert_eq!(of([1e300, 1e300, 3e300]), (1e300, 0.0, 2e300, 1e300));
    let max = f64::MAX;
    assert_eq!(of([max, max, -max]), (max, 0.0, 0.0, max));
    let (_, std, mean, small) = of([0.0, 1e-200, 3e-200]);
    assert_eq!(std, 0.0);
    assert!((mean / 2e-200 - 1.0).abs() < 1e-15 && (small / 1e-200 - 1.0).abs() < 1e-15);
    let tiny = f64::from_bits(1);
    assert_eq!(of([tiny, tiny, tiny]), (tiny, 0.0, tiny, 0.0));
}

#[test]
fn a_bound_is_refused_where_there_is_no_leaf_either() {
    let layout = Layout::of(&()).unwrap();
    let mut none: [f32; 0] = [];
    assert!(
        layout
            .clip_norm(&mut none[..], -1.0)
            .unwrap_err()
            .is_argument()
    );
    assert!(
        layout
            .clip_norm_per_leaf(&mut none[..], f64::NAN)
            .unwrap_err()
            .is_argument()
    );
}
