//! Tuples of rules: each stage takes what the one before made.

use super::kernel::{Kernel, Stage};
use super::rule::{Rule, short_name};
use crate::error::{Error, Result};

impl Rule for () {
    fn kernel(&self, _step: u64) -> impl Kernel {
        // The direction is the gradient.
    }
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

            fn check_states(&self) -> Result<()> {
                $(self.$index.check_states()?;)+
                Ok(())
            }

            #[allow(unused_assignments)]
            fn kernel(&self, step: u64) -> impl Kernel {
                let (mut start, mut step) = (0, step);
                ($({
                    let stage = Stage { start, len: self.$index.states().len(), kernel: self.$index.kernel(step) };
                    (start, step) = (start + stage.len, self.$index.step_behind(step));
                    stage
                },)+)
            }

            fn step_behind(&self, step: u64) -> u64 {
                let mut step = step;
                $(step = self.$index.step_behind(step);)+
                step
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
