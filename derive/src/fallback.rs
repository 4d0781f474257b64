//! What stands in for the implementation after a mistake, so that the mistake is the only thing the
//! compiler has to say.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error};

use crate::attr;

pub(crate) fn stub(syntax: &DeriveInput, error: &Error) -> TokenStream {
    let (krate, name) = (attr::krate_despite_mistakes(&syntax.attrs), &syntax.ident);
    let (impl_generics, type_generics, where_clause) = syntax.generics.split_for_impl();
    let message = error.to_compile_error();
    quote! {
        #message

        #[automatically_derived]
        impl #impl_generics #krate::Tree for #name #type_generics #where_clause {
            fn visit<'__tree>(&'__tree self, _: &mut dyn #krate::Visitor<'__tree>) -> #krate::Result<()> {
                ::core::unreachable!()
            }

            fn visit_mut<'__tree>(&'__tree mut self, _: &mut dyn #krate::VisitorMut<'__tree>) -> #krate::Result<()> {
                ::core::unreachable!()
            }

            fn rebuild(&self, _: &mut #krate::Builder<'_>) -> #krate::Result<Self> {
                ::core::unreachable!()
            }
        }
    }
}
