//! candle's variables as a tree.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use candle_core::{DType, Tensor, TensorId, Var, WithDType};
use candle_nn::VarMap;
use flatleaf::implementing::{
    Builder, DottedNames, Identity, LeafMut, LeafRef, Reader, Visitor, VisitorMut, Writer,
};
use flatleaf::{Error, Result, Tree};

use crate::elements::{self, Held, with_element_type};
use crate::from_candle;

/// candle's variables as a tree: dots in their names are levels, and the order is that of the names,
/// numbers by value, whatever order a hash map has them in.
///
/// It holds the variables themselves, as every clone of a [`Var`] does: what is written here is what
/// the model computes with. A variable of two names is one parameter at two places, by its
/// [`TensorId`]; variables of equal values never are. `f32`, `f64`, `f16` and `bf16` are trained,
/// integers are carried along.
///
/// Read and written as a [`Tree`] it locks one variable at a time, and copies: [`lend`](VarTree::lend)
/// is the tree that does not. Steps, which have to be fast, are
/// [`FlatOptimizer`](crate::FlatOptimizer)'s.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::{VarBuilder, VarMap, linear};
/// use flatleaf::Layout;
/// use flatleaf_candle::VarTree;
///
/// let map = VarMap::new();
/// let builder = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
/// let _body = linear(3, 2, builder.pp("body"))?;
/// let _head = linear(2, 1, builder.pp("head"))?;
///
/// let mut vars = VarTree::of(&map)?;
/// let layout = Layout::of(&vars)?;
/// println!("{layout}"); // a table of paths, shapes and types
/// let paths: Vec<_> = layout.leaves().iter().map(|leaf| leaf.path()).collect();
/// assert_eq!(paths, ["body.bias", "body.weight", "head.bias", "head.weight"]);
///
/// let flat = layout.gather(&vars)?;
/// layout.restructure_into(&mut vars, &vec![0.5; flat.len()])?; // into the model's own variables
/// assert_eq!(vars.get("head.bias").unwrap().to_vec1::<f32>()?, [0.5]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct VarTree {
    names: DottedNames,
    /// One for each name.
    entries: Vec<Entry>,
    may_lend: bool,
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) var: Var,
    /// Here too, so that looking for gradients touches no variable: ten thousand small ones are more
    /// than a cache holds.
    pub(crate) id: TensorId,
    shape: InlineShape,
    /// Where its elements are in its storage, if they are of f32, in row-major order and in host
    /// memory: none of it changes while there is the variable.
    pub(crate) plain: Option<Range<usize>>,
    /// The first name of the same variable.
    pub(crate) first: usize,
    /// Of a variable of several names.
    identity: Option<Identity>,
}

/// Where the elements of a variable are that can be stepped where they are.
fn plain(var: &Var) -> Option<Range<usize>> {
    let is_plain = var.dtype() == DType::F32 && var.device().is_cpu();
    let (start, end) = var.layout().contiguous_offsets().filter(|_| is_plain)?;
    Some(start..end)
}

impl Entry {
    #[inline]
    pub(crate) fn has_shape(&self, dims: &[usize]) -> bool {
        match &self.shape {
            InlineShape::Few(axes, shape) => shape[..*axes] == *dims,
            InlineShape::Many => self.var.dims() == dims,
        }
    }
}

/// A shape without memory of its own, if it has few axes.
#[derive(Clone)]
enum InlineShape {
    Few(usize, [usize; 4]),
    Many,
}

impl InlineShape {
    fn of(dims: &[usize]) -> Self {
        let mut shape = [0; 4];
        match shape.get_mut(..dims.len()) {
            Some(few) => {
                few.copy_from_slice(dims);
                InlineShape::Few(dims.len(), shape)
            }
            None => InlineShape::Many,
        }
    }
}

impl VarTree {
    /// The variables of a map, under their names.
    ///
    /// They are those that the map has now: a layer that is built later adds more.
    ///
    /// # Errors
    /// `is_duplicate`: a name that is the beginning of another's, `w` and `w.scale`, with both.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_nn::{Init, VarMap};
    /// use flatleaf_candle::VarTree;
    ///
    /// let map = VarMap::new();
    /// for name in ["layers.10.w", "layers.9.w"] {
    ///     map.get(2, name, Init::Const(0.0), DType::F32, &Device::Cpu)?;
    /// }
    /// assert_eq!(VarTree::of(&map)?.names().collect::<Vec<_>>(), ["layers.9.w", "layers.10.w"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(map: &VarMap) -> Result<Self> {
        let data = map.data().lock();
        let data = data.map_err(|_| Error::custom("the map's lock is poisoned by a panic"))?;
        VarTree::named(data.iter().map(|(name, var)| (name.clone(), var.clone())))
    }

    /// Variables under names of one's own, in any order.
    ///
    /// # Errors
    /// `is_duplicate`: a name that comes twice, or that is the beginning of another's, with both.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::Layout;
    /// use flatleaf_candle::VarTree;
    ///
    /// let shared = Var::new(&[1.0_f32, 2.0], &Device::Cpu)?;
    /// let vars = VarTree::named([("wte.weight", shared.clone()), ("lm_head.weight", shared)])?;
    /// let layout = Layout::of(&vars)?;
    /// assert_eq!(layout.leaves()[0].places(), ["lm_head.weight", "wte.weight"]); // one parameter
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn named<N: Into<String>>(vars: impl IntoIterator<Item = (N, Var)>) -> Result<Self> {
        let (names, vars) = DottedNames::sort(vars)?;
        let mut first: HashMap<TensorId, (usize, usize)> = HashMap::with_capacity(vars.len());
        for (index, var) in vars.iter().enumerate() {
            first.entry(var.id()).or_insert((index, 0)).1 += 1;
        }
        let entry = |var: Var| {
            let (first, count) = first[&var.id()];
            let identity = (count > 1).then(|| Identity::of(var.id()));
            Entry {
                id: var.id(),
                shape: InlineShape::of(var.dims()),
                plain: plain(&var),
                var,
                first,
                identity,
            }
        };
        let entries = vars.into_iter().map(entry).collect();
        Ok(VarTree {
            names,
            entries,
            may_lend: true,
        })
    }

    /// The variables whose names begin with a prefix and a dot, without them: one of several
    /// networks in a map.
    ///
    /// # Errors
    /// `is_custom`, with the prefix: there is no such variable.
    ///
    /// ```
    /// use candle_core::{DType, Device};
    /// use candle_nn::{Init, VarMap};
    /// use flatleaf_candle::VarTree;
    ///
    /// let map = VarMap::new();
    /// for name in ["actor.w", "critic.w"] {
    ///     map.get(2, name, Init::Const(0.0), DType::F32, &Device::Cpu)?;
    /// }
    /// let vars = VarTree::of(&map)?;
    /// assert_eq!(vars.below("actor")?.names().collect::<Vec<_>>(), ["w"]);
    /// assert!(vars.below("act").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn below(&self, prefix: &str) -> Result<Self> {
        let below = |(name, var): (&str, &Var)| {
            let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
            Some((rest.to_owned(), var.clone()))
        };
        let vars = VarTree::named(self.iter().filter_map(below))?;
        if vars.is_empty() {
            return Err(Error::custom(format_args!(
                "`{prefix}`: expected variables below it, found none of {}",
                self.len()
            )));
        }
        Ok(VarTree {
            may_lend: self.may_lend,
            ..vars
        })
    }

    /// The same variables, read and written through copies in host memory wherever they are: as
    /// variables on a device always are. To test on a CPU what a program does on a GPU.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::Layout;
    /// use flatleaf_candle::VarTree;
    ///
    /// let weight = Var::new(&[1.0_f32, 2.0], &Device::Cpu)?;
    /// let mut vars = VarTree::named([("w", weight.clone())])?.through_copies();
    /// Layout::of(&vars)?.restructure_into(&mut vars, &[3.0, 4.0])?;
    /// assert_eq!(weight.to_vec1::<f32>()?, [3.0, 4.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn through_copies(self) -> Self {
        VarTree {
            may_lend: false,
            ..self
        }
    }

    /// The names, in the order of the layout's places.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf_candle::VarTree;
    ///
    /// let var = || Var::new(1.0_f32, &Device::Cpu);
    /// let vars = VarTree::named([("b.10", var()?), ("b.9", var()?), ("a", var()?)])?;
    /// assert_eq!(vars.names().collect::<Vec<_>>(), ["a", "b.9", "b.10"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter()
    }

    /// The variable of a name; `None` if there is none.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf_candle::VarTree;
    ///
    /// let vars = VarTree::named([("w", Var::new(1.0_f32, &Device::Cpu)?)])?;
    /// assert!(vars.get("w").is_some() && vars.get("b").is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn get(&self, name: &str) -> Option<&Var> {
        let index = self.names.position(name)?;
        Some(&self.entries[index].var)
    }

    /// The variables with their names, in the order of the names. One of two names comes twice.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf_candle::VarTree;
    ///
    /// let vars = VarTree::named([("w", Var::new(&[1.0_f32, 2.0], &Device::Cpu)?)])?;
    /// let sizes: Vec<_> = vars.iter().map(|(name, var)| (name, var.elem_count())).collect();
    /// assert_eq!(sizes, [("w", 2)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        let vars = self.entries.iter().map(|entry| &entry.var);
        self.names.iter().zip(vars)
    }

    /// The number of names.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf_candle::VarTree;
    ///
    /// let shared = Var::new(1.0_f32, &Device::Cpu)?;
    /// assert_eq!(VarTree::named([("a", shared.clone()), ("b", shared)])?.len(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no variable.
    ///
    /// ```
    /// use flatleaf_candle::VarTree;
    ///
    /// assert!(VarTree::of(&candle_nn::VarMap::new())?.is_empty());
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A tree that lends the variables' elements where they are, without a copy, and holds candle's
    /// guards for reading until it is dropped.
    ///
    /// While it lives nobody can write the variables: a step waits, on the same thread for ever. Drop
    /// it before the next step; and do not hold it in a task of rayon's pool, other tasks of which
    /// write the variables. Variables on a device are copied here.
    ///
    /// # Errors
    /// `is_custom`: an element type that flatleaf has no arrays of, or a device that fails.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::Layout;
    /// use flatleaf_candle::VarTree;
    ///
    /// let vars = VarTree::named([("w", Var::new(&[3.0_f32, 4.0], &Device::Cpu)?)])?;
    /// let layout = Layout::of(&vars)?;
    /// assert_eq!(layout.norm_l2(&vars.lend()?)?, 5.0);
    /// assert_eq!(vars.lend()?.elements::<f32>("w"), Some(&[3.0, 4.0][..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn lend(&self) -> Result<Lent<'_>> {
        let mut held = Vec::with_capacity(self.len());
        for (index, entry) in self.entries.iter().enumerate() {
            held.push(match entry.first == index {
                true => Some(self.hold(&entry.var)?),
                false => None,
            });
        }
        Ok(Lent { vars: self, held })
    }

    /// A tree for reading in which every name is a leaf of its own, ties too: for a file that
    /// [`VarMap::load`] reads, which wants a tensor for every name.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf::checkpoint;
    /// use flatleaf_candle::VarTree;
    /// # let path = std::env::temp_dir().join(format!("flatleaf-candle-untied-{}", std::process::id()));
    ///
    /// let shared = Var::new(1.0_f32, &Device::Cpu)?;
    /// let vars = VarTree::named([("a", shared.clone()), ("b", shared)])?;
    /// checkpoint::save(&path, &vars)?; // the tensor once, and `b` as another name of it
    /// assert_eq!(checkpoint::open(&path)?.tensors().len(), 1);
    /// checkpoint::save(&path, &vars.untied())?;
    /// assert_eq!(checkpoint::open(&path)?.tensors().len(), 2);
    /// # std::fs::remove_file(path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn untied(&self) -> Untied<'_> {
        Untied(self)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn may_lend(&self) -> bool {
        self.may_lend
    }

    pub(crate) fn dotted_names(&self) -> &DottedNames {
        &self.names
    }

    fn hold<'t>(&self, tensor: &'t Tensor) -> Result<Held<'t>> {
        let held = match self.may_lend {
            true => Held::of(tensor),
            false => Held::copied(tensor),
        };
        held.map_err(from_candle)
    }

    fn visit_entries(&self, visitor: &mut dyn Visitor<'_>, has_ties: bool) -> Result<()> {
        self.names.visit(visitor, |index, visitor| {
            let Entry { var, identity, .. } = &self.entries[index];
            let shape = var.dims();
            with_element_type!(var.dtype(), E => {
                let reader = Reader::new(|out: &mut [E]| self.read(var, out));
                let leaf = LeafRef::from_reader(shape, &reader);
                match identity {
                    Some(identity) if has_ties => visitor.leaf(leaf.with_identity(identity)),
                    _ => visitor.leaf(leaf),
                }
            })
        })
    }

    fn read<E: elements::Stored>(&self, var: &Var, out: &mut [E]) -> Result<()> {
        let read = elements::read(var, self.may_lend, |elements: &[E]| {
            out.copy_from_slice(elements)
        });
        read.map_err(from_candle)
    }
}

impl Tree for VarTree {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.visit_entries(visitor, true)
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let may_lend = self.may_lend;
        self.names.visit_mut(visitor, |index, visitor| {
            let var = &self.entries[index].var;
            with_element_type!(var.dtype(), E => {
                let mut writer = Writer::new(|values: &[E]| {
                    let written = elements::change(var, may_lend, |elements: &mut [E]| {
                        elements.copy_from_slice(values)
                    });
                    written.map_err(from_candle)
                });
                visitor.leaf(LeafMut::from_writer(var.dims(), &mut writer))
            })
        })
    }

    /// New variables on the same devices; a tie is one new variable.
    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let mut made: Vec<Var> = Vec::with_capacity(self.len());
        self.names.rebuild(builder, |index, builder| {
            let Entry {
                var,
                first,
                identity,
                ..
            } = &self.entries[index];
            let new: Result<Var> = with_element_type!(var.dtype(), E => {
                let reader = Reader::new(|out: &mut [E]| self.read(var, out));
                let mut leaf = LeafRef::from_reader(var.dims(), &reader);
                if let Some(identity) = identity {
                    leaf = leaf.with_identity(identity);
                }
                let elements: Vec<E> = builder.leaf(leaf)?;
                Var::from_vec(elements, var.shape(), var.device()).map_err(from_candle)
            });
            made.push(match made.get(*first) {
                Some(first) => first.clone(),
                None => new?,
            });
            Ok(())
        })?;
        let vars = VarTree::named(self.names().zip(made))?;
        Ok(VarTree {
            may_lend: self.may_lend,
            ..vars
        })
    }

    flatleaf::rebuild_object!();
}

/// Names, shapes and element types.
impl fmt::Debug for VarTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let described = |(name, var): (_, &Var)| {
            let dtype = var.dtype().as_str();
            (name, format!("{dtype}{:?}", var.dims()))
        };
        f.debug_map().entries(self.iter().map(described)).finish()
    }
}

/// The variables of a [`VarTree`] with their elements lent: a tree for reading, which holds candle's
/// guards until it is dropped. Made by [`VarTree::lend`].
///
/// ```
/// use candle_core::{Device, Var};
/// use flatleaf::checkpoint;
/// use flatleaf_candle::VarTree;
/// # let path = std::env::temp_dir().join(format!("flatleaf-candle-lent-{}", std::process::id()));
///
/// let vars = VarTree::named([("w", Var::new(&[1.0_f32, 2.0], &Device::Cpu)?)])?;
/// checkpoint::save(&path, &vars.lend()?)?; // written from where it is
/// assert_eq!(checkpoint::open(&path)?.view::<f32>("w")?.len(), 2);
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Lent<'v> {
    vars: &'v VarTree,
    /// None at the further names of a variable.
    held: Vec<Option<Held<'v>>>,
}

impl Lent<'_> {
    /// The elements of a variable in row-major order, without a copy, if they are of type `E`;
    /// `None` if there is no variable of this name, or one of another type.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf_candle::VarTree;
    ///
    /// let vars = VarTree::named([("step", Var::new(&[7_i64], &Device::Cpu)?)])?;
    /// let lent = vars.lend()?;
    /// assert_eq!(lent.elements::<i64>("step"), Some(&[7][..]));
    /// assert_eq!(lent.elements::<f32>("step"), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn elements<E: WithDType>(&self, name: &str) -> Option<&[E]> {
        let index = self.vars.names.position(name)?;
        self.held[self.vars.entries[index].first]
            .as_ref()?
            .elements()
    }
}

impl Tree for Lent<'_> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.vars.names.visit(visitor, |index, visitor| {
            let Entry {
                var,
                first,
                identity,
                ..
            } = &self.vars.entries[index];
            let held = self.held[*first].as_ref().expect("held at its first name");
            visit_held(held, var.dtype(), var.dims(), identity.as_ref(), visitor)
        })
    }

    fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> {
        Err(read_only())
    }

    fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> {
        Err(read_only())
    }
}

#[cold]
pub(crate) fn read_only() -> Error {
    Error::custom(
        "expected a tree that can be written, found one for reading: the `VarTree` itself can be",
    )
}

/// Tells a visitor of elements that are held.
pub(crate) fn visit_held<'a>(
    held: &'a Held<'_>,
    dtype: DType,
    shape: &[usize],
    identity: Option<&Identity>,
    visitor: &mut dyn Visitor<'a>,
) -> Result<()> {
    with_element_type!(dtype, E => {
        let elements = held.elements::<E>();
        let elements = elements.ok_or_else(|| Error::custom("its elements are of another type than it says"))?;
        let leaf = LeafRef::from_slice(shape, elements);
        match identity {
            Some(identity) => visitor.leaf(leaf.with_identity(identity)),
            None => visitor.leaf(leaf),
        }
    })
}

/// The variables of a [`VarTree`] with every name a leaf of its own, for reading. Made by
/// [`VarTree::untied`].
///
/// ```
/// use candle_core::{Device, Var};
/// use flatleaf::Layout;
/// use flatleaf_candle::VarTree;
///
/// let shared = Var::new(1.0_f32, &Device::Cpu)?;
/// let vars = VarTree::named([("a", shared.clone()), ("b", shared)])?;
/// assert_eq!((Layout::of(&vars)?.len(), Layout::of(&vars.untied())?.len()), (1, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Untied<'v>(&'v VarTree);

impl Tree for Untied<'_> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.0.visit_entries(visitor, false)
    }

    fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> {
        Err(read_only())
    }

    fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> {
        Err(read_only())
    }
}
