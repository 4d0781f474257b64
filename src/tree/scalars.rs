//! Bare numbers, strings and other values that hold no parameter; a number that says it is one.

use std::marker::PhantomData;

use super::leaf::{LeafMut, LeafRef};
use super::{Builder, Key, Tree, Visitor, VisitorMut};
use crate::element::{Dtype, Element, Sink};
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

            fn elements(slice: &[Self]) -> Option<(Dtype, &[u8])> {
                Some((Self::DTYPE, bytemuck::cast_slice(slice)))
            }

            fn elements_mut<'call, 'a>(slice: &'a mut [Self]) -> Option<(Dtype, Sink<'call, 'a>)> {
                Some((Self::DTYPE, Self::sink(slice)))
            }

            fn rebuild_elements(slice: &[Self], builder: &mut Builder<'_>) -> Option<Result<Vec<Self>>> {
                let shape = [slice.len()];
                Some(builder.leaf(LeafRef::from_slice(&shape, slice)))
            }
        }
    )*};
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

/// A number that says it is a parameter, `#[tree(param)]`: a 0-d leaf.
#[doc(hidden)]
pub mod param {
    use super::*;
    pub use crate::element::FloatElement;

    pub fn visit<'a, E: FloatElement>(
        visitor: &mut dyn Visitor<'a>,
        key: Key<'_>,
        frozen: bool,
        number: &'a E,
    ) -> Result<()> {
        let leaf = LeafRef::from_slice(&[], std::slice::from_ref(number));
        visitor.leaf_at(key, frozen, leaf)
    }

    pub fn visit_mut<'a, E: FloatElement>(
        visitor: &mut dyn VisitorMut<'a>,
        key: Key<'_>,
        number: &'a mut E,
    ) -> Result<()> {
        let leaf = LeafMut::from_slice(&[], std::slice::from_mut(number));
        visitor.leaf_at(key, leaf)
    }

    pub fn rebuild<E: FloatElement>(
        builder: &mut Builder<'_>,
        key: Key<'_>,
        number: &E,
    ) -> Result<E> {
        let old = LeafRef::from_slice(&[], std::slice::from_ref(number));
        let elements = builder.child_leaf(key, old)?;
        // A leaf of no axes has one element.
        Ok(elements[0])
    }
}
