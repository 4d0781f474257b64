//! `#[tree(…)]` into [`Attrs`]. Every word is understood everywhere; where it may stand is for
//! [`valid`](crate::valid).

use quote::ToTokens as _;
use syn::meta::ParseNestedMeta;
use syn::parse::{ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{
    Attribute, Error, Ident, LitStr, Meta, Path, Result, Token, Type, WherePredicate, parse_quote,
    token,
};

/// All words of the `#[tree(…)]` attributes at one place.
#[derive(Default)]
pub(crate) struct Attrs {
    pub(crate) frozen: Option<Word>,
    pub(crate) skip: Option<Word>,
    pub(crate) default: Option<Word>,
    pub(crate) param: Option<Word>,
    pub(crate) rename: Option<Word<LitStr>>,
    pub(crate) params: Option<Word>,
    pub(crate) transparent: Option<Word>,
    pub(crate) view: Option<Word>,
    /// With the type of the numbers, unless the fields say it.
    pub(crate) element: Option<Word<Option<Type>>>,
    pub(crate) object: Vec<Word<Type>>,
    pub(crate) bound: Option<Word<Predicates>>,
    pub(crate) krate: Option<Word<Path>>,
}

/// A word as it was written, and its value.
pub(crate) struct Word<T = ()> {
    pub(crate) name: Ident,
    pub(crate) value: T,
}

pub(crate) type Predicates = Punctuated<WherePredicate, Token![,]>;

const KNOWN: &str = "a field takes `frozen`, `skip`, `skip, default`, `param`, `rename = \"...\"`; \
                     a type takes `params`, `transparent`, `view`, `element`, `element = f32`, `object = \"...\"`, `bound = \"...\"`, `crate = \"...\"`";

pub(crate) fn parse(attributes: &[Attribute]) -> Result<Attrs> {
    let mut attrs = Attrs::default();
    ours(attributes).try_for_each(|attribute| attrs.read(attribute))?;
    Ok(attrs)
}

/// Where flatleaf is, as far as it can be told when another attribute is wrong.
pub(crate) fn krate_despite_mistakes(attributes: &[Attribute]) -> Path {
    let mut attrs = Attrs::default();
    for attribute in ours(attributes) {
        // Reported elsewhere; what stands before the mistake counts.
        let _ = attrs.read(attribute);
    }
    attrs.krate()
}

fn ours(attributes: &[Attribute]) -> impl Iterator<Item = &Attribute> {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("tree"))
}

impl Attrs {
    pub(crate) fn krate(&self) -> Path {
        self.krate
            .as_ref()
            .map_or_else(|| parse_quote!(::flatleaf), |word| word.value.clone())
    }

    /// The words that only a field takes.
    pub(crate) fn field_words(&self) -> impl Iterator<Item = &Ident> {
        let flags = [&self.frozen, &self.skip, &self.default, &self.param];
        flags
            .into_iter()
            .flatten()
            .map(Word::name)
            .chain(self.rename.iter().map(Word::name))
    }

    /// The words that only a type takes.
    pub(crate) fn type_words(&self) -> impl Iterator<Item = &Ident> {
        let flags = [&self.params, &self.transparent, &self.view];
        let flags = flags.into_iter().flatten().map(Word::name);
        let element = self.element.iter().map(Word::name);
        let objects = self.object.iter().map(Word::name);
        let (bound, krate) = (
            self.bound.iter().map(Word::name),
            self.krate.iter().map(Word::name),
        );
        let words = flags.chain(element).chain(objects);
        words.chain(bound).chain(krate)
    }

    fn read(&mut self, attribute: &Attribute) -> Result<()> {
        match attribute.meta {
            Meta::List(_) => attribute.parse_nested_meta(|meta| self.add(&meta)),
            _ => Err(Error::new_spanned(
                attribute,
                format!("write `#[tree(...)]`: {KNOWN}"),
            )),
        }
    }

    fn add(&mut self, meta: &ParseNestedMeta) -> Result<()> {
        let name = meta.path.get_ident().ok_or_else(|| unknown(meta))?;
        match name.to_string().as_str() {
            "frozen" => set(&mut self.frozen, flag(name, meta)?),
            "skip" => set(&mut self.skip, flag(name, meta)?),
            "default" => set(&mut self.default, flag(name, meta)?),
            "param" => set(&mut self.param, flag(name, meta)?),
            "rename" => set(&mut self.rename, text(name, "name", meta)?),
            "params" => set(&mut self.params, flag(name, meta)?),
            "transparent" => set(&mut self.transparent, flag(name, meta)?),
            "view" => set(&mut self.view, flag(name, meta)?),
            "element" => set(&mut self.element, element(name, meta)?),
            "object" => add_object(
                &mut self.object,
                parsed(name, "dyn Layer + Send", trait_object, meta)?,
            ),
            "bound" => set(
                &mut self.bound,
                parsed(
                    name,
                    "T: Tree, U: Clone",
                    Predicates::parse_terminated,
                    meta,
                )?,
            ),
            "crate" => set(
                &mut self.krate,
                parsed(name, "path::to::flatleaf", Path::parse_mod_style, meta)?,
            ),
            _ => Err(unknown(meta)),
        }
    }
}

impl<T> Word<T> {
    fn name(&self) -> &Ident {
        &self.name
    }
}

fn unknown(meta: &ParseNestedMeta) -> Error {
    Error::new_spanned(&meta.path, format!("unknown word in `tree`: {KNOWN}"))
}

fn set<T>(slot: &mut Option<Word<T>>, word: Word<T>) -> Result<()> {
    if slot.is_some() {
        return Err(Error::new(
            word.name.span(),
            format!("`{}` is here twice: write it once", word.name),
        ));
    }
    *slot = Some(word);
    Ok(())
}

fn add_object(objects: &mut Vec<Word<Type>>, object: Word<Type>) -> Result<()> {
    let text = object.value.to_token_stream().to_string();
    if objects
        .iter()
        .any(|other| other.value.to_token_stream().to_string() == text)
    {
        return Err(Error::new(
            object.value.span(),
            format!("`{text}` is named twice: name it once"),
        ));
    }
    objects.push(object);
    Ok(())
}

fn flag(name: &Ident, meta: &ParseNestedMeta) -> Result<Word> {
    if meta.input.peek(Token![=]) || meta.input.peek(token::Paren) {
        return Err(Error::new(
            name.span(),
            format!("`{name}` takes no value: write `#[tree({name})]`"),
        ));
    }
    Ok(Word {
        name: name.clone(),
        value: (),
    })
}

fn element(name: &Ident, meta: &ParseNestedMeta) -> Result<Word<Option<Type>>> {
    let is_stated = meta.input.peek(Token![=]);
    let stated = is_stated.then(|| meta.value().and_then(|value| value.parse()));
    match stated.transpose() {
        Ok(value) if !meta.input.peek(token::Paren) => Ok(Word {
            name: name.clone(),
            value,
        }),
        _ => Err(Error::new(
            name.span(),
            "`element` takes the type of the numbers, if anything: write `#[tree(element)]` or `#[tree(element = f32)]`",
        )),
    }
}

fn text(name: &Ident, example: &str, meta: &ParseNestedMeta) -> Result<Word<LitStr>> {
    match meta.value().and_then(|value| value.parse()) {
        Ok(value) => Ok(Word {
            name: name.clone(),
            value,
        }),
        Err(_) => Err(Error::new(
            name.span(),
            format!("`{name}` takes a string: write `#[tree({name} = \"{example}\")]`"),
        )),
    }
}

fn parsed<P: Parser>(
    name: &Ident,
    example: &str,
    parser: P,
    meta: &ParseNestedMeta,
) -> Result<Word<P::Output>> {
    let Word { name, value } = text(name, example, meta)?;
    match value.parse_with(parser) {
        Ok(value) => Ok(Word { name, value }),
        Err(error) => Err(Error::new(
            value.span(),
            format!("{error}: write `#[tree({name} = \"{example}\")]`, say"),
        )),
    }
}

fn trait_object(input: ParseStream) -> Result<Type> {
    match input.parse()? {
        object @ Type::TraitObject(_) => Ok(object),
        other => Err(Error::new_spanned(other, "expected a trait object")),
    }
}
