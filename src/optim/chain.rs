//! Tuples of rules: each stage takes what the one before made.
//!
//! A chain's counters are those of its stages, one after the other, each behind the steps that the
//! stage has taken. Of `(Accumulate, (AdamW, Ema))` they are `steps held steps steps steps weight`:
//! Accumulate's steps and what it holds, the inner chain's steps, AdamW's, and the average's with
//! its weight.

use super::kernel::{Kernel, Stage};
use super::rule::{Rule, RuleFor, StageState, next_step, short_name};
use super::storage::Moment;
use crate::error::{Error, Result};

/// Why a chain's counters can be split.
const COUNTED: &str = "as many counters as the chain names";

impl Rule for () {
    fn kernel(&self, _step: u64) -> impl Kernel {
        // The direction is the gradient.
    }
}

impl RuleFor<f64> for () {
    fn kernel_as(&self, _shape: &[usize], _step: u64, _counters: &[f64]) -> impl Kernel<f64> {}
}

/// The kernels of all stages, each with its own steps and counters.
macro_rules! stages {
    ($kernel:ident, $is:path, $($index:tt),+) => {
        #[allow(unused_assignments)]
        fn $kernel(&self, shape: &[usize], _step: u64, counters: &[f64]) -> impl $is {
            let mut start = 0;
            let mut rest = counters;
            ($({
                let own = rest.split_off(..1 + self.$index.counters().len()).expect(COUNTED);
                let len = self.$index.states().len();
                let kernel = self.$index.$kernel(shape, next_step(own[0]), &own[1..]);
                let stage = Stage { start, len, kernel };
                start += len;
                stage
            },)+)
        }
    };
}

macro_rules! chain {
    ($($stage:ident $index:tt),+; $last:tt) => {
        impl<$($stage: Rule),+> Rule for ($($stage,)+) {
            fn validate(&self) -> Result<()> {
                $(
                    self.$index.validate()?;
                    check_place::<$stage>(self.$index.is_last(), $index == $last)?;
                )+
                Ok(())
            }

            fn states(&self) -> Vec<&'static str> {
                let mut states = Vec::new();
                $(states.extend(self.$index.states());)+
                states
            }

            fn moments(&self) -> Vec<(&'static str, Moment)> {
                let mut moments = Vec::new();
                $(moments.extend(self.$index.moments());)+
                moments
            }

            fn check_states(&self) -> Result<()> {
                $(self.$index.check_states()?;)+
                Ok(())
            }

            fn counters(&self) -> Vec<&'static str> {
                let mut counters = Vec::new();
                $(
                    counters.push("steps");
                    counters.extend(self.$index.counters());
                )+
                counters
            }

            #[allow(unused_assignments)]
            fn kernel(&self, step: u64) -> impl Kernel {
                let mut start = 0;
                ($({
                    let len = self.$index.states().len();
                    let stage = Stage { start, len, kernel: self.$index.kernel(step) };
                    start += len;
                    stage
                },)+)
            }

            fn kernel_with(&self, step: u64, counters: &[f64]) -> impl Kernel {
                self.kernel_for(&[], step, counters)
            }

            fn sees_shape(&self) -> bool {
                $(self.$index.sees_shape())||+
            }

            stages!(kernel_for, Kernel, $($index),+);

            fn advance(&self, _step: u64, counters: &mut [f64]) -> bool {
                let mut rest = counters;
                // Stages behind one that holds back have taken no step.
                $(
                    let own = rest.split_off_mut(..1 + self.$index.counters().len()).expect(COUNTED);
                    let step = next_step(own[0]);
                    own[0] = step as f64;
                    if !self.$index.advance(step, &mut own[1..]) {
                        return false;
                    }
                )+
                let _ = rest;
                true
            }

            fn begin_flush(&self, counters: &mut [f64]) -> Option<bool> {
                let mut rest = counters;
                $(
                    let own = rest.split_off_mut(..1 + self.$index.counters().len()).expect(COUNTED);
                    if let Some(holds) = self.$index.begin_flush(&mut own[1..]) {
                        return Some(holds);
                    }
                )+
                let _ = rest;
                None
            }

            fn for_each_stage(&self, progress: &mut [f64], stage: &mut dyn FnMut(StageState<'_>)) {
                let mut rest = &mut progress[1..];
                $(
                    let own = rest.split_off_mut(..1 + self.$index.counters().len()).expect(COUNTED);
                    self.$index.for_each_stage(own, stage);
                )+
                let _ = rest;
            }

            fn lr_mut(&mut self) -> Option<&mut f64> {
                None$(.or(self.$index.lr_mut()))+
            }

            fn set_lr(&mut self, lr: f64) -> bool {
                let mut any = false;
                $(any |= self.$index.set_lr(lr);)+
                any
            }

            fn is_last(&self) -> bool {
                self.$last.is_last()
            }
        }

        impl<$($stage: RuleFor<f64>),+> RuleFor<f64> for ($($stage,)+) {
            stages!(kernel_as, Kernel<f64>, $($index),+);

            fn check_kernel(&self) -> Result<()> {
                $(self.$index.check_kernel()?;)+
                Ok(())
            }
        }
    };
}

chain!(A 0; 0);
chain!(A 0, B 1; 1);
chain!(A 0, B 1, C 2; 2);
chain!(A 0, B 1, C 2, D 3; 3);
chain!(A 0, B 1, C 2, D 3, E 4; 4);
chain!(A 0, B 1, C 2, D 3, E 4, F 5; 5);
chain!(A 0, B 1, C 2, D 3, E 4, F 5, G 6; 6);
chain!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7; 7);

fn check_place<R>(wants_last: bool, is_last: bool) -> Result<()> {
    if !wants_last || is_last {
        return Ok(());
    }
    Err(
        Error::argument("it as the last stage of a chain", "a stage behind it")
            .at(short_name::<R>()),
    )
}
