//! Bare numbers, strings and other values that hold no parameter; a number that says it is one.

use std::marker::PhantomData;

#[cfg(feature = "num-complex")]
use bytemuck::Pod;
#[cfg(feature = "num-complex")]
use num_complex::Complex;

use super::elements::{self, ArrayElement, alone};
#[cfg(feature = "num-complex")]
use super::elements::{ElementAxes, ElementField, Fields, pod};
use super::leaf::{LeafMut, LeafRef};
use super::{Builder, Key, Tree, Visitor, VisitorMut};
use crate::element::{Element, FloatElement};
use crate::error::Result;

macro_rules! no_leaf {
    ($($type:ty),*) => {$(
        impl Tree for $type {
            fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                visitor.no_leaf()
            }

            fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
                Ok(())
            }

            fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
                Ok(self.clone())
            }

            crate::rebuild_object!();
        }
    )*};
}

no_leaf!((), char, String);

impl<T: ?Sized> Tree for PhantomData<T> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.no_leaf()
    }

    fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        Ok(())
    }

    fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
        Ok(PhantomData)
    }

    crate::rebuild_object!();
}

impl Tree for str {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.no_leaf()
    }

    fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        Ok(())
    }

    fn rebuild_object(&self, _builder: &mut Builder<'_>, slot: &mut super::Slot<'_>) -> Result<()> {
        slot.offer::<str>(|| Ok(self.into()))
    }
}

/// A bare number is no parameter, but a slice of them is the elements of one leaf.
macro_rules! numbers {
    ($($type:ty $(: $as_param:ident)?),* $(,)?) => {$(
        impl Tree for $type {
            fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                visitor.bare_number(Self::DTYPE)
            }

            fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
                Ok(())
            }

            fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
                Ok(*self)
            }

            crate::rebuild_object!();

            $($as_param!();)?

            elements!();
        }
    )*};
}

/// Within an `impl Tree` of an element: a list of them is one leaf.
macro_rules! elements {
    () => {
        #[inline]
        fn is_element() -> bool {
            true
        }

        #[inline]
        fn with_elements<'a, R>(
            list: &'a [Self],
            array: &[usize],
            visit: impl FnOnce(LeafRef<'_, 'a>) -> R,
        ) -> Option<R> {
            Some(elements::with_leaf(list, array, visit))
        }

        #[inline]
        fn with_elements_mut<'a, R>(
            list: &'a mut [Self],
            array: &[usize],
            visit: impl FnOnce(LeafMut<'_, 'a>) -> R,
        ) -> Option<R> {
            Some(elements::with_leaf_mut(list, array, visit))
        }

        fn rebuild_elements(
            list: &[Self],
            array: &[usize],
            builder: &mut Builder<'_>,
        ) -> Option<Result<Vec<Self>>> {
            Some(elements::rebuild(list, array, builder))
        }
    };
}

/// Within an `impl Tree` of a float: in a struct of `#[tree(params)]` it is a 0-d leaf.
macro_rules! as_param {
    () => {
        fn visit_param_at<'a>(
            &'a self,
            key: Key<'_>,
            frozen: bool,
            visitor: &mut dyn Visitor<'a>,
        ) -> Result<()> {
            param::visit(visitor, key, frozen, self)
        }

        fn visit_param_mut_at<'a>(
            &'a mut self,
            key: Key<'_>,
            visitor: &mut dyn VisitorMut<'a>,
        ) -> Result<()> {
            param::visit_mut(visitor, key, self)
        }

        fn rebuild_param_at(&self, key: Key<'_>, builder: &mut Builder<'_>) -> Result<Self> {
            param::rebuild(builder, key, self)
        }
    };
}

numbers!(f32: as_param, f64: as_param);
numbers!(
    i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, bool
);

#[cfg(feature = "half")]
numbers!(half::f16: as_param, half::bf16: as_param);

/// A complex number is two numbers, and no parameter unless it says so. An array of them is one
/// leaf, with the real and the imaginary parts along its last axis.
#[cfg(feature = "num-complex")]
impl<E: FloatElement + Pod> Tree for Complex<E> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.bare_number(E::DTYPE)
    }

    fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        Ok(())
    }

    fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
        Ok(*self)
    }

    crate::rebuild_object!();
    as_param!();
    elements!();
}

#[cfg(feature = "num-complex")]
impl<E: FloatElement + Pod> ArrayElement for Complex<E> {
    type Number = E;

    const AXES: Option<&'static ElementAxes> = Some(&ElementAxes {
        len: 2,
        inner: None,
    });
    const FIELDS: Option<Fields> = Some(pod::fields::<Self>);

    #[inline]
    fn numbers(elements: &[Self]) -> &[E] {
        pod::numbers(elements)
    }

    #[inline]
    fn numbers_mut(elements: &mut [Self]) -> &mut [E] {
        pod::numbers_mut(elements)
    }

    #[inline]
    fn of_numbers(numbers: &[E]) -> Option<&[Self]> {
        pod::of_numbers(numbers)
    }

    #[inline]
    fn of_numbers_mut(numbers: &mut [E]) -> Option<&mut [Self]> {
        pod::of_numbers_mut(numbers)
    }

    fn from_numbers(numbers: Vec<E>) -> Vec<Self> {
        pod::from_numbers(numbers)
    }

    fn zero() -> Self {
        pod::zero()
    }

    fn add_fields(name: String, _shape: Vec<usize>, fields: &mut Vec<ElementField>) {
        pod::add_field::<E, E>(&name, "re", fields);
        pod::add_field::<E, E>(&name, "im", fields);
    }
}

/// A number that says it is a parameter, `#[tree(param)]`: a leaf without axes, and a complex one of
/// its two parts.
#[doc(hidden)]
pub mod param {
    use super::*;

    /// A number that a bare field may be a parameter of: any float, or a complex number.
    #[doc(hidden)]
    #[diagnostic::on_unimplemented(
        message = "`#[tree(param)]` is for a bare float, not for `{Self}`",
        label = "not a float",
        note = "an array is a parameter without it; what is no parameter needs no attribute, or `#[tree(skip)]`",
        note = "a type parameter is a float where it is bounded by `FlatElement`"
    )]
    pub trait ParamElement: ArrayElement {}

    #[diagnostic::do_not_recommend]
    impl<E: FloatElement> ParamElement for E {}
    #[cfg(feature = "num-complex")]
    impl<E: FloatElement + Pod> ParamElement for Complex<E> {}

    pub fn visit<'a, E: ParamElement>(
        visitor: &mut dyn Visitor<'a>,
        key: Key<'_>,
        frozen: bool,
        number: &'a E,
    ) -> Result<()> {
        alone::visit_at(number, key, frozen, visitor)
    }

    pub fn visit_mut<'a, E: ParamElement>(
        visitor: &mut dyn VisitorMut<'a>,
        key: Key<'_>,
        number: &'a mut E,
    ) -> Result<()> {
        alone::visit_mut_at(number, key, visitor)
    }

    pub fn rebuild<E: ParamElement>(
        builder: &mut Builder<'_>,
        key: Key<'_>,
        number: &E,
    ) -> Result<E> {
        builder.within(key, |builder| alone::rebuild(number, builder))
    }
}
