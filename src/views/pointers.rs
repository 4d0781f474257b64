//! Views of boxes and of shared pointers.

use std::rc::Rc;
use std::sync::Arc;

use super::{Branches, Items, LeafViews, LeafViewsMut, Lend, TiedMut, Viewable};
use crate::error::Result;
use crate::tree::stack;

/// A box of a view, so that a type may hold itself.
impl<T: Viewable + 'static> Viewable for Box<T> {
    type View<'v> = Box<T::View<'v>>;
    type ViewMut<'v> = Box<T::ViewMut<'v>>;
    type Items = Branches;

    fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<Box<T::View<'v>>> {
        stack::check_stack_space()?;
        let view = (**self).view_from(leaves)?;
        Ok(Box::new(view))
    }

    fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Box<T::ViewMut<'v>>> {
        stack::check_stack_space()?;
        let view = (**self).view_mut_from(leaves)?;
        Ok(Box::new(view))
    }
}

/// As a `Vec`.
impl<T: Viewable + 'static> Viewable for Box<[T]> {
    type View<'v> = <T::Items as Items<T>>::List<'v>;
    type ViewMut<'v> = <T::Items as Items<T>>::ListMut<'v>;
    type Items = Branches;

    fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<Self::View<'v>> {
        T::Items::list(self, leaves)
    }

    fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ViewMut<'v>> {
        T::Items::list_mut(self, leaves)
    }
}

macro_rules! shared_pointers {
    ($($pointer:ident),*) => {$(
        /// Read as what it points to, at every place of it; written through [`TiedMut`].
        impl<T: Viewable + 'static> Viewable for $pointer<T> {
            type View<'v> = T::View<'v>;
            type ViewMut<'v> = TiedMut<'v, Self>;
            type Items = Branches;

            #[inline]
            fn view_from<'v>(&'v self, leaves: &mut LeafViews<'v>) -> Result<T::View<'v>> {
                stack::check_stack_space()?;
                (**self).view_from(leaves)
            }

            fn view_mut_from<'v>(&'v self, leaves: &mut LeafViewsMut<'v>) -> Result<Self::ViewMut<'v>> {
                stack::check_stack_space()?;
                leaves.tied(self)
            }
        }

        impl<T: Viewable + 'static> Lend for $pointer<T> {
            type Lent<'l> = T::ViewMut<'l>;

            fn lent_from<'l>(&'l self, leaves: &mut LeafViewsMut<'l>) -> Result<T::ViewMut<'l>> {
                (**self).view_mut_from(leaves)
            }
        }
    )*};
}

shared_pointers!(Rc, Arc);
