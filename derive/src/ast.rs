//! The typed view: a struct is an enum of one variant, so that every later pass knows variants and
//! fields only.

use std::fmt;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt as _;
use syn::{Data, DeriveInput, Error, Fields, Ident, Index, Member, Path, Result, Type};

use crate::attr::{self, Attrs};

pub(crate) struct Input<'a> {
    pub(crate) syntax: &'a DeriveInput,
    pub(crate) attrs: Attrs,
    /// The path to flatleaf.
    pub(crate) krate: Path,
    pub(crate) variants: Vec<Variant<'a>>,
}

pub(crate) struct Variant<'a> {
    /// `None` is the struct itself.
    pub(crate) name: Option<&'a Ident>,
    pub(crate) attrs: Attrs,
    pub(crate) fields: Vec<Field<'a>>,
}

pub(crate) struct Field<'a> {
    pub(crate) attrs: Attrs,
    pub(crate) ty: &'a Type,
    pub(crate) member: Member,
    /// The variable that holds a reference to the field.
    pub(crate) binding: Ident,
}

/// What a field is in the tree.
pub(crate) enum Role {
    Child { frozen: bool },
    Param { frozen: bool },
    Skipped { default: bool },
}

/// The segment that a field adds to a path.
pub(crate) enum Key {
    Name(String),
    Index(usize),
}

impl<'a> Input<'a> {
    pub(crate) fn new(syntax: &'a DeriveInput) -> Result<Self> {
        let attrs = attr::parse(&syntax.attrs)?;
        let variants = match &syntax.data {
            Data::Struct(data) => vec![Variant::new(None, Attrs::default(), &data.fields)?],
            Data::Enum(data) => data
                .variants
                .iter()
                .map(Variant::of_enum)
                .collect::<Result<_>>()?,
            Data::Union(data) => {
                return Err(Error::new(
                    data.union_token.span,
                    "a union does not know which field is active: write an enum",
                ));
            }
        };
        Ok(Input {
            syntax,
            krate: attrs.krate(),
            attrs,
            variants,
        })
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field<'a>> {
        self.variants.iter().flat_map(|variant| &variant.fields)
    }

    /// Whether every bare float among the fields is a parameter.
    pub(crate) fn has_params(&self) -> bool {
        self.attrs.params.is_some()
    }

    pub(crate) fn is_transparent(&self) -> bool {
        self.attrs.transparent.is_some()
    }
}

impl<'a> Variant<'a> {
    fn new(name: Option<&'a Ident>, attrs: Attrs, fields: &'a Fields) -> Result<Self> {
        let fields = fields
            .iter()
            .enumerate()
            .map(|(index, field)| Field::new(index, field))
            .collect::<Result<_>>()?;
        Ok(Variant {
            name,
            attrs,
            fields,
        })
    }

    fn of_enum(variant: &'a syn::Variant) -> Result<Self> {
        Variant::new(
            Some(&variant.ident),
            attr::parse(&variant.attrs)?,
            &variant.fields,
        )
    }

    pub(crate) fn path(&self) -> TokenStream {
        self.name
            .map_or_else(|| quote!(Self), |name| quote!(Self::#name))
    }
}

impl<'a> Field<'a> {
    fn new(index: usize, field: &'a syn::Field) -> Result<Self> {
        let member = field
            .ident
            .clone()
            .map_or_else(|| Member::Unnamed(Index::from(index)), Member::Named);
        let binding = format_ident!("__{index}");
        Ok(Field {
            attrs: attr::parse(&field.attrs)?,
            ty: &field.ty,
            member,
            binding,
        })
    }

    pub(crate) fn role(&self) -> Role {
        let frozen = self.attrs.frozen.is_some();
        if self.attrs.skip.is_some() {
            Role::Skipped {
                default: self.attrs.default.is_some(),
            }
        } else if self.attrs.param.is_some() {
            Role::Param { frozen }
        } else {
            Role::Child { frozen }
        }
    }

    pub(crate) fn is_skipped(&self) -> bool {
        matches!(self.role(), Role::Skipped { .. })
    }

    pub(crate) fn key(&self) -> Key {
        match (&self.attrs.rename, &self.member) {
            (Some(rename), _) => Key::Name(rename.value.value()),
            (None, Member::Named(ident)) => Key::Name(ident.unraw().to_string()),
            (None, Member::Unnamed(index)) => Key::Index(index.index as usize),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Name(name) => f.write_str(name),
            Key::Index(index) => write!(f, "{index}"),
        }
    }
}
