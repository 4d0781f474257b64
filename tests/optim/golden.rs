//! The rules against PyTorch and Optax: 20 steps on fixed gradients, and some where squares
//! overflow, written down by `golden/generate.py`.

use std::collections::BTreeMap;

use flatleaf::optim::{
    AdaBelief, AdaDelta, AdaGrad, Adam, AdamW, Adamax, ClipNorm, ClipValue, Ema, Lamb, Lars, Lion,
    Muon, NAdam, OAdam, Optimizer, RAdam, RmsProp, Rprop, Rule, Sgd,
};
use flatleaf::{Layout, Tree, destructure};
use ndarray::ArrayD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::common::bits;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    leaves: Vec<LeafOf>,
    initial: Leaves,
    gradients: Vec<Leaves>,
    gradients_with_absent: Vec<Leaves>,
    records: Vec<Record>,
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
    parameters: Vec<Vec<f32>>,
    averages: Option<Vec<Vec<f32>>>,
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
struct Net {
    weight: Option<ArrayD<f32>>,
    bias: Option<ArrayD<f32>>,
    scale: Option<ArrayD<f32>>,
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

fn golden(text: &str) -> Golden {
    serde_json::from_str(text).unwrap()
}

impl Golden {
    /// Checks all records, of which there are so many.
    fn check(&self, peer: &str, records: usize) {
        assert_eq!(self.records.len(), records);
        for record in &self.records {
            assert_eq!(record.peer, peer);
            self.check_rule(record);
        }
    }

    fn check_rule(&self, record: &Record) {
        match record.rule.as_str() {
            "Sgd" => self.check_chain::<Sgd>(record),
            "Adam" => self.check_chain::<Adam>(record),
            "AdamW" => self.check_chain::<AdamW>(record),
            "NAdam" => self.check_chain::<NAdam>(record),
            "RAdam" => self.check_chain::<RAdam>(record),
            "Adamax" => self.check_chain::<Adamax>(record),
            "AdaGrad" => self.check_chain::<AdaGrad>(record),
            "AdaDelta" => self.check_chain::<AdaDelta>(record),
            "RmsProp" => self.check_chain::<RmsProp>(record),
            "Rprop" => self.check_chain::<Rprop>(record),
            "Lion" => self.check_chain::<Lion>(record),
            "AdaBelief" => self.check_chain::<AdaBelief>(record),
            "OAdam" => self.check_chain::<OAdam>(record),
            "Muon" => self.check_chain::<Muon>(record),
            "Lamb" => self.check_chain::<Lamb>(record),
            "Lars" => self.check_chain::<Lars>(record),
            other => panic!("`{}`: no rule `{other}`", record.name),
        }
    }

    /// The rule with the stages that the record names.
    fn check_chain<R: Rule + Default + Serialize + DeserializeOwned>(&self, record: &Record) {
        let rule: R = configured(&record.config);
        let ema: Option<Ema> = record.ema.as_ref().map(configured);
        let clip_norm = record.clip_norm.map(|max| ClipNorm {
            max,
            ..Default::default()
        });
        let clip_value = record.clip_value.map(|max| ClipValue { max });
        match (clip_norm, clip_value, ema) {
            (None, None, None) => self.run(record, rule),
            (Some(clip), None, None) => self.run(record, (clip, rule)),
            (None, Some(clip), None) => self.run(record, (clip, rule)),
            (None, None, Some(ema)) => self.run(record, (rule, ema)),
            (Some(clip), None, Some(ema)) => self.run(record, (clip, rule, ema)),
            _ => panic!("`{}`: no such chain", record.name),
        }
    }

    /// On the flat vector and on a tree, which are to agree to the bit.
    fn run<R: Rule>(&self, record: &Record, rule: R) {
        let mut model = self.net(&self.initial);
        let (mut flat, layout) = destructure(&model).unwrap();
        let mut on_flat = optimizer(record, rule, &layout);
        let mut on_tree = on_flat.clone();
        let gradients = if record.absent {
            &self.gradients_with_absent
        } else {
            &self.gradients
        };
        assert_eq!(record.parameters.len(), gradients.len(), "{}", record.name);
        for (step, gradient) in gradients.iter().enumerate() {
            for change in record.set_lr.iter().filter(|change| change.step == step) {
                on_flat.set_lr(change.lr).unwrap();
                on_tree.set_lr(change.lr).unwrap();
            }
            let grads = self.net(gradient);
            on_flat
                .step(&mut flat, &layout.gather_grad(&grads).unwrap())
                .unwrap();
            on_tree.update(&mut model, &grads).unwrap();
            assert_close(record, step, &flat, &record.parameters[step]);
            assert_eq!(
                bits(&layout.gather(&model).unwrap()),
                bits(&flat),
                "{}: on the tree, step {step}",
                record.name
            );
            if let Some(averages) = &record.averages {
                assert_close(
                    record,
                    step,
                    on_flat.state_of("average").unwrap(),
                    &averages[step],
                );
            }
        }
    }

    fn net(&self, leaves: &Leaves) -> Net {
        let mut leaves = self.leaves.iter().zip(leaves).map(|(leaf, elements)| {
            let elements = elements.clone()?;
            Some(ArrayD::from_shape_vec(leaf.shape.as_slice(), elements).unwrap())
        });
        // Some files have fewer leaves.
        let mut next = || leaves.next().flatten();
        Net {
            weight: next(),
            bias: next(),
            scale: next(),
        }
    }
}

fn optimizer<R: Rule>(record: &Record, rule: R, layout: &Layout) -> Optimizer<R> {
    let mut optimizer = Optimizer::new(rule, layout).unwrap();
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

fn assert_close(record: &Record, step: usize, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{}", record.name);
    for (index, (&ours, &theirs)) in ours.iter().zip(theirs).enumerate() {
        let tolerance = if record.bfloat16 { 1e-2 } else { 3e-6 };
        let allowed = tolerance * f64::from(theirs).abs().max(0.1);
        let difference = (f64::from(ours) - f64::from(theirs)).abs();
        assert!(
            difference <= allowed,
            "{}: step {step}, element {index}: {} has {theirs}, we have {ours}",
            record.name,
            record.peer
        );
    }
}
