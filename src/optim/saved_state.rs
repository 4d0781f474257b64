//! A state vector in a snapshot: its elements, and in what an optimiser that takes it up keeps
//! them.
//!
//! In a format of serde the elements are numbers, whatever they were kept in: what a bf16 or a code
//! with its scale stands for is an f32, and becomes the bf16 or the code again. What they were kept
//! in stands behind the name, `exp_avg as bf16, at random with seed 0`, so that vectors that are
//! full are stored as they always were, also where a format names no fields.

use std::borrow::Cow;
use std::sync::Arc;

#[cfg(feature = "serde")]
use super::packed::OfLeaf;
use super::packed::{BlockStarts, Form, PackedVector};
use super::states::LentVector;
use super::storage::{Rounding, Storage};
use crate::element::FlatElement;
#[cfg(any(feature = "serde", test))]
use crate::ops::compact::Codes;

#[derive(Clone, Debug)]
pub(super) struct SavedState<'s, E: Clone> {
    pub(super) name: Cow<'s, str>,
    /// In what it was kept.
    pub(super) was: Kept,
    /// In what it will be kept.
    pub(super) kept: Kept,
    /// None of a vector that is all zeros.
    pub(super) elements: Option<SavedElements<'s, E>>,
}

/// The elements of a state vector.
#[derive(Clone, Debug)]
pub(crate) enum SavedElements<'s, E: Clone> {
    Full(Cow<'s, [E]>),
    Packed(Cow<'s, PackedVector>, Arc<BlockStarts>),
}

/// In what a vector is kept, and how it is rounded to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) form: Form,
    pub(super) rounding: Rounding,
}

impl Kept {
    pub(super) fn new(form: Form, storage: Storage) -> Self {
        match storage {
            Storage::Bf16(rounding) | Storage::EightBits(rounding) if form != Form::Full => {
                Kept { form, rounding }
            }
            _ => Kept {
                form: Form::Full,
                rounding: Rounding::Nearest,
            },
        }
    }

    pub(super) fn storage(self) -> Storage {
        match self.form {
            Form::Full => Storage::Full,
            Form::Bf16 => Storage::Bf16(self.rounding),
            Form::EightBits(_) => Storage::EightBits(self.rounding),
        }
    }
}

impl<E: FlatElement> SavedElements<'_, E> {
    pub(super) fn lent(&self) -> LentVector<'_, E> {
        match self {
            SavedElements::Full(elements) => LentVector::Full(elements),
            SavedElements::Packed(packed, blocks) => LentVector::Packed(packed, blocks),
        }
    }

    /// Whether these are so many elements, and scales for them.
    pub(super) fn has_len(&self, len: usize) -> bool {
        match self {
            SavedElements::Full(elements) => elements.len() == len,
            SavedElements::Packed(packed, blocks) => {
                packed.len() == len && packed.has_scales(blocks.count())
            }
        }
    }

    #[cfg(feature = "serde")]
    fn numbers(&self) -> Cow<'_, [E]> {
        match self {
            SavedElements::Full(elements) => Cow::Borrowed(elements),
            SavedElements::Packed(packed, blocks) => {
                let mut numbers = vec![E::zeroed(); packed.len()];
                let all = OfLeaf {
                    leaf: 0,
                    place: 0,
                    range: 0..packed.len(),
                };
                match packed.form() {
                    Form::EightBits(_) => blocks.leaves().for_each(|leaf| {
                        let to = &mut numbers[leaf.range.clone()];
                        self.lent().read(&leaf, to);
                    }),
                    _ => self.lent().read(&all, &mut numbers),
                }
                Cow::Owned(numbers)
            }
        }
    }
}

/// The name of a vector, and in what it is kept.
#[cfg(any(feature = "serde", test))]
fn label(name: &str, kept: Kept) -> Cow<'_, str> {
    let form = match kept.form {
        Form::Full => return Cow::Borrowed(name),
        Form::Bf16 => "bf16",
        Form::EightBits(Codes::Signed) => "8 bits signed",
        Form::EightBits(Codes::Unsigned) => "8 bits unsigned",
    };
    Cow::Owned(match kept.rounding {
        Rounding::Nearest => format!("{name} as {form}, {NEAREST}"),
        Rounding::Stochastic { seed } => format!("{name} as {form}, {AT_RANDOM}{seed}"),
    })
}

#[cfg(any(feature = "serde", test))]
const NEAREST: &str = "to the nearest";
#[cfg(any(feature = "serde", test))]
const AT_RANDOM: &str = "at random with seed ";

/// What a label says; `None` if it is a name.
#[cfg(any(feature = "serde", test))]
fn of_label(label: &str) -> Option<(&str, Kept)> {
    let (name, kept) = label.rsplit_once(" as ")?;
    let (form, rounding) = kept.split_once(", ")?;
    let form = match form {
        "bf16" => Form::Bf16,
        "8 bits signed" => Form::EightBits(Codes::Signed),
        "8 bits unsigned" => Form::EightBits(Codes::Unsigned),
        _ => return None,
    };
    let rounding = match rounding {
        NEAREST => Rounding::Nearest,
        rounding => Rounding::Stochastic {
            seed: rounding.strip_prefix(AT_RANDOM)?.parse().ok()?,
        },
    };
    Some((name, Kept { form, rounding }))
}

#[cfg(feature = "serde")]
mod stored {
    use super::*;
    use serde::de::{Deserialize, Deserializer};
    use serde::ser::{Serialize, Serializer};

    /// A vector as it is stored.
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(
        deny_unknown_fields,
        rename = "SavedState",
        bound(
            serialize = "E: FlatElement + serde::Serialize",
            deserialize = "E: FlatElement + serde::Deserialize<'de>"
        )
    )]
    struct Stored<'s, E: Clone> {
        name: Cow<'s, str>,
        #[serde(with = "crate::optim::non_finite::elements")]
        elements: Option<Cow<'s, [E]>>,
    }

    impl<E: FlatElement + Serialize> Serialize for SavedState<'_, E> {
        fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
        where
            S: Serializer,
        {
            let stored = Stored {
                name: label(&self.name, self.kept),
                elements: self.elements.as_ref().map(SavedElements::numbers),
            };
            stored.serialize(serializer)
        }
    }

    impl<'de, E: FlatElement + Deserialize<'de>> Deserialize<'de> for SavedState<'_, E> {
        fn deserialize<D>(deserializer: D) -> Result<Self, D::Error>
        where
            D: Deserializer<'de>,
        {
            let Stored::<E> { name, elements } = Stored::deserialize(deserializer)?;
            let full = Kept::new(Form::Full, Storage::Full);
            let (name, kept) = match of_label(&name) {
                Some((name, kept)) => (name.to_owned(), kept),
                None => (name.into_owned(), full),
            };
            let elements = elements.map(|elements| Cow::Owned(elements.into_owned()));
            Ok(SavedState {
                name: Cow::Owned(name),
                was: kept,
                kept,
                elements: elements.map(SavedElements::Full),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_says_what_it_was_made_of() {
        let forms = [
            Form::Bf16,
            Form::EightBits(Codes::Signed),
            Form::EightBits(Codes::Unsigned),
        ];
        let roundings = [Rounding::Nearest, Rounding::Stochastic { seed: u64::MAX }];
        for (form, rounding) in forms.iter().zip(roundings.iter().cycle()) {
            let kept = Kept {
                form: *form,
                rounding: *rounding,
            };
            for name in ["exp_avg", "", "as as as"] {
                assert_eq!(of_label(&label(name, kept)), Some((name, kept)));
            }
        }
        for name in [
            "exp_avg",
            "x as bf16",
            "x as y, z",
            "x as bf16, at random with seed -1",
        ] {
            assert_eq!(of_label(name), None);
        }
    }
}
