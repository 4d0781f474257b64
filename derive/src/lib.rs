//! `#[derive(Tree)]` for flatleaf, as passes over one typed view of the input.
//!
//! ```text
//! DeriveInput ──ast, attr──▶ Input ──valid──▶ Input ──bound, expand──▶ impl Tree
//!                                               ├────bound, view──▶ struct NameView, impl Viewable
//!                                               └────element──▶ impl ArrayElement, Tree, Viewable
//!                              └────── any mistake ──fallback──▶ one message and a stub impl
//! ```
//!
//! What the attributes mean is said once, at [`derive_tree`].

mod ast;
mod attr;
mod bound;
mod element;
mod expand;
mod fallback;
mod valid;
mod view;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `Tree`: the fields are visited and rebuilt in declaration order.
///
/// On a field:
///
/// | `#[tree(…)]` | the field |
/// | --- | --- |
/// | `frozen` | is in the tree, not trainable |
/// | `skip` | is no part of the tree and cloned into a new one; its type need not be a tree |
/// | `skip, default` | is no part of the tree and `Default::default()` in a new one |
/// | `param` | is a bare float that is a 0-d leaf; goes with `frozen` |
/// | `rename = "name"` | has this key in paths |
///
/// On a type:
///
/// | `#[tree(…)]` | |
/// | --- | --- |
/// | `params` | the bare floats among its fields are parameters, as if each said `param`, unless skipped |
/// | `transparent` | the one field of a struct that is not skipped adds no segment to paths |
/// | `view` | also makes `NameView<'v>` and `NameViewMut<'v>`, and implements `Viewable` |
/// | `element` | the struct is several numbers of one type: an array of it is one leaf, and so is it alone |
/// | `element = f32` | the same without a look at the fields, whose types may be another library's |
/// | `object = "dyn Layer + Send"` | a `Box` of this trait object can be rebuilt from this type; repeatable |
/// | `bound = "T: Tree"` | replaces the bounds that are derived from the field types |
/// | `crate = "path"` | where flatleaf is, if not at `::flatleaf` |
///
/// A tuple field's key is its index. Of an enum the fields of the active variant are visited;
/// variants add no segment.
#[proc_macro_derive(Tree, attributes(tree))]
pub fn derive_tree(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::derive(&input)
        .unwrap_or_else(|error| fallback::stub(&input, &error))
        .into()
}
