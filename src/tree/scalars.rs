//! Bare numbers, strings and other values that hold no parameter; a number that says it is one.

use std::marker::PhantomData;

use super::leaf::{LeafMut, LeafRef};
use super::{Builder, Key, Tree, Visitor, VisitorMut};
use crate::element::Sink;
use crate::element::{Dtype, Element};
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
    ($($type:ty),*) => {$(
        impl Tree for $type {
            fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                visitor.no_leaf()
            }

            fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
                Ok(())
            }

            fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
                Ok(*self)
            }

            crate::rebuild_object!();

            fn elements(slice: &[Self]) -> Option<(Dtype, &[u8])> {
                Some((Self::DTYPE, bytemuck::cast_slice(slice)))
            }

            fn elements_mut<'call, 'a>(slice: &'a mut [Self]) -> Option<(Dtype, Sink<'call, 'a>)> {
                Some((Self::DTYPE, Self::sink(slice)))
            }

            fn rebuild_elements(slice: &[Self], builder: &mut Builder<'_>) -> Option<Result<Vec<Self>>> {
                Some(builder.leaf(LeafRef::from_slice(&[slice.len()], slice)))
            }
        }
    )*};
}

numbers!(
    f32, f64, i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize, bool
);

#[cfg(feature = "half")]
numbers!(half::f16, half::bf16);

/// A number that says it is a parameter, `#[tree(param)]`: a 0-d leaf.
#[doc(hidden)]
pub mod param {
    use super::*;

    #[diagnostic::on_unimplemented(
        message = "`#[tree(param)]` is for a bare float, not for `{Self}`",
        label = "not a float",
        note = "an array is a parameter without it; what is no parameter needs no attribute, or `#[tree(skip)]`"
    )]
    pub trait Scalar: Element {}

    impl Scalar for f32 {}
    impl Scalar for f64 {}
    #[cfg(feature = "half")]
    impl Scalar for half::f16 {}
    #[cfg(feature = "half")]
    impl Scalar for half::bf16 {}

    pub fn visit<'a, E: Scalar>(
        visitor: &mut dyn Visitor<'a>,
        key: Key<'_>,
        frozen: bool,
        number: &'a E,
    ) -> Result<()> {
        visitor.enter(key, frozen)?;
        visitor.leaf(LeafRef::from_slice(&[], std::slice::from_ref(number)))?;
        visitor.leave(key);
        Ok(())
    }

    pub fn visit_mut<'a, E: Scalar>(
        visitor: &mut dyn VisitorMut<'a>,
        key: Key<'_>,
        number: &'a mut E,
    ) -> Result<()> {
        visitor.enter(key)?;
        visitor.leaf(LeafMut::from_slice(&[], std::slice::from_mut(number)))?;
        visitor.leave(key);
        Ok(())
    }

    pub fn rebuild<E: Scalar>(builder: &mut Builder<'_>, key: Key<'_>, number: &E) -> Result<E> {
        builder.at(key, |builder| {
            let elements = builder.leaf(LeafRef::from_slice(&[], std::slice::from_ref(number)))?;
            Ok(elements[0])
        })
    }
}
