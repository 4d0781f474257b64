//! Which stages of one rule go on in another, when an optimiser's state is carried over.
//!
//! A stage is its vectors and what is counted for them, and both go over together or not at all:
//! moments of zero at step 1,000 would be divided by roots that are nearly 0, and old moments at
//! step 1 would be taken for ten times what they are. So a stage goes on from one that keeps all of
//! its vectors and counts the same numbers, and begins anew otherwise. (A maximum so far, as
//! amsgrad's, may be missing: zero is what it is before the first step, and does no harm at a later
//! one.) An example, from
//! `(Adam, Ema)` to `(ClipNorm, AdaBelief, Ema)`:
//!
//! ```text
//! old stage  vectors                                  new stage   vectors
//! Adam       exp_avg, exp_avg_sq, max_exp_avg_sq      ClipNorm                          has the leaf's steps
//! Ema        average                                  AdaBelief   exp_avg, exp_avg_var  begins anew
//!                                                     Ema         average               goes on from Ema
//! ```
//!
//! `exp_avg` alone would fit, and is given up: it is the half of a stage.

use std::ops::Range;

use super::rule::{Rule, StageState};

/// What an optimiser of one rule takes over from the state of another.
pub(super) struct Carried {
    /// For each state vector of the new rule, in order, the old one that it goes on from.
    pub(super) vectors: Vec<Option<usize>>,
    stages: Vec<CarriedStage>,
    old: Vec<Stage>,
    /// How many numbers the old rule counts.
    old_counted: usize,
}

struct CarriedStage {
    stage: Stage,
    /// Which stage of the old rule it goes on from.
    from: Option<usize>,
}

/// A stage, by where its numbers and vectors are among those of its rule.
struct Stage {
    counted: Range<usize>,
    counters: Vec<&'static str>,
    first_vector: usize,
    vectors: Vec<&'static str>,
    /// Those of the vectors that are as good at zero, whatever the step.
    zero_at_any_step: &'static [&'static str],
}

impl Stage {
    /// Whether a stage with these vectors and numbers can go on from this one.
    fn has_all_of(&self, new: &Stage) -> bool {
        if self.counters != new.counters {
            return false;
        }
        let vectors = new.vectors.iter();
        let mut needed = vectors.filter(|vector| !new.zero_at_any_step.contains(vector));
        needed.all(|vector| self.vectors.contains(vector))
    }

    /// Which of the rule's vectors is the one with this name.
    fn vector(&self, name: &str) -> Option<usize> {
        let mut names = self.vectors.iter();
        let place = names.position(|other| *other == name)?;
        Some(self.first_vector + place)
    }

    fn is_alike(&self, other: &Stage) -> bool {
        self.vectors == other.vectors && self.counters == other.counters
    }
}

impl Carried {
    /// From an old rule's state to a new rule's.
    pub(super) fn between<Old, New>(old: &Old, new: &New) -> Self
    where
        Old: Rule,
        New: Rule,
    {
        let olds = stages_of(old);
        let news = stages_of(new);
        let origins = (0..news.len()).map(|at| origin(&olds, &news, at));
        let origins: Vec<Option<usize>> = origins.collect();
        let mut vectors = Vec::new();
        let mut stages = Vec::new();
        for (stage, from) in news.into_iter().zip(origins) {
            let old = from.map(|from| &olds[from]);
            for name in &stage.vectors {
                let vector = old.and_then(|old| old.vector(name));
                vectors.push(vector);
            }
            stages.push(CarriedStage { stage, from });
        }
        Carried {
            vectors,
            stages,
            old: olds,
            old_counted: 1 + old.counters().len(),
        }
    }

    /// Sets what is counted of a leaf, of what the old rule counted of it: steps first, then its
    /// counters. A snapshot from before stages counted by themselves has the leaf's steps alone.
    pub(super) fn count(&self, counted: &[f64], steps: u64, own: &mut [f64]) {
        let is_known = counted.len() == self.old_counted;
        own.fill(0.0);
        own[0] = if is_known { counted[0] } else { steps as f64 };
        for CarriedStage { stage, from } in &self.stages {
            let numbers = &mut own[stage.counted.clone()];
            numbers.fill(0.0);
            match from {
                Some(from) if is_known => {
                    let old = self.old[*from].counted.clone();
                    numbers.copy_from_slice(&counted[old]);
                }
                Some(_) => numbers[0] = steps as f64,
                // What keeps nothing has nothing to begin anew: a schedule of a leaf's steps, say.
                None if stage.vectors.is_empty() => numbers[0] = steps as f64,
                None => {}
            }
        }
    }
}

/// The old stage from which a new one goes on. Of several that would do it is the one at the same
/// place among them, if there are as many of them as of the new one's kind: otherwise nobody can
/// say which it is.
fn origin(olds: &[Stage], news: &[Stage], at: usize) -> Option<usize> {
    let new = &news[at];
    let fits = |old: &Stage| match new.vectors.is_empty() {
        // A stage without vectors would fit any: it goes on only from one of its own kind.
        true => old.is_alike(new),
        false => old.has_all_of(new),
    };
    let fitting = (0..olds.len()).filter(|old| fits(&olds[*old]));
    let fitting: Vec<usize> = fitting.collect();
    let alike = |stages: &[Stage]| {
        let alike = stages.iter().filter(|stage| stage.is_alike(new));
        alike.count()
    };
    if fitting.len() != alike(news) {
        return None;
    }
    let nth = alike(&news[..at]);
    fitting.get(nth).copied()
}

fn stages_of<R: Rule>(rule: &R) -> Vec<Stage> {
    // Numbers that say where they are, so that each stage shows which are its own.
    let count = 1 + rule.counters().len();
    let mut places: Vec<f64> = (0..count).map(|place| place as f64).collect();
    let mut stages: Vec<Stage> = Vec::new();
    let mut next_vector = 0;
    let mut note = |stage: StageState<'_>| {
        let start = stage.progress[0] as usize;
        let end = start + stage.progress.len();
        stages.push(Stage {
            counted: start..end,
            counters: stage.counters.to_vec(),
            first_vector: next_vector,
            vectors: stage.vectors.to_vec(),
            zero_at_any_step: stage.zero_at_any_step,
        });
        next_vector += stage.vectors.len();
    };
    rule.for_each_stage(&mut places, &mut note);
    stages
}
