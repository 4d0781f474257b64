//! What every operation asks before it starts: are this vector, this element type and this gradient
//! the layout's?

use super::Layout;
use super::display::counted;
use crate::element::{Dtype, FloatElement};
use crate::error::{Error, Findings, Result};

/// Added to the first leaf of an error that lists them.
const ADVICE: &str = " (a vector of f64 holds all: `destructure_as::<f64>`, `gather_as::<f64>`, \
                      `Optimizer::new_as::<f64>`, `map_into_as`, …; \
                      `Layout::planner().round_f64()` rounds)";

impl Layout {
    /// # Errors
    /// A vector, `what` in the message, that is not as long as the layout.
    pub(crate) fn check_len(&self, what: &'static str, found: usize) -> Result<()> {
        if found == self.len() {
            Ok(())
        } else {
            Err(Error::length(what, self.len(), found))
        }
    }

    /// # Errors
    /// A gradient that is one of another layout.
    pub(crate) fn check_same(&self, other: &Layout) -> Result<()> {
        if self.is_same(other) {
            return Ok(());
        }
        let describe = |layout: &Layout| {
            let leaves = counted(layout.leaves().len() as u128, "leaf", "leaves");
            let elements = counted(layout.len() as u128, "element", "elements");
            let fingerprint = layout.fingerprint();
            format!("{leaves}, {elements}, fingerprint {fingerprint:016x}")
        };
        Err(Error::other_layout(
            format!("a gradient of this layout ({})", describe(self)),
            format!("one of a layout of {}", describe(other)),
        ))
    }

    /// # Errors
    /// Trainable leaves that a vector of `E` does not hold.
    pub(crate) fn check_element<E: FloatElement>(&self) -> Result<()> {
        if E::DTYPE == Dtype::F64 || self.inner.takes_f32 {
            Ok(())
        } else {
            Err(self.f64_leaves())
        }
    }

    #[cold]
    fn f64_leaves(&self) -> Error {
        let mut findings = Findings::default();
        for leaf in self.leaves().iter().filter(|leaf| leaf.dtype == Dtype::F64) {
            let advice = if findings.is_empty() { ADVICE } else { "" };
            findings.add(Error::element_type(
                leaf.path().to_owned(),
                format!("f32, f16 or bf16, for a vector of f32{advice}"),
                leaf.dtype.to_string(),
            ));
        }
        findings.into_result().expect_err("there is one")
    }
}
