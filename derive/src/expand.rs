//! The `impl Tree`. Every path is absolute and every local begins with `__`, so that no name of the
//! user's is in the way.

use std::iter;

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::spanned::Spanned as _;
use syn::{DeriveInput, Ident, Result};

use crate::ast::{Field, Input, Key, Role, Variant};
use crate::{bound, element, valid, view};

pub(crate) fn derive(syntax: &DeriveInput) -> Result<TokenStream> {
    let input = Input::new(syntax)?;
    valid::check(&input)?;
    if let Some(element) = element::derive(&input) {
        return Ok(element);
    }
    let view = view::expand(&input);
    let tree = expand(&input);
    Ok(quote!(#tree #view))
}

fn expand(input: &Input) -> TokenStream {
    let (krate, name) = (&input.krate, &input.syntax.ident);
    let (impl_generics, type_generics, _) = input.syntax.generics.split_for_impl();
    let where_clause = bound::where_clause(input);
    let methods = [
        visit(input),
        visit_mut(input),
        rebuild(input),
        rebuild_object(input),
    ];
    // The field types stand here as they were written, but out of reach of what the user allows
    // them above the field.
    quote! {
        #[automatically_derived]
        #[allow(deprecated, unused_parens, unused_qualifications)]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
        impl #impl_generics #krate::Tree for #name #type_generics #where_clause {
            #(#methods)*
        }
    }
}

fn visit(input: &Input) -> TokenStream {
    let krate = &input.krate;
    let arms = arms(input, &quote!(ref), |variant| {
        let calls = variant.fields.iter().map(|field| visit_field(input, field));
        quote!(#(#calls)* ::core::result::Result::Ok(()))
    });
    quote! {
        fn visit<'__tree>(&'__tree self, __visitor: &mut dyn #krate::Visitor<'__tree>) -> #krate::Result<()> {
            match *self { #arms }
        }
    }
}

fn visit_field(input: &Input, field: &Field) -> TokenStream {
    let Field { ty, binding, .. } = field;
    let (krate, key) = (&input.krate, key(input, field));
    match field.role() {
        // Only the type knows whether it is a bare float, by whatever name it stands here.
        Role::Child { frozen } if input.has_params() => {
            quote!(<#ty as #krate::Tree>::visit_param_at(#binding, #key, #frozen, __visitor)?;)
        }
        Role::Child { frozen: false } => quote!(__visitor.child::<#ty>(#key, #binding)?;),
        Role::Child { frozen: true } => quote!(__visitor.frozen::<#ty>(#key, #binding)?;),
        Role::Param { frozen } => {
            quote!(#krate::__private::param::visit::<#ty>(__visitor, #key, #frozen, #binding)?;)
        }
        // What would be named has the path of the field that is not skipped.
        Role::Skipped { .. } if input.is_transparent() => quote!(),
        Role::Skipped { .. } => quote!(__visitor.skipped(#key)?;),
    }
}

fn visit_mut(input: &Input) -> TokenStream {
    let krate = &input.krate;
    let arms = arms(input, &quote!(ref mut), |variant| {
        let calls = variant
            .fields
            .iter()
            .map(|field| visit_field_mut(input, field));
        quote!(#(#calls)* ::core::result::Result::Ok(()))
    });
    quote! {
        fn visit_mut<'__tree>(&'__tree mut self, __visitor: &mut dyn #krate::VisitorMut<'__tree>) -> #krate::Result<()> {
            match *self { #arms }
        }
    }
}

fn visit_field_mut(input: &Input, field: &Field) -> TokenStream {
    let Field { ty, binding, .. } = field;
    let (krate, key) = (&input.krate, key(input, field));
    match field.role() {
        Role::Child { .. } if input.has_params() => {
            quote!(<#ty as #krate::Tree>::visit_param_mut_at(#binding, #key, __visitor)?;)
        }
        Role::Child { .. } => quote!(__visitor.child::<#ty>(#key, #binding)?;),
        Role::Param { .. } => {
            quote!(#krate::__private::param::visit_mut::<#ty>(__visitor, #key, #binding)?;)
        }
        Role::Skipped { .. } => quote!(),
    }
}

fn rebuild(input: &Input) -> TokenStream {
    let krate = &input.krate;
    let arms = arms(input, &quote!(ref), |variant| {
        let path = variant.path();
        let fields = variant
            .fields
            .iter()
            .map(|field| rebuild_field(input, field));
        quote!(::core::result::Result::Ok(#path { #(#fields),* }))
    });
    quote! {
        fn rebuild(&self, __builder: &mut #krate::Builder<'_>) -> #krate::Result<Self> {
            match *self { #arms }
        }
    }
}

fn rebuild_field(input: &Input, field: &Field) -> TokenStream {
    let Field {
        member,
        ty,
        binding,
        ..
    } = field;
    let (krate, key) = (&input.krate, key(input, field));
    match field.role() {
        Role::Child { .. } if input.has_params() => {
            quote!(#member: <#ty as #krate::Tree>::rebuild_param_at(#binding, #key, __builder)?)
        }
        Role::Child { .. } => quote!(#member: __builder.child::<#ty>(#key, #binding)?),
        Role::Param { .. } => {
            quote!(#member: #krate::__private::param::rebuild::<#ty>(__builder, #key, #binding)?)
        }
        Role::Skipped { default: false } => {
            quote!(#member: #krate::__private::clone_skipped::<#ty>(#binding))
        }
        Role::Skipped { default: true } => {
            quote!(#member: <#ty as ::core::default::Default>::default())
        }
    }
}

pub(crate) fn rebuild_object(input: &Input) -> TokenStream {
    let krate = &input.krate;
    let objects = input
        .attrs
        .object
        .iter()
        .map(|object| offer(input, object.value.span(), &object.value));
    let offers = iter::once(offer(input, Span::call_site(), &quote!(Self))).chain(objects);
    quote! {
        fn rebuild_object(&self, __builder: &mut #krate::Builder<'_>, __slot: &mut #krate::Slot<'_>) -> #krate::Result<()>
        where
            Self: 'static,
        {
            #(#offers)*
            ::core::result::Result::Ok(())
        }
    }
}

fn offer(input: &Input, span: Span, target: &impl ToTokens) -> TokenStream {
    let krate = &input.krate;
    // Where the trait is named is where it is said that the type has not got it.
    let tree = Ident::new("__tree", span);
    quote! {
        __slot.offer::<#target>(|| {
            let #tree = #krate::__private::Box::new(#krate::Tree::rebuild(self, __builder)?);
            ::core::result::Result::Ok(#tree)
        })?;
    }
}

/// The arms of a match on `*self`, which binds every field and is complete for an enum without
/// variants too.
fn arms(
    input: &Input,
    borrow: &TokenStream,
    body: impl Fn(&Variant) -> TokenStream,
) -> TokenStream {
    let arm = |variant| {
        let (pattern, body) = (pattern(variant, borrow), body(variant));
        let checks = variant.fields.iter().map(|field| check(input, field));
        quote!(#pattern => { #(#checks)* #body })
    };
    input.variants.iter().map(arm).collect()
}

/// Numbers are field names too, so that one pattern does for named fields, tuples and units.
pub(crate) fn pattern(variant: &Variant, borrow: &TokenStream) -> TokenStream {
    let path = variant.path();
    let members = variant.fields.iter().map(|field| &field.member);
    let bindings = variant.fields.iter().map(|field| &field.binding);
    quote!(#path { #(#members: #borrow #bindings),* })
}

/// Asks for the trait before the field is used, in the same words in every method: a field that is
/// no tree then gives one message, because the compiler prints equal messages once, and drops what
/// the calls have to say about the same type at the same place.
fn check(input: &Input, field: &Field) -> TokenStream {
    let (krate, ty) = (&input.krate, field.ty);
    match field.role() {
        Role::Child { .. } => quote!(let _ = <#ty as #krate::Tree>::visit;),
        Role::Param { .. } => quote!(let _ = #krate::__private::param::visit::<#ty>;),
        Role::Skipped { .. } => quote!(),
    }
}

fn key(input: &Input, field: &Field) -> TokenStream {
    let krate = &input.krate;
    match field.key() {
        _ if input.is_transparent() => quote!(#krate::Key::Same),
        Key::Name(name) => quote!(#krate::Key::Name(#name)),
        Key::Index(index) => quote!(#krate::Key::Index(#index)),
    }
}
