//! Every field of every rule is checked, and the error names it.

use flatleaf::optim::{
    Accumulate, AdaBelief, AdaDelta, AdaGrad, Adam, AdamW, Adamax, ClipNorm, ClipNormPerLeaf,
    ClipValue, Ema, Lamb, Lars, Lion, Muon, NAdam, OAdam, Optimizer, RAdam, RmsProp, Rprop, Rule,
    Sgd, SignDecay, Swa, WeightDecay,
};
use flatleaf::{FlatGrad, Layout, tree};

/// What a field takes: which numbers it refuses, with the words for what it expects of each.
type Limits = fn() -> Vec<(f64, &'static str)>;

const NON_NEGATIVE: Limits = || {
    let expected = "a finite number of 0 or more";
    let mut refused = vec![(1e39, FINITE_F32), (f64::MAX, FINITE_F32)];
    refused.extend([-1.0, -f64::MIN_POSITIVE, f64::NAN, f64::INFINITY].map(|x| (x, expected)));
    refused
};

/// What keeps a divisor from 0.
const EPS: Limits = || {
    let mut refused = NON_NEGATIVE();
    refused.extend(
        [1e-50, f64::MIN_POSITIVE]
            .map(|x| (x, "a number that is not 0 as an f32, at least 1.4e-45")),
    );
    refused
};

const DECAY_RATE: Limits = || {
    let mut refused = vec![(0.99999999, "a number from 0 to below 1 as an f32")];
    refused.extend([-0.1, 1.0, 1.5, f64::NAN].map(|x| (x, "a number from 0 to below 1")));
    refused
};

const MAXIMUM: Limits = || {
    vec![
        (-1.0, "a maximum of 0 or more"),
        (f64::NAN, "a maximum of 0 or more"),
    ]
};

const FINITE: Limits = || {
    [1e39, -1e39, f64::NAN, f64::INFINITY]
        .map(|x| (x, FINITE_F32))
        .to_vec()
};

const FINITE_F32: &str = "a number that is finite as an f32, at most 3.4e38";

fn message(rule: impl Rule) -> String {
    let layout = Layout::of(&tree!([1.0])).unwrap();
    let error = Optimizer::new(rule, &layout).map(drop).unwrap_err();
    assert!(error.is_argument(), "{error}");
    error.to_string()
}

/// The rule with each number that the field refuses.
macro_rules! check {
    ($($rule:ident { $($field:ident $(.$index:tt)?: $expected:expr),* $(,)? })*) => {$($(
        for (number, expected) in $expected() {
            let mut rule = $rule::default();
            rule.$field $(.$index)? = number;
            let field = concat!(stringify!($field) $(, ".", stringify!($index))?);
            assert_eq!(message(rule), format!("`{field}`: expected {expected}, found {number}"), "{}", stringify!($rule));
        }
    )*)*};
}

#[test]
fn a_number_that_makes_no_sense_is_an_error_that_names_its_field() {
    check! {
        Sgd { lr: NON_NEGATIVE, momentum: NON_NEGATIVE, dampening: NON_NEGATIVE, weight_decay: NON_NEGATIVE }
        Adam { lr: NON_NEGATIVE, betas.0: DECAY_RATE, betas.1: DECAY_RATE, eps: EPS, weight_decay: NON_NEGATIVE }
        AdamW { lr: NON_NEGATIVE, betas.0: DECAY_RATE, betas.1: DECAY_RATE, eps: EPS, weight_decay: NON_NEGATIVE }
        NAdam {
            lr: NON_NEGATIVE, betas.0: DECAY_RATE, betas.1: DECAY_RATE, eps: EPS, weight_decay: NON_NEGATIVE,
            momentum_decay: NON_NEGATIVE,
        }
        RAdam { lr: NON_NEGATIVE, betas.0: DECAY_RATE, betas.1: DECAY_RATE, eps: EPS, weight_decay: NON_NEGATIVE }
        Adamax { lr: NON_NEGATIVE, betas.0: DECAY_RATE, betas.1: DECAY_RATE, eps: EPS, weight_decay: NON_NEGATIVE }
        AdaGrad {
            lr: NON_NEGATIVE, lr_decay: NON_NEGATIVE, weight_decay: NON_NEGATIVE, initial_accumulator_value: NON_NEGATIVE,
            eps: EPS,
        }
        Muon {
            lr: NON_NEGATIVE, momentum: DECAY_RATE, weight_decay: NON_NEGATIVE, ns_coefficients.0: FINITE,
            ns_coefficients.1: FINITE, ns_coefficients.2: FINITE, eps: EPS, adamw_lr_ratio: NON_NEGATIVE,
            adamw_betas.0: DECAY_RATE, adamw_betas.1: DECAY_RATE, adamw_eps: EPS, adamw_weight_decay: NON_NEGATIVE,
        }
        AdaDelta { lr: NON_NEGATIVE, rho: DECAY_RATE, eps: EPS, weight_decay: NON_NEGATIVE }
        RmsProp { lr: NON_NEGATIVE, alpha: DECAY_RATE, eps: EPS, weight_decay: NON_NEGATIVE, momentum: NON_NEGATIVE }
        Rprop { lr: NON_NEGATIVE, step_sizes.0: EPS }
        Lion { lr: NON_NEGATIVE, betas.0: DECAY_RATE, betas.1: DECAY_RATE, weight_decay: NON_NEGATIVE }
        AdaBelief { lr: NON_NEGATIVE, betas.0: DECAY_RATE, betas.1: DECAY_RATE, eps: EPS, eps_root: EPS }
        OAdam {
            lr: NON_NEGATIVE, alpha: NON_NEGATIVE, beta: NON_NEGATIVE, betas.0: DECAY_RATE, betas.1: DECAY_RATE, eps: EPS,
            eps_root: EPS,
        }
        Lamb {
            lr: NON_NEGATIVE, betas.0: DECAY_RATE, betas.1: DECAY_RATE, eps: EPS, eps_root: EPS,
            weight_decay: NON_NEGATIVE,
        }
        Lars { lr: NON_NEGATIVE, weight_decay: NON_NEGATIVE, trust_coefficient: NON_NEGATIVE, eps: EPS, momentum: NON_NEGATIVE }
        WeightDecay { weight_decay: NON_NEGATIVE }
        SignDecay { sign_decay: NON_NEGATIVE }
        ClipValue { max: MAXIMUM }
        ClipNorm { max: MAXIMUM }
        ClipNormPerLeaf { max: MAXIMUM }
    }
}

#[test]
fn fields_with_bounds_of_their_own() {
    let etas = |shrinking, growing| {
        message(Rprop {
            etas: (shrinking, growing),
            ..Rprop::default()
        })
    };
    for eta in [0.0, 1.0, 1.0 - 1e-10, -0.5, f64::NAN] {
        assert_eq!(
            etas(eta, 1.2),
            format!("`etas.0`: expected a number between 0 and 1, found {eta}")
        );
    }
    for eta in [1.0, 1.0 + 1e-10, 0.5, f64::INFINITY, f64::NAN] {
        assert_eq!(
            etas(0.5, eta),
            format!("`etas.1`: expected a finite number above 1, found {eta}")
        );
    }
    for greatest in [0.5, f64::INFINITY, f64::NAN] {
        let found = message(Rprop {
            step_sizes: (1.0, greatest),
            ..Rprop::default()
        });
        assert_eq!(
            found,
            format!(
                "`step_sizes.1`: expected a finite number of `step_sizes.0` or more, found {greatest}"
            )
        );
    }
    for p in [0.0, -1.0, f64::NAN] {
        assert_eq!(
            message(ClipNorm {
                p,
                ..ClipNorm::default()
            }),
            format!("`p`: expected an order above 0, found {p}")
        );
        assert_eq!(
            message(ClipNormPerLeaf {
                p,
                ..ClipNormPerLeaf::default()
            }),
            format!("`p`: expected an order above 0, found {p}")
        );
    }
    for decay in [-0.1, 1.1, f64::NAN] {
        assert_eq!(
            message(Ema {
                decay,
                ..Ema::default()
            }),
            format!("`decay`: expected a number from 0 to 1, found {decay}")
        );
    }
    assert_eq!(
        message(Muon {
            ns_steps: 100,
            ..Muon::default()
        }),
        "`ns_steps`: expected fewer than 100, found 100"
    );
    assert_eq!(
        message(Accumulate { steps: 0 }),
        "`steps`: expected 1 or more, found 0"
    );
    assert_eq!(
        message(Swa { start: 3, every: 0 }),
        "`every`: expected 1 or more, found 0"
    );
}

#[test]
fn nesterov_needs_momentum_and_no_dampening() {
    let expected =
        |found| format!("`nesterov`: expected momentum above 0 and dampening of 0, found {found}");
    assert_eq!(
        message(Sgd {
            nesterov: true,
            ..Sgd::default()
        }),
        expected("momentum of 0 and dampening of 0")
    );
    assert_eq!(
        message(Sgd {
            nesterov: true,
            momentum: 0.9,
            dampening: 0.1,
            ..Sgd::default()
        }),
        expected("momentum of 0.9 and dampening of 0.1")
    );
}

#[test]
fn a_chain_checks_every_stage() {
    let rule = (
        ClipValue { max: 1.0 },
        (
            WeightDecay::default(),
            Lion {
                lr: -1.0,
                ..Lion::default()
            },
        ),
    );
    assert_eq!(
        message(rule),
        "`lr`: expected a finite number of 0 or more, found -1"
    );
}

#[test]
fn a_rate_is_checked_whenever_it_changes() {
    let layout = Layout::of(&tree!({ "w": [1.0] })).unwrap();
    let mut optimizer = Optimizer::new(RAdam::default(), &layout).unwrap();
    assert_eq!(
        optimizer.set_lr(f64::NAN).unwrap_err().to_string(),
        "`lr`: expected a finite number of 0 or more, found NaN"
    );
    assert_eq!(
        optimizer
            .adjust("w", |rule| rule.betas.1 = 1.0)
            .unwrap_err()
            .to_string(),
        "`betas.1`: expected a number from 0 to below 1, found 1"
    );
    assert_eq!(optimizer.rule("w"), Some(&RAdam::default()));
}

/// `set_lr` sets the rate of every rule that has one.
#[test]
fn every_rate_can_be_set() {
    macro_rules! check {
        ($($rule:ident)*) => {$(
            let mut rule = $rule::default();
            assert!(rule.set_lr(0.25));
            assert_eq!(rule, $rule { lr: 0.25, ..$rule::default() });
        )*};
    }
    check!(Sgd Adam AdamW NAdam RAdam Adamax AdaGrad AdaDelta RmsProp Rprop Lion AdaBelief OAdam Lamb Lars);
}

/// Fields are finite as f32, and so is what they make together: a rate of 1e38 by a correction of
/// ten is beyond any f32, and infinity times a gradient of 0 would be NaN.
#[test]
fn the_greatest_numbers_leave_a_gradient_of_zero_alone() {
    macro_rules! check {
        ($($rule:ident)*) => {$(
            let rule = $rule { lr: f32::MAX.into(), ..$rule::default() };
            let mut flat = vec![0.0_f32];
            let layout = Layout::of(&flat).unwrap();
            let mut optimizer = Optimizer::new(rule, &layout).unwrap();
            for _ in 0..8 {
                let zero = FlatGrad::from_flat(&layout, vec![0.0]).unwrap();
                optimizer.step(&mut flat, &zero).unwrap();
                assert_eq!(flat, [0.0], "{}", stringify!($rule));
            }
        )*};
    }
    check!(Sgd Adam AdamW NAdam RAdam Adamax AdaGrad AdaDelta RmsProp Rprop Lion AdaBelief OAdam Lamb Lars);
}

/// A configuration that was stored by an earlier version lacks the newest fields.
#[cfg(feature = "serde")]
#[test]
fn a_field_that_is_not_stored_is_the_default() {
    macro_rules! check {
        ($($rule:ident)*) => {$(
            let read: $rule = serde_json::from_str("{}").unwrap();
            assert_eq!(read, $rule::default());
            let error = serde_json::from_str::<$rule>(r#"{ "typo": 1 }"#).unwrap_err();
            assert!(error.to_string().contains("unknown field `typo`"), "{error}");
        )*};
    }
    check!(Sgd Adam AdamW NAdam RAdam Adamax AdaGrad AdaDelta RmsProp Rprop Lion AdaBelief OAdam Lamb Lars);
    check!(WeightDecay SignDecay);
    let read: Adam = serde_json::from_str(r#"{ "lr": 0.5 }"#).unwrap();
    assert_eq!((read.lr, read.eps), (0.5, 1e-8));
}
