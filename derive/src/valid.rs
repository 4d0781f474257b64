//! Every "not here": what parses but makes no sense, one message for each mistake, with what to
//! write instead.

use proc_macro2::TokenStream;
use syn::{Attribute, Data, Error, Ident, LitStr, Result, Type, parenthesized, token};

use crate::ast::{Field, Input, Role, Variant};
use crate::attr::Attrs;

pub(crate) fn check(input: &Input) -> Result<()> {
    check_type(&input.attrs)?;
    check_element(input)?;
    input.variants.iter().try_for_each(check_variant)?;
    input.fields().try_for_each(check_field)?;
    check_transparent(input)?;
    input.variants.iter().try_for_each(check_keys)
}

fn check_type(attrs: &Attrs) -> Result<()> {
    match attrs.field_words().next() {
        Some(word) => misplaced(word, "a field: write it above each field that it is for"),
        None => Ok(()),
    }
}

fn check_element(input: &Input) -> Result<()> {
    let Some(element) = &input.attrs.element else {
        return Ok(());
    };
    let attrs = &input.attrs;
    let others = [&attrs.params, &attrs.transparent, &attrs.view];
    if let Some(other) = others.into_iter().flatten().next() {
        let message = format!(
            "an element is one with its fields, and its own view: remove `{}` or `element`",
            other.name
        );
        return fail(&other.name, message);
    }
    if let Data::Enum(_) = input.syntax.data {
        return fail(
            &element.name,
            "the variants of an enum are no numbers side by side: an element is a struct",
        );
    }
    if input.fields().next().is_none() {
        return fail(
            &element.name,
            "an element consists of numbers: give the struct a field, or remove `element`",
        );
    }
    if let Some(word) = input
        .fields()
        .find_map(|field| field.attrs.field_words().next())
    {
        let message = format!(
            "an element is one with its fields: remove `{word}`, or `element` above the struct"
        );
        return fail(word, message);
    }
    if is_packed(&input.syntax.attrs) {
        return fail(
            &element.name,
            "the numbers of a packed struct lie anywhere: write `#[repr(C)]` alone",
        );
    }
    if !has_fixed_order(&input.syntax.attrs) {
        return fail(
            &element.name,
            "the fields of an element lie in memory in their order: write `#[repr(C)]` above the struct",
        );
    }
    Ok(())
}

/// Whether the fields lie in memory as they are written.
fn has_fixed_order(attributes: &[Attribute]) -> bool {
    has_repr(attributes, "C") || has_repr(attributes, "transparent")
}

fn is_packed(attributes: &[Attribute]) -> bool {
    has_repr(attributes, "packed")
}

fn has_repr(attributes: &[Attribute], wanted: &str) -> bool {
    let mut found = false;
    for attribute in attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("repr"))
    {
        // What is no representation is the compiler's to refuse.
        let _ = attribute.parse_nested_meta(|meta| {
            found |= meta.path.is_ident(wanted);
            if meta.input.peek(token::Paren) {
                let content;
                parenthesized!(content in meta.input);
                content.parse::<TokenStream>()?;
            }
            Ok(())
        });
    }
    found
}

fn check_variant(variant: &Variant) -> Result<()> {
    if let Some(word) = variant.attrs.field_words().next() {
        return misplaced(word, "a field: write it above the fields of the variant");
    }
    match variant.attrs.type_words().next() {
        Some(word) => misplaced(word, "the type: write it above the enum"),
        None => Ok(()),
    }
}

fn check_field(field: &Field) -> Result<()> {
    if let Some(element) = &field.attrs.element {
        return fail(
            &element.name,
            "`element` belongs to a type: for another library's, write a `#[repr(transparent)]` struct around it, with `#[tree(element = f32)]`",
        );
    }
    if let Some(word) = field.attrs.type_words().next() {
        return misplaced(word, "the type: write it above the struct or enum");
    }
    check_skip(&field.attrs)?;
    check_param(field)
}

fn check_skip(attrs: &Attrs) -> Result<()> {
    match (&attrs.skip, &attrs.default, &attrs.frozen, &attrs.param) {
        (None, Some(default), ..) => fail(
            &default.name,
            "`default` says how to fill a skipped field: write `#[tree(skip, default)]`",
        ),
        (Some(_), _, Some(frozen), _) => fail(
            &frozen.name,
            "a skipped field is no part of the tree: write `frozen` to keep it in the tree untrained, or `skip`",
        ),
        (Some(_), _, _, Some(param)) => fail(
            &param.name,
            "a skipped field is no part of the tree: write `param` to make it a parameter, or `skip`",
        ),
        _ => Ok(()),
    }
}

fn check_param(field: &Field) -> Result<()> {
    match (field.role(), &field.attrs.param) {
        (Role::Param { .. }, Some(param)) if is_array(field.ty) => fail(
            &param.name,
            "`param` is for a bare float; an array is a parameter as it is: remove `param`",
        ),
        _ => Ok(()),
    }
}

/// By the look of it: what is no float is refused by the compiler in any case, in more words.
fn is_array(ty: &Type) -> bool {
    match ty {
        Type::Array(_) => true,
        Type::Group(group) => is_array(&group.elem),
        Type::Path(path) => path
            .path
            .segments
            .last()
            .is_some_and(|last| is_array_name(&last.ident.to_string())),
        _ => false,
    }
}

fn is_array_name(name: &str) -> bool {
    name == "Vec" || name.starts_with("Array") || name.starts_with("ArcArray")
}

fn check_transparent(input: &Input) -> Result<()> {
    let Some(transparent) = &input.attrs.transparent else {
        return Ok(());
    };
    if let Data::Enum(_) = input.syntax.data {
        return fail(
            &transparent.name,
            "a variant never adds a segment: remove `transparent`, which is for a struct of one field",
        );
    }
    let fields = input.fields().filter(|field| !field.is_skipped()).count();
    if fields != 1 {
        let message = format!(
            "`transparent` needs one field that is not skipped, found {fields}: remove it, or skip the others"
        );
        return fail(&transparent.name, message);
    }
    match input.fields().find_map(|field| field.attrs.rename.as_ref()) {
        Some(rename) => fail(
            &rename.name,
            "a field of a transparent struct has no name in paths: remove `rename` or `transparent`",
        ),
        None => Ok(()),
    }
}

fn check_keys(variant: &Variant) -> Result<()> {
    // Names as they are differ, so that two equal keys are the work of a `rename`.
    let renames = variant
        .fields
        .iter()
        .filter_map(|field| field.attrs.rename.as_ref());
    renames
        .map(|rename| &rename.value)
        .try_for_each(|name| check_key(variant, name))
}

fn check_key(variant: &Variant, name: &LitStr) -> Result<()> {
    let key = name.value();
    match variant
        .fields
        .iter()
        .filter(|field| field.key().to_string() == key)
        .count()
    {
        1 => Ok(()),
        _ => Err(Error::new(
            name.span(),
            format!("another field has the key `{key}` too: write another name"),
        )),
    }
}

fn misplaced(word: &Ident, place: &str) -> Result<()> {
    fail(word, format!("`{word}` belongs to {place}"))
}

fn fail(word: &Ident, message: impl std::fmt::Display) -> Result<()> {
    Err(Error::new(word.span(), message))
}
