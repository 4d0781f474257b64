//! Bytes as a program that steps and changes settings in between: after every statement the
//! optimiser is where one plain loop is.

mod naive;

use std::ops::Range;

use arbitrary::{Result, Unstructured};
use flatleaf::ops::NonFinite;
use flatleaf::optim::{Accumulate, ClipNorm, Ema, Optimizer, Sgd, Snapshot};
use flatleaf::{DynTree, Layout, tree};

use naive::{Grads, LEAVES, MAX, Naive};

type Chain = (Accumulate, ClipNorm, Sgd, Ema);

const PATHS: [&str; LEAVES] = ["a", "b", "c"];

/// Whether the bytes are a program of at least one step.
pub(crate) fn agrees(bytes: &[u8]) -> bool {
    let mut program = Program::new();
    let mut bytes = Unstructured::new(bytes);
    while !bytes.is_empty() && program.statement(&mut bytes).is_ok() {
        program.check();
    }
    program.naive.leaves.iter().any(|leaf| leaf.steps > 0)
}

/// The optimiser and the loop, side by side.
struct Program {
    layout: Layout,
    flat: Vec<f32>,
    optimizer: Optimizer<Chain>,
    naive: Naive,
}

impl Program {
    fn new() -> Self {
        let model = tree!({ "a": [0.0], "b": [0.0], "c": [0.0] });
        let layout = Layout::of(&model).expect("a model");
        let windows = Accumulate { steps: 2 };
        let clip = ClipNorm {
            max: MAX,
            non_finite: NonFinite::Skip,
            ..ClipNorm::default()
        };
        let sgd = Sgd {
            lr: 0.5,
            momentum: 0.5,
            ..Sgd::default()
        };
        let ema = Ema {
            decay: 0.75,
            debias: true,
            ..Ema::default()
        };
        Program {
            optimizer: Optimizer::new((windows, clip, sgd, ema), &layout).expect("a rule"),
            flat: vec![0.0; LEAVES],
            layout,
            naive: Naive::new(2.0, 0.5, 0.75),
        }
    }

    /// Draws one statement and carries it out on both sides.
    fn statement(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        match bytes.int_in_range(0..=13)? {
            0 => self.change_windows(bytes)?,
            1 => self.set_lr(bytes)?,
            2 => self.change_decay(bytes)?,
            3 => self.freeze(bytes, true)?,
            4 => self.freeze(bytes, false)?,
            5 => self.store_and_resume(),
            6 => {
                self.naive.flush();
                self.optimizer.flush(&mut self.flat).expect("finite");
            }
            7 => {
                self.naive.reset();
                self.optimizer.reset("**").expect("there are leaves");
            }
            _ => self.step(bytes)?,
        }
        Ok(())
    }

    fn change_windows(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let (pattern, leaves) = selection(bytes)?;
        let steps = bytes.int_in_range(1..=4)?;
        let change = |rule: &mut Chain| rule.0.steps = steps;
        self.optimizer.adjust(pattern, change).expect("a window");
        let leaves = &mut self.naive.leaves[leaves];
        leaves
            .iter_mut()
            .for_each(|leaf| leaf.window = steps as f64);
        Ok(())
    }

    /// Of one leaf as a group of its own, or of all at once.
    fn set_lr(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let (pattern, leaves) = selection(bytes)?;
        let lr = f64::from(bytes.int_in_range(0..=4)?) / 8.0;
        if leaves.len() == LEAVES {
            self.optimizer.set_lr(lr).expect("a rate");
        } else {
            let change = |rule: &mut Chain| rule.2.lr = lr;
            self.optimizer.adjust(pattern, change).expect("a rate");
        }
        let leaves = &mut self.naive.leaves[leaves];
        leaves.iter_mut().for_each(|leaf| leaf.lr = lr);
        Ok(())
    }

    fn change_decay(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let (pattern, leaves) = selection(bytes)?;
        let decay = f64::from(bytes.int_in_range(1..=7)?) / 8.0;
        let change = |rule: &mut Chain| rule.3.decay = decay;
        self.optimizer.adjust(pattern, change).expect("a decay");
        let leaves = &mut self.naive.leaves[leaves];
        leaves.iter_mut().for_each(|leaf| leaf.decay = decay);
        Ok(())
    }

    fn freeze(&mut self, bytes: &mut Unstructured<'_>, is_frozen: bool) -> Result<()> {
        let (pattern, leaves) = selection(bytes)?;
        let change = match is_frozen {
            true => Optimizer::freeze,
            false => Optimizer::thaw,
        };
        change(&mut self.optimizer, pattern).expect("there are leaves");
        let leaves = &mut self.naive.leaves[leaves];
        leaves
            .iter_mut()
            .for_each(|leaf| leaf.is_frozen = is_frozen);
        Ok(())
    }

    /// As another process would go on, from text.
    fn store_and_resume(&mut self) {
        let stored = serde_json::to_vec(&self.optimizer.snapshot()).expect("a snapshot");
        let snapshot: Snapshot<Chain> = serde_json::from_slice(&stored).expect("as it was written");
        self.optimizer = Optimizer::resume(snapshot, &self.layout).expect("of this layout");
    }

    /// A step of the flat vector, of a tree, or of leaves that are lent one at a time.
    fn step(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let mut grads: Grads = [None; LEAVES];
        for grad in &mut grads {
            *grad = gradient(bytes)?;
        }
        let slices = grads.map(|grad| grad.map(|grad| [grad as f32]));
        let report = match bytes.int_in_range(0..=2)? {
            0 => {
                let grad = self
                    .layout
                    .gather_grad(&tree_of(slices))
                    .expect("its paths");
                self.optimizer.step(&mut self.flat, &grad)
            }
            1 => {
                let flat = &self.flat;
                let mut model = tree!({ "a": [flat[0]], "b": [flat[1]], "c": [flat[2]] });
                let report = self.optimizer.update(&mut model, &tree_of(slices));
                self.flat = self.layout.gather(&model).expect("its layout");
                report
            }
            _ => {
                let grads = slices
                    .each_ref()
                    .map(|grad| grad.as_ref().map(|grad| &grad[..]));
                let flat = &mut self.flat;
                self.optimizer.update_each(&grads, |leaf, step| {
                    step(&mut flat[leaf..=leaf]);
                    Ok(())
                })
            }
        };
        let is_taken = self.naive.step(grads);
        assert_eq!(report.expect("no refusal").skipped, !is_taken);
        Ok(())
    }

    fn check(&self) {
        let averages = self.optimizer.state_of("average").expect("a last stage");
        for (index, leaf) in self.naive.leaves.iter().enumerate() {
            let path = PATHS[index];
            assert_eq!(self.optimizer.step_count(path), Some(leaf.steps), "{path}");
            assert_near(path, self.flat[index], leaf.x);
            assert_near(path, averages[index], leaf.average);
        }
    }
}

fn assert_near(path: &str, found: f32, expected: f64) {
    let distance = (f64::from(found) - expected).abs();
    let allowed = 1e-4 * (1.0 + expected.abs());
    assert!(distance < allowed, "`{path}`: {found}, not {expected}");
}

/// One leaf or all of them, by pattern and by index.
fn selection(bytes: &mut Unstructured<'_>) -> Result<(&'static str, Range<usize>)> {
    let index = bytes.int_in_range(0..=LEAVES)?;
    Ok(match PATHS.get(index) {
        Some(path) => (path, index..index + 1),
        None => ("**", 0..LEAVES),
    })
}

/// None, one that is not finite, or a multiple of 1/16.
fn gradient(bytes: &mut Unstructured<'_>) -> Result<Option<f64>> {
    let number = bytes.int_in_range(0..=255_u8)?;
    Ok(match number {
        0..64 => None,
        64 => Some(f64::NAN),
        65 => Some(f64::INFINITY),
        _ => Some(f64::from(number) / 32.0 - 5.0),
    })
}

fn tree_of([a, b, c]: [Option<[f32; 1]>; LEAVES]) -> DynTree {
    let leaf = |grad: Option<[f32; 1]>| grad.map_or(tree!(null), |[grad]| tree!([grad]));
    tree!({ "a": (leaf(a)), "b": (leaf(b)), "c": (leaf(c)) })
}
