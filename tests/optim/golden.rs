//! The rules against PyTorch and Optax: 20 steps on fixed gradients, in f32 and in f64, of real
//! numbers and of complex ones, and some where squares overflow, written down by
//! `golden/generate.py`.

use std::collections::BTreeMap;

use flatleaf::optim::{
    AdaBelief, AdaDelta, AdaGrad, Adam, AdamW, Adamax, ClipNorm, ClipValue, Ema, Lamb, Lars, Lion,
    Muon, NAdam, OAdam, Optimizer, RAdam, RmsProp, Rprop, RuleFor, Sgd,
};
use flatleaf::{ArrayElement, FlatElement, Layout, Tree, destructure_as};
use ndarray::ArrayD;
#[cfg(feature = "num-complex")]
use num_complex::Complex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    leaves: Vec<LeafOf>,
    initial: Leaves,
    gradients: Vec<Leaves>,
    gradients_with_absent: Vec<Leaves>,
    records: Vec<Record>,
    /// Whether the last axis of the leaves is that of complex numbers.
    #[serde(skip)]
    is_complex: bool,
}

#[derive(Deserialize)]
struct LeafOf {
    shape: Vec<usize>,
}

/// The elements of each leaf, in row-major order; of a gradient, some may be absent.
type Leaves = Vec<Option<Vec<f32>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: String,
    rule: String,
    peer: String,
    config: Map<String, Value>,
    absent: bool,
    /// Whether PyTorch rounded to it on the way, which we do not.
    #[serde(default)]
    bfloat16: bool,
    #[serde(default)]
    set_lr: Vec<SetLr>,
    #[serde(default)]
    groups: BTreeMap<String, Group>,
    clip_norm: Option<f64>,
    clip_value: Option<f64>,
    ema: Option<Map<String, Value>>,
    parameters: Vec<Vec<f64>>,
    averages: Option<Vec<Vec<f64>>>,
}

/// What the records of other files come to in f64.
#[derive(Deserialize)]
struct Doubles {
    /// After which steps.
    steps: Vec<usize>,
    records: Vec<DoublesOf>,
}

#[derive(Deserialize)]
struct DoublesOf {
    name: String,
    peer: String,
    parameters: Vec<Vec<f64>>,
    averages: Option<Vec<Vec<f64>>>,
}

/// What a peer has after some steps.
struct Expected<'g> {
    steps: Vec<usize>,
    parameters: &'g [Vec<f64>],
    averages: Option<&'g [Vec<f64>]>,
    tolerance: f64,
    is_f64: bool,
}

#[derive(Deserialize)]
struct SetLr {
    step: usize,
    lr: f64,
}

#[derive(Deserialize)]
struct Group {
    lr: f64,
}

#[derive(Tree)]
struct Net<E: ArrayElement> {
    weight: Option<ArrayD<E>>,
    bias: Option<ArrayD<E>>,
    scale: Option<ArrayD<E>>,
}

#[test]
fn rules_do_as_pytorch() {
    golden(include_str!("golden/torch.json")).check("torch", 61);
}

/// Where squares overflow, as long as PyTorch is finite.
#[test]
fn rules_do_as_pytorch_where_squares_overflow() {
    golden(include_str!("golden/extremes.json")).check("torch", 10);
}

/// Matrices alone, as PyTorch's Muon takes nothing else.
#[test]
fn muon_does_as_pytorch() {
    golden(include_str!("golden/muon.json")).check("torch", 9);
}

#[test]
fn rules_do_as_optax() {
    golden(include_str!("golden/optax.json")).check("optax", 27);
}

/// Every rule of PyTorch that takes complex numbers; Lion, AdaBelief and others are Optax's.
#[cfg(feature = "num-complex")]
#[test]
fn rules_do_with_complex_numbers_as_pytorch() {
    complex().check("torch", 16);
}

/// In f64 throughout, to a relative 1e-12.
#[test]
fn rules_do_in_f64_as_pytorch_and_optax() {
    let doubles: Doubles = serde_json::from_str(include_str!("golden/doubles.json")).unwrap();
    let files = [
        golden(include_str!("golden/torch.json")),
        golden(include_str!("golden/optax.json")),
        golden(include_str!("golden/muon.json")),
        complex(),
    ];
    let records = files.iter().flat_map(|file| {
        let records = file.records.iter().filter(|record| !record.bfloat16);
        records.map(move |record| (file, record))
    });
    let mut checked = 0;
    for ((file, record), wide) in records.zip(&doubles.records) {
        assert_eq!((&record.name, &record.peer), (&wide.name, &wide.peer));
        let expected = Expected {
            steps: doubles.steps.clone(),
            parameters: &wide.parameters,
            averages: wide.averages.as_deref(),
            tolerance: 1e-12,
            is_f64: true,
        };
        file.check_rule(record, &expected);
        checked += 1;
    }
    assert_eq!((checked, doubles.records.len()), (111, 111));
}

fn golden(text: &str) -> Golden {
    serde_json::from_str(text).unwrap()
}

/// The leaves of complex numbers; of real ones with an axis of two where there are no others.
fn complex() -> Golden {
    Golden {
        is_complex: cfg!(feature = "num-complex"),
        ..golden(include_str!("golden/complex.json"))
    }
}

impl Golden {
    /// Checks all records, of which there are so many.
    fn check(&self, peer: &str, records: usize) {
        assert_eq!(self.records.len(), records);
        for record in &self.records {
            assert_eq!(record.peer, peer);
            let expected = Expected {
                steps: (0..self.gradients.len()).collect(),
                parameters: &record.parameters,
                averages: record.averages.as_deref(),
                tolerance: if record.bfloat16 { 1e-2 } else { 3e-6 },
                is_f64: false,
            };
            self.check_rule(record, &expected);
        }
    }

    fn check_rule(&self, record: &Record, expected: &Expected<'_>) {
        match record.rule.as_str() {
            "Sgd" => self.check_chain::<Sgd>(record, expected),
            "Adam" => self.check_chain::<Adam>(record, expected),
            "AdamW" => self.check_chain::<AdamW>(record, expected),
            "NAdam" => self.check_chain::<NAdam>(record, expected),
            "RAdam" => self.check_chain::<RAdam>(record, expected),
            "Adamax" => self.check_chain::<Adamax>(record, expected),
            "AdaGrad" => self.check_chain::<AdaGrad>(record, expected),
            "AdaDelta" => self.check_chain::<AdaDelta>(record, expected),
            "RmsProp" => self.check_chain::<RmsProp>(record, expected),
            "Rprop" => self.check_chain::<Rprop>(record, expected),
            "Lion" => self.check_chain::<Lion>(record, expected),
            "AdaBelief" => self.check_chain::<AdaBelief>(record, expected),
            "OAdam" => self.check_chain::<OAdam>(record, expected),
            "Muon" => self.check_chain::<Muon>(record, expected),
            "Lamb" => self.check_chain::<Lamb>(record, expected),
            "Lars" => self.check_chain::<Lars>(record, expected),
            other => panic!("`{}`: no rule `{other}`", record.name),
        }
    }

    /// The rule with the stages that the record names.
    fn check_chain<R>(&self, record: &Record, expected: &Expected<'_>)
    where
        R: RuleFor<f64> + Default + Serialize + DeserializeOwned,
    {
        let rule: R = configured(&record.config);
        let ema: Option<Ema> = record.ema.as_ref().map(configured);
        let clip_norm = record.clip_norm.map(|max| ClipNorm {
            max,
            ..Default::default()
        });
        let clip_value = record.clip_value.map(|max| ClipValue { max });
        match (clip_norm, clip_value, ema) {
            (None, None, None) => self.run(record, rule, expected),
            (Some(clip), None, None) => self.run(record, (clip, rule), expected),
            (None, Some(clip), None) => self.run(record, (clip, rule), expected),
            (None, None, Some(ema)) => self.run(record, (rule, ema), expected),
            (Some(clip), None, Some(ema)) => self.run(record, (clip, rule, ema), expected),
            _ => panic!("`{}`: no such chain", record.name),
        }
    }

    fn run<R: RuleFor<f64>>(&self, record: &Record, rule: R, expected: &Expected<'_>) {
        match expected.is_f64 {
            true => self.run_as::<R, f64>(record, rule, expected),
            false => self.run_as::<R, f32>(record, rule, expected),
        }
    }

    /// On the flat vector and on a tree, which are to agree to the bit.
    fn run_as<R: RuleFor<E>, E: FlatElement>(
        &self,
        record: &Record,
        rule: R,
        expected: &Expected<'_>,
    ) {
        let mut model = self.net::<E>(&self.initial);
        let (mut flat, layout) = destructure_as::<E>(&*model).unwrap();
        let mut on_flat = optimizer(record, rule, &layout);
        let mut on_tree = on_flat.clone();
        let gradients = if record.absent {
            &self.gradients_with_absent
        } else {
            &self.gradients
        };
        assert_eq!(expected.parameters.len(), expected.steps.len());
        for (step, gradient) in gradients.iter().enumerate() {
            for change in record.set_lr.iter().filter(|change| change.step == step) {
                on_flat.set_lr(change.lr).unwrap();
                on_tree.set_lr(change.lr).unwrap();
            }
            let grads = self.net::<E>(gradient);
            on_flat
                .step(&mut flat, &layout.gather_grad_as(&*grads).unwrap())
                .unwrap();
            on_tree.update(&mut *model, &*grads).unwrap();
            let of_tree = layout.gather_as::<E>(&*model).unwrap();
            assert!(
                bytemuck::cast_slice::<E, u8>(&of_tree) == bytemuck::cast_slice::<E, u8>(&flat),
                "{}: on the tree, step {step}",
                record.name
            );
            let Some(at) = expected.steps.iter().position(|kept| *kept == step) else {
                continue;
            };
            let what = format!("{}: step {step}", record.name);
            assert_close(&what, &flat, &expected.parameters[at], expected.tolerance);
            if let Some(averages) = &expected.averages {
                let average = on_flat.state_of("average").unwrap();
                assert_close(&what, average, &averages[at], expected.tolerance);
            }
        }
    }

    fn net<E: FlatElement>(&self, leaves: &Leaves) -> Box<dyn Tree> {
        let leaves = self.leaves.iter().zip(leaves).map(|(leaf, elements)| {
            let elements = elements.as_ref()?.iter();
            let elements = elements.map(|&x| E::from_f64(x.into())).collect();
            Some(ArrayD::from_shape_vec(leaf.shape.as_slice(), elements).unwrap())
        });
        if !self.is_complex {
            return Box::new(net_of(leaves));
        }
        #[cfg(feature = "num-complex")]
        return Box::new(net_of(leaves.map(|leaf| Some(complex_of(&leaf?)))));
        #[cfg(not(feature = "num-complex"))]
        unreachable!("no leaf is complex");
    }
}

fn net_of<E: ArrayElement>(mut leaves: impl Iterator<Item = Option<ArrayD<E>>>) -> Net<E> {
    // Some files have fewer leaves.
    let mut next = || leaves.next().flatten();
    Net {
        weight: next(),
        bias: next(),
        scale: next(),
    }
}

/// Real and imaginary parts along the last axis, as complex numbers.
#[cfg(feature = "num-complex")]
fn complex_of<E: FlatElement>(parts: &ArrayD<E>) -> ArrayD<Complex<E>> {
    let last = ndarray::Axis(parts.ndim() - 1);
    parts.map_axis(last, |pair| Complex::new(pair[0], pair[1]))
}

fn optimizer<R: RuleFor<E>, E: FlatElement>(
    record: &Record,
    rule: R,
    layout: &Layout,
) -> Optimizer<R, E> {
    let mut optimizer = Optimizer::new_as(rule, layout).unwrap();
    for (path, group) in &record.groups {
        let change = |rule: &mut R| assert!(rule.set_lr(group.lr));
        optimizer.adjust(path, change).unwrap();
    }
    optimizer
}

/// The defaults, but for the fields that are given.
fn configured<R: Default + Serialize + DeserializeOwned>(fields: &Map<String, Value>) -> R {
    let mut rule = serde_json::to_value(R::default()).unwrap();
    rule.as_object_mut().unwrap().extend(fields.clone());
    serde_json::from_value(rule).unwrap()
}

/// To a share of max(|theirs|, 0.1).
fn assert_close<E: FlatElement>(what: &str, ours: &[E], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (index, (&ours, &theirs)) in ours.iter().zip(theirs).enumerate() {
        let ours: f64 = ours.into();
        assert!(
            (ours - theirs).abs() <= tolerance * theirs.abs().max(0.1),
            "{what}, element {index}: the peer has {theirs}, we have {ours}"
        );
    }
}
