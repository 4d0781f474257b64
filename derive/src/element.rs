//! `#[tree(element)]`: a struct that is several numbers of one type, of which an array is one leaf.
//!
//! What an element does are casts between it and its numbers, which need no `unsafe` here because
//! the struct is `bytemuck::Pod`. Which numbers they are is what its fields say,
//! `<[f32; 3] as ArrayElement>::Number`, so that an alias and another element are fields as good as
//! a float; only where the struct names them itself, `#[tree(element = f32)]`, fields are not
//! looked at.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Type, WhereClause, WherePredicate, parse_quote};

use crate::ast::{Field, Input, Key};
use crate::{bound, expand};

/// The implementations, if the input is an element.
pub(crate) fn derive(input: &Input) -> Option<TokenStream> {
    let word = input.attrs.element.as_ref()?;
    let element = Element {
        input,
        fields: input.fields().collect(),
        stated: word.value.as_ref(),
    };
    Some(element.expand())
}

struct Element<'i, 'a> {
    input: &'i Input<'a>,
    fields: Vec<&'i Field<'a>>,
    /// The type of the numbers, where it is not the fields that say it.
    stated: Option<&'i Type>,
}

impl Element<'_, '_> {
    fn expand(&self) -> TokenStream {
        let (krate, name) = (&self.input.krate, &self.input.syntax.ident);
        let (impl_generics, type_generics, _) = self.input.syntax.generics.split_for_impl();
        let where_clause = self.where_clause();
        let (element, tree, view) = (self.array_element(), self.tree(), self.view());
        // Asked for here, what is wrong is said before anything uses the type.
        let check = self
            .input
            .syntax
            .generics
            .params
            .is_empty()
            .then(|| quote!(const _: () = { let _ = <#name as #krate::ArrayElement>::AXES; };));
        quote! {
            #check

            #[automatically_derived]
            #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
            impl #impl_generics #krate::ArrayElement for #name #type_generics #where_clause {
                #element
            }

            #[automatically_derived]
            #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
            impl #impl_generics #krate::Tree for #name #type_generics #where_clause {
                #tree
            }

            #[automatically_derived]
            #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
            impl #impl_generics #krate::Viewable for #name #type_generics #where_clause {
                #view
            }
        }
    }

    /// The type of the numbers.
    fn number(&self) -> TokenStream {
        let krate = &self.input.krate;
        match (self.stated, self.fields.first()) {
            (Some(stated), _) => stated.to_token_stream(),
            (None, Some(first)) => {
                let ty = first.ty;
                quote_spanned!(ty.span()=> <#ty as #krate::ArrayElement>::Number)
            }
            // Refused before.
            (None, None) => quote!(f32),
        }
    }

    fn where_clause(&self) -> WhereClause {
        let input = self.input;
        let empty = || parse_quote!(where);
        let own = input.syntax.generics.where_clause.clone();
        let mut clause: WhereClause = own.unwrap_or_else(empty);
        match &input.attrs.bound {
            Some(bound) => clause.predicates.extend(bound.value.iter().cloned()),
            None => clause.predicates.extend(self.bounds()),
        }
        clause
    }

    /// What an element asks of itself, and a generic one of its parameters.
    fn bounds(&self) -> Vec<WherePredicate> {
        let input = self.input;
        let (krate, number, name) = (&input.krate, self.number(), &input.syntax.ident);
        let (_, type_generics, _) = input.syntax.generics.split_for_impl();
        // One bound, so that a struct that is not `Pod` gives one message and not one a cast.
        let ty = quote_spanned!(name.span()=> #name #type_generics);
        let mut bounds = vec![parse_quote!(#ty: #krate::__private::elements::pod::PodStruct)];
        let is_generic = input.syntax.generics.type_params().next().is_some();
        if self.stated.is_some() || !is_generic {
            return bounds;
        }
        let generic = |field: &&&Field| bound::mentions_parameter(input, field.ty);
        for (index, field) in self
            .fields
            .iter()
            .enumerate()
            .filter(|field| generic(&field.1))
        {
            let ty = field.ty;
            bounds.push(match index {
                0 => parse_quote!(#ty: #krate::ArrayElement),
                _ => parse_quote!(#ty: #krate::ArrayElement<Number = #number>),
            });
        }
        bounds.push(parse_quote!(#number: #krate::__private::Pod));
        bounds
    }

    fn array_element(&self) -> TokenStream {
        let krate = &self.input.krate;
        let number = self.number();
        let pod = quote!(#krate::__private::elements::pod);
        let field_sizes = self.fields.iter().map(|field| field.ty);
        let fields = match self.stated {
            Some(_) => quote!(::core::option::Option::None),
            None => quote!(::core::option::Option::Some(#pod::fields::<Self>)),
        };
        let add_fields = self.add_fields();
        quote! {
            type Number = #number;

            const AXES: ::core::option::Option<&'static #krate::__private::elements::ElementAxes> = {
                #pod::check_sizes::<Self>(0 #(+ ::core::mem::size_of::<#field_sizes>())*);
                ::core::option::Option::Some(&#pod::Axes::<Self, #number>::AXES)
            };
            const FIELDS: ::core::option::Option<#krate::__private::elements::Fields> = #fields;

            #[inline]
            fn numbers(elements: &[Self]) -> &[#number] {
                #pod::numbers(elements)
            }

            #[inline]
            fn numbers_mut(elements: &mut [Self]) -> &mut [#number] {
                #pod::numbers_mut(elements)
            }

            #[inline]
            fn of_numbers(numbers: &[#number]) -> ::core::option::Option<&[Self]> {
                #pod::of_numbers(numbers)
            }

            #[inline]
            fn of_numbers_mut(numbers: &mut [#number]) -> ::core::option::Option<&mut [Self]> {
                #pod::of_numbers_mut(numbers)
            }

            fn from_numbers(numbers: #krate::__private::Vec<#number>) -> #krate::__private::Vec<Self> {
                #pod::from_numbers(numbers)
            }

            fn zero() -> Self {
                #pod::zero()
            }

            fn add_fields(
                __name: #krate::__private::String,
                __shape: #krate::__private::Vec<usize>,
                __fields: &mut #krate::__private::Vec<#krate::__private::elements::ElementField>,
            ) {
                #add_fields
            }
        }
    }

    fn add_fields(&self) -> TokenStream {
        let krate = &self.input.krate;
        let pod = quote!(#krate::__private::elements::pod);
        if self.stated.is_some() {
            return quote!(#pod::add_unnamed::<Self>(__name, __shape, __fields));
        }
        let number = self.number();
        let calls = self.fields.iter().map(|field| {
            let (ty, name) = (field.ty, name(field));
            // Where the type stands is where it is said that its numbers are others.
            quote_spanned! {ty.span()=>
                #pod::add_field::<#ty, #number>(&__name, #name, __fields);
            }
        });
        quote!(#(#calls)*)
    }

    fn tree(&self) -> TokenStream {
        let krate = &self.input.krate;
        let elements = quote!(#krate::__private::elements);
        let rebuild_object = expand::rebuild_object(self.input);
        quote! {
            fn visit<'__tree>(&'__tree self, __visitor: &mut dyn #krate::Visitor<'__tree>) -> #krate::Result<()> {
                #elements::alone::visit(self, __visitor)
            }

            fn visit_mut<'__tree>(&'__tree mut self, __visitor: &mut dyn #krate::VisitorMut<'__tree>) -> #krate::Result<()> {
                #elements::alone::visit_mut(self, __visitor)
            }

            fn rebuild(&self, __builder: &mut #krate::Builder<'_>) -> #krate::Result<Self> {
                #elements::alone::rebuild(self, __builder)
            }

            #rebuild_object

            #[inline]
            fn visit_at<'__tree>(
                &'__tree self,
                __key: #krate::Key<'_>,
                __frozen: bool,
                __visitor: &mut dyn #krate::Visitor<'__tree>,
            ) -> #krate::Result<()> {
                #elements::alone::visit_at(self, __key, __frozen, __visitor)
            }

            #[inline]
            fn visit_mut_at<'__tree>(
                &'__tree mut self,
                __key: #krate::Key<'_>,
                __visitor: &mut dyn #krate::VisitorMut<'__tree>,
            ) -> #krate::Result<()> {
                #elements::alone::visit_mut_at(self, __key, __visitor)
            }

            fn is_element() -> bool {
                true
            }

            fn with_elements<'__tree, __R>(
                __list: &'__tree [Self],
                __array: &[usize],
                __visit: impl ::core::ops::FnOnce(#krate::LeafRef<'_, '__tree>) -> __R,
            ) -> ::core::option::Option<__R> {
                ::core::option::Option::Some(#elements::with_leaf(__list, __array, __visit))
            }

            fn with_elements_mut<'__tree, __R>(
                __list: &'__tree mut [Self],
                __array: &[usize],
                __visit: impl ::core::ops::FnOnce(#krate::LeafMut<'_, '__tree>) -> __R,
            ) -> ::core::option::Option<__R> {
                ::core::option::Option::Some(#elements::with_leaf_mut(__list, __array, __visit))
            }

            fn rebuild_elements(
                __list: &[Self],
                __array: &[usize],
                __builder: &mut #krate::Builder<'_>,
            ) -> ::core::option::Option<#krate::Result<#krate::__private::Vec<Self>>> {
                ::core::option::Option::Some(#elements::rebuild(__list, __array, __builder))
            }
        }
    }

    /// An element is its own view: it lies in the vector as it lies in the model.
    fn view(&self) -> TokenStream {
        let krate = &self.input.krate;
        quote! {
            type View<'__view> = &'__view Self where Self: '__view;
            type ViewMut<'__view> = #krate::__private::ElementMut<'__view, Self> where Self: '__view;
            type Items = #krate::__private::CompoundElements;

            fn view_from<'__view>(
                &'__view self,
                __leaves: &mut #krate::implementing::LeafViews<'__view>,
            ) -> #krate::Result<Self::View<'__view>> {
                #krate::__private::element_view::read(self, __leaves)
            }

            fn view_mut_from<'__view>(
                &'__view self,
                __leaves: &mut #krate::implementing::LeafViewsMut<'__view>,
            ) -> #krate::Result<Self::ViewMut<'__view>> {
                #krate::__private::element_view::write(self, __leaves)
            }
        }
    }
}

/// What the field is called in the name of an element.
fn name(field: &Field) -> String {
    match field.key() {
        Key::Name(name) => name,
        Key::Index(index) => index.to_string(),
    }
}
