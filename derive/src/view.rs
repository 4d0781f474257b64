//! `#[tree(view)]`: two types that look like the input, for reading and for writing, and the
//! `impl Viewable` that makes them.
//!
//! A field of a view has the type that the trait says, `<Vec<Dense> as Viewable>::View<'v>`, and
//! not one that is guessed from how the field's type is written: an alias, a type parameter and a
//! user's own container are all right then. What has no field is its own view, by reference: a
//! struct of a lifetime and nothing else would not look like it.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Data, Field as FieldSyntax, Fields, GenericParam, Generics, Ident, Lifetime,
    LifetimeParam, WhereClause, parse_quote,
};

use crate::ast::{Field, Input, Role, Variant};
use crate::bound;
use crate::expand::pattern;

/// For reading or for writing.
#[derive(Clone, Copy, PartialEq)]
enum Access {
    Read,
    Write,
}

/// Nothing, unless it is asked for.
pub(crate) fn expand(input: &Input) -> TokenStream {
    if input.attrs.view.is_none() {
        return quote!();
    }
    let read = View::new(input, Access::Read);
    let write = View::new(input, Access::Write);
    let (definitions, methods) = (
        [read.definition(), write.definition()],
        [read.method(), write.method()],
    );
    let types = [read.associated_type(), write.associated_type()];
    let (krate, name) = (&input.krate, &input.syntax.ident);
    let (impl_generics, type_generics, _) = input.syntax.generics.split_for_impl();
    let where_clause = bound::where_clause_of_view(input);
    quote! {
        #(#definitions)*

        #[automatically_derived]
        #[allow(deprecated, unused_parens, unused_qualifications)]
        #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
        impl #impl_generics #krate::Viewable for #name #type_generics #where_clause {
            #(#types)*
            type Items = #krate::implementing::Branches;
            #(#methods)*
        }
    }
}

/// One of the two views of an input.
struct View<'i, 'a> {
    input: &'i Input<'a>,
    access: Access,
    name: Ident,
    lifetime: Lifetime,
    /// Those of the input behind the lifetime of the view.
    generics: Generics,
}

impl<'i, 'a> View<'i, 'a> {
    fn new(input: &'i Input<'a>, access: Access) -> Self {
        let ending = match access {
            Access::Read => "View",
            Access::Write => "ViewMut",
        };
        let lifetime = lifetime(&input.syntax.generics);
        View {
            input,
            access,
            name: format_ident!("{}{ending}", input.syntax.ident),
            generics: generics(input, &lifetime),
            lifetime,
        }
    }

    fn definition(&self) -> TokenStream {
        let View { name, generics, .. } = self;
        let (visibility, docs) = (&self.input.syntax.vis, self.docs());
        let where_clause = &generics.where_clause;
        let body = match &self.input.syntax.data {
            _ if self.is_without_fields() => {
                let (_, type_generics, _) = self.input.syntax.generics.split_for_impl();
                let (model, lifetime) = (&self.input.syntax.ident, &self.lifetime);
                let params = alias_params(generics);
                return quote! {
                    #docs
                    #[allow(dead_code, type_alias_bounds)]
                    #visibility type #name <#params> = &#lifetime #model #type_generics;
                };
            }
            Data::Struct(data) => {
                let fields = self.fields(&self.input.variants[0], &data.fields);
                match data.fields {
                    Fields::Named(_) => quote!(struct #name #generics #where_clause { #fields }),
                    _ => quote!(struct #name #generics ( #fields ) #where_clause;),
                }
            }
            Data::Enum(data) => {
                let variants = self.input.variants.iter().zip(&data.variants);
                let variants = variants.map(|(variant, syntax)| {
                    let (ident, docs) = (&syntax.ident, docs_of(&syntax.attrs));
                    let fields = self.fields(variant, &syntax.fields);
                    match syntax.fields {
                        Fields::Named(_) => quote!(#(#docs)* #ident { #fields }),
                        Fields::Unnamed(_) => quote!(#(#docs)* #ident ( #fields )),
                        Fields::Unit => quote!(#(#docs)* #ident),
                    }
                });
                quote!(enum #name #generics #where_clause { #(#variants),* })
            }
            Data::Union(_) => return quote!(),
        };
        quote! {
            #docs
            #[allow(dead_code, deprecated, missing_docs, unused_parens, unused_qualifications)]
            #[allow(clippy::all, clippy::pedantic, clippy::nursery, clippy::restriction)]
            #visibility #body
        }
    }

    fn docs(&self) -> TokenStream {
        let model = &self.input.syntax.ident;
        let text = match self.access {
            Access::Read => {
                format!("A view of [`{model}`] that reads: its arrays are over a flat vector.")
            }
            Access::Write => {
                format!("A view of [`{model}`] that writes: its arrays are over a flat vector.")
            }
        };
        quote!(#[doc = #text])
    }

    fn fields(&self, variant: &Variant, syntax: &Fields) -> TokenStream {
        let fields = variant.fields.iter().zip(syntax);
        let fields = fields.map(|(field, syntax)| {
            let FieldSyntax {
                vis, ident, attrs, ..
            } = syntax;
            let (ty, docs) = (self.field_type(field), docs_of(attrs));
            let colon = ident.as_ref().map(|_| quote!(:));
            quote!(#(#docs)* #vis #ident #colon #ty)
        });
        quote!(#(#fields),*)
    }

    fn field_type(&self, field: &Field) -> TokenStream {
        let (krate, ty, lifetime) = (&self.input.krate, field.ty, &self.lifetime);
        let span = ty.span();
        // Where the type is named is where it is said that it has no view.
        let viewable = quote_spanned!(span=> #krate::Viewable);
        match (field.role(), self.access) {
            (Role::Skipped { .. }, _) => quote!(&#lifetime #ty),
            (Role::Child { .. }, Access::Read) if !self.input.has_params() => {
                quote_spanned!(span=> <#ty as #viewable>::View<#lifetime>)
            }
            (Role::Child { .. }, Access::Write) if !self.input.has_params() => {
                quote_spanned!(span=> <#ty as #viewable>::ViewMut<#lifetime>)
            }
            (_, Access::Read) => quote!(#krate::__private::Param<#lifetime, #ty>),
            (_, Access::Write) => quote!(#krate::__private::ParamMut<#lifetime, #ty>),
        }
    }

    fn associated_type(&self) -> TokenStream {
        let View { name, lifetime, .. } = self;
        let associated = match self.access {
            Access::Read => quote!(View),
            Access::Write => quote!(ViewMut),
        };
        let arguments = arguments(&self.input.syntax.generics);
        quote!(type #associated<#lifetime> = #name<#lifetime #(, #arguments)*> where Self: #lifetime;)
    }

    fn method(&self) -> TokenStream {
        let View {
            input, lifetime, ..
        } = self;
        let krate = &input.krate;
        let (method, leaves, associated) = match self.access {
            Access::Read => (quote!(view_from), quote!(LeafViews), quote!(View)),
            Access::Write => (quote!(view_mut_from), quote!(LeafViewsMut), quote!(ViewMut)),
        };
        let body = if self.is_without_fields() {
            quote!(::core::result::Result::Ok(self))
        } else {
            let arms = input.variants.iter().map(|variant| self.arm(variant));
            quote!(match *self { #(#arms)* })
        };
        quote! {
            fn #method<#lifetime>(
                &#lifetime self,
                __leaves: &mut #krate::implementing::#leaves<#lifetime>,
            ) -> #krate::Result<Self::#associated<#lifetime>> {
                #body
            }
        }
    }

    fn arm(&self, variant: &Variant) -> TokenStream {
        let name = &self.name;
        let path = match variant.name {
            None => quote!(#name),
            Some(variant) => quote!(#name::#variant),
        };
        let fields = variant.fields.iter().map(|field| self.field(field));
        let pattern = pattern(variant, &quote!(ref));
        quote!(#pattern => ::core::result::Result::Ok(#path { #(#fields),* }),)
    }

    fn field(&self, field: &Field) -> TokenStream {
        let Field {
            member,
            ty,
            binding,
            ..
        } = field;
        let krate = &self.input.krate;
        match field.role() {
            Role::Skipped { .. } => quote!(#member: #binding),
            Role::Child { .. } if !self.input.has_params() => {
                quote!(#member: __leaves.child::<#ty>(#binding)?)
            }
            Role::Child { .. } | Role::Param { .. } => {
                let method = match self.access {
                    Access::Read => quote!(param),
                    Access::Write => quote!(param_mut),
                };
                quote!(#member: <<#ty as #krate::Viewable>::Items as #krate::__private::Items<#ty>>::#method(#binding, __leaves)?)
            }
        }
    }

    fn is_without_fields(&self) -> bool {
        self.input.fields().next().is_none()
    }
}

/// `'v`, unless the input has one of its own.
fn lifetime(generics: &Generics) -> Lifetime {
    let is_taken = generics
        .lifetimes()
        .any(|param| param.lifetime.ident == "v");
    let name = if is_taken { "'__view" } else { "'v" };
    Lifetime::new(name, Span::call_site())
}

fn generics(input: &Input, lifetime: &Lifetime) -> Generics {
    let mut generics = input.syntax.generics.clone();
    let mut clause: WhereClause = bound::where_clause_of_view(input);
    // What is borrowed for so long lives for so long.
    for param in &generics.params {
        match param {
            GenericParam::Lifetime(param) => {
                let outer = &param.lifetime;
                clause.predicates.push(parse_quote!(#outer: #lifetime));
            }
            GenericParam::Type(param) => {
                let ident = &param.ident;
                clause.predicates.push(parse_quote!(#ident: #lifetime));
            }
            GenericParam::Const(_) => {}
        }
    }
    let view = GenericParam::Lifetime(LifetimeParam::new(lifetime.clone()));
    generics.params.insert(0, view);
    generics.where_clause = Some(clause);
    generics
}

/// The parameters without bounds and defaults, as an alias has them.
fn alias_params(generics: &Generics) -> TokenStream {
    let params = generics.params.iter().map(|param| match param {
        GenericParam::Const(param) => {
            let (ident, ty) = (&param.ident, &param.ty);
            quote!(const #ident: #ty)
        }
        other => argument(other),
    });
    quote!(#(#params),*)
}

fn arguments(generics: &Generics) -> Vec<TokenStream> {
    generics.params.iter().map(argument).collect()
}

/// A parameter by its name alone.
fn argument(param: &GenericParam) -> TokenStream {
    match param {
        GenericParam::Lifetime(param) => param.lifetime.to_token_stream(),
        GenericParam::Type(param) => param.ident.to_token_stream(),
        GenericParam::Const(param) => param.ident.to_token_stream(),
    }
}

fn docs_of(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"))
}
