//! The where clause: what the type parameters have to be.
//!
//! A field whose type mentions a type parameter asks for `FieldType: Tree`, which is exact:
//! `Vec<T>` and `PhantomData<T>` ask for different things of `T`. A field that mentions the type
//! itself would make the bound depend on itself, so there the bound is on the parameters.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Ident, Type, WhereClause, WherePredicate, parse_quote};

use crate::ast::{Field, Input, Role};

/// What the implementation of `Tree` asks for.
pub(crate) fn where_clause(input: &Input) -> WhereClause {
    let mut clause = input
        .syntax
        .generics
        .where_clause
        .clone()
        .unwrap_or_else(|| parse_quote!(where));
    match &input.attrs.bound {
        Some(bound) => clause.predicates.extend(bound.value.iter().cloned()),
        None => clause
            .predicates
            .extend(input.fields().flat_map(|field| bounds_of(input, field))),
    }
    clause
}

/// What a view asks for: that each child has one. What is skipped is borrowed, whatever it is.
pub(crate) fn where_clause_of_view(input: &Input) -> WhereClause {
    let mut clause = input
        .syntax
        .generics
        .where_clause
        .clone()
        .unwrap_or_else(|| parse_quote!(where));
    clause.predicates.extend(
        input
            .fields()
            .flat_map(|field| view_bounds_of(input, field)),
    );
    clause
}

fn view_bounds_of(input: &Input, field: &Field) -> Vec<WherePredicate> {
    let (ty, krate, words) = (field.ty, &input.krate, words(field.ty.to_token_stream()));
    let parameters = parameters_among(&words, input);
    match field.role() {
        Role::Skipped { .. } => vec![],
        _ if parameters.is_empty() => vec![],
        Role::Child { .. } if is_recursive(&words, input) => parameters
            .iter()
            .map(|parameter| parse_quote!(#parameter: #krate::Viewable + 'static))
            .collect(),
        Role::Child { .. } => vec![parse_quote!(#ty: #krate::Viewable)],
        Role::Param { .. } => {
            vec![parse_quote!(#ty: #krate::Viewable + #krate::__private::param::ParamElement)]
        }
    }
}

fn bounds_of(input: &Input, field: &Field) -> Vec<WherePredicate> {
    let (ty, krate, words) = (field.ty, &input.krate, words(field.ty.to_token_stream()));
    let parameters = parameters_among(&words, input);
    match field.role() {
        _ if parameters.is_empty() => vec![],
        Role::Param { .. } => vec![parse_quote!(#ty: #krate::__private::param::ParamElement)],
        Role::Skipped { default: false } => vec![parse_quote!(#ty: ::core::clone::Clone)],
        Role::Skipped { default: true } => vec![parse_quote!(#ty: ::core::default::Default)],
        Role::Child { .. } if is_recursive(&words, input) => parameters
            .iter()
            .map(|parameter| parse_quote!(#parameter: #krate::Tree + 'static))
            .collect(),
        Role::Child { .. } => vec![parse_quote!(#ty: #krate::Tree)],
    }
}

/// All words in a type, in whatever sense: one that is taken for a parameter and is none gives a
/// bound too many, which does no harm.
fn words(ty: TokenStream) -> Vec<String> {
    let words = ty.into_iter().map(|token| match token {
        TokenTree::Ident(word) => vec![word.to_string()],
        TokenTree::Group(group) => words(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => vec![],
    });
    words.flatten().collect()
}

/// `Self` stands for all of them.
fn parameters_among<'a>(words: &[String], input: &'a Input) -> Vec<&'a Ident> {
    let parameters = input
        .syntax
        .generics
        .type_params()
        .map(|parameter| &parameter.ident);
    parameters
        .filter(|parameter| {
            words
                .iter()
                .any(|word| *parameter == word || word == "Self")
        })
        .collect()
}

pub(crate) fn mentions_parameter(input: &Input, ty: &Type) -> bool {
    !parameters_among(&words(ty.to_token_stream()), input).is_empty()
}

fn is_recursive(words: &[String], input: &Input) -> bool {
    words
        .iter()
        .any(|word| input.syntax.ident == word || word == "Self")
}
