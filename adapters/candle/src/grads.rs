//! The gradients of a backward pass as a tree.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, WithDType};
use flatleaf::implementing::{Builder, Visitor, VisitorMut};
use flatleaf::{Result, Tree};
use typed_arena::Arena;

use crate::elements::Held;
use crate::from_candle;
use crate::var_tree::{VarTree, read_only, visit_held};

/// The gradients that a backward pass left for the variables of a [`VarTree`], as a tree for
/// reading: absent where there is none.
///
/// candle adds up what comes from all uses of a variable, so a gradient is a total. A variable of
/// several names has it at its first name alone, so that it counts once however ties are read.
///
/// It holds candle's guards for reading until it is dropped, and lends the elements of gradients in
/// row-major order in host memory. Others are copied: strided ones, those on a device, and one that
/// shares its memory with a variable, which could not be written meanwhile.
///
/// ```
/// use candle_core::{Device, Var};
/// use flatleaf::Layout;
/// use flatleaf_candle::{Grads, VarTree};
///
/// let (a, b) = (Var::new(&[3.0_f32], &Device::Cpu)?, Var::new(&[1.0_f32], &Device::Cpu)?);
/// let vars = VarTree::named([("a", a.clone()), ("b", b)])?;
/// let layout = Layout::of(&vars)?;
/// let store = a.sqr()?.backward()?;
///
/// let grads = Grads::of(&store, &vars)?;
/// assert_eq!(grads.absent().collect::<Vec<_>>(), ["b"]);
/// let mut flat = layout.gather_grad(&grads)?;
/// assert_eq!(*flat, [6.0, 0.0]);
/// layout.clip_norm(&mut flat, 1.0)?;
/// assert_eq!(*flat, [1.0, 0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Grads<'g> {
    vars: &'g VarTree,
    /// One for each name: at the first name of a variable that has a gradient.
    gradients: Vec<Option<Gradient<'g>>>,
}

struct Gradient<'g> {
    tensor: &'g Tensor,
    held: Held<'g>,
}

impl<'g> Grads<'g> {
    /// The gradients of a store. Costs one look-up and one lock for each variable.
    ///
    /// # Errors
    /// `is_custom`: a device that fails, or an element type that flatleaf has no arrays of.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf_candle::{Grads, VarTree};
    ///
    /// let w = Var::new(&[3.0_f32], &Device::Cpu)?;
    /// let vars = VarTree::named([("w", w.clone())])?;
    /// let store = w.sqr()?.backward()?;
    /// assert_eq!(Grads::of(&store, &vars)?.elements::<f32>("w"), Some(&[6.0][..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of(store: &'g GradStore, vars: &'g VarTree) -> Result<Self> {
        let addresses = Addresses::of(vars)?;
        Grads::with_addresses(store, vars, &addresses)
    }

    pub(crate) fn with_addresses(
        store: &'g GradStore,
        vars: &'g VarTree,
        addresses: &Addresses,
    ) -> Result<Self> {
        let hold = |(index, entry): (usize, &crate::var_tree::Entry)| {
            let tensor = match entry.first == index {
                true => store.get_id(entry.id),
                false => None,
            };
            let gradient = tensor.map(|tensor| {
                let held = hold(tensor, vars.may_lend(), addresses)?;
                Ok(Gradient { tensor, held })
            });
            gradient.transpose()
        };
        let gradients = vars.entries().iter().enumerate().map(hold);
        Ok(Grads {
            gradients: gradients.collect::<Result<_>>()?,
            vars,
        })
    }

    /// The names of the trainable variables that have no gradient, each by its first name: those
    /// that took no part, and those behind an operation without a backward pass.
    ///
    /// candle's fused `LayerNorm`, `RmsNorm`, `softmax_last_dim` and `rope` have none and cut
    /// everything behind them off without an error. `deny_absent` of an optimiser makes one of it.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor, Var};
    /// use candle_nn::{LayerNorm, Module};
    /// use flatleaf_candle::{Grads, VarTree};
    ///
    /// let cpu = &Device::Cpu;
    /// let (body, weight, bias) = (Var::ones(2, DType::F32, cpu)?, Var::ones(2, DType::F32, cpu)?, Var::ones(2, DType::F32, cpu)?);
    /// let norm = LayerNorm::new(weight.as_tensor().clone(), bias.as_tensor().clone(), 1e-5); // fused
    /// let head = Var::ones(2, DType::F32, cpu)?;
    /// let input = body.reshape((1, 2))?;
    /// let loss = norm.forward(&input)?.broadcast_mul(&head)?.sum_all()?;
    ///
    /// let vars = VarTree::named([("body", body), ("norm.weight", weight), ("norm.bias", bias), ("head", head)])?;
    /// let store = loss.backward()?;
    /// let grads = Grads::of(&store, &vars)?;
    /// assert_eq!(grads.absent().collect::<Vec<_>>(), ["body", "norm.bias", "norm.weight"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn absent(&self) -> impl Iterator<Item = &str> {
        let entries = self.vars.names().zip(self.vars.entries()).enumerate();
        let is_absent = |index: usize, entry: &crate::var_tree::Entry| {
            let is_trained = entry.first == index && entry.var.dtype().is_float();
            is_trained && self.gradients[index].is_none()
        };
        entries.filter_map(move |(index, (name, entry))| is_absent(index, entry).then_some(name))
    }

    /// The elements of a variable's gradient in row-major order, if they are of type `E`, by any of
    /// its names; `None` if there is none, or one of another type.
    ///
    /// ```
    /// use candle_core::{Device, Var};
    /// use flatleaf_candle::{Grads, VarTree};
    ///
    /// let w = Var::new(&[3.0_f32], &Device::Cpu)?;
    /// let vars = VarTree::named([("a", w.clone()), ("b", w.clone())])?;
    /// let store = w.sqr()?.backward()?;
    /// let grads = Grads::of(&store, &vars)?;
    /// assert_eq!(grads.elements::<f32>("b"), Some(&[6.0][..]));
    /// assert_eq!(grads.elements::<f64>("b"), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn elements<E: WithDType>(&self, name: &str) -> Option<&[E]> {
        let index = self.vars.dotted_names().position(name)?;
        let first = self.vars.entries()[index].first;
        self.gradients[first].as_ref()?.held.elements()
    }
}

/// The gradients of these variables, where all are of f32, of the shapes of their variables and can
/// be lent; none if one of them is not: what is wrong with it, [`Grads`] tells.
///
/// Guards lie in `held`, so that each gradient is touched once: of ten thousand small ones a second
/// look at each finds it in no cache.
pub(crate) fn plain_gradients<'g, 'h>(
    store: &'g GradStore,
    vars: &VarTree,
    positions: &[usize],
    addresses: &Addresses,
    held: &'h Arena<Held<'g>>,
) -> Result<Option<Vec<Option<&'h [f32]>>>> {
    let mut gradients = Vec::with_capacity(positions.len());
    for &position in positions {
        let entry = &vars.entries()[position];
        let Some(tensor) = store.get_id(entry.id) else {
            gradients.push(None);
            continue;
        };
        if !entry.has_shape(tensor.dims()) {
            return Ok(None);
        }
        let held = held.alloc(hold(tensor, vars.may_lend(), addresses)?);
        let Some(elements) = held.elements() else {
            return Ok(None);
        };
        gradients.push(Some(elements));
    }
    Ok(Some(gradients))
}

impl Tree for Grads<'_> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let names = self.vars.dotted_names();
        names.visit(visitor, |index, visitor| match &self.gradients[index] {
            Some(Gradient { tensor, held }) => {
                visit_held(held, tensor.dtype(), tensor.dims(), None, visitor)
            }
            None => Ok(()),
        })
    }

    fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> {
        Err(read_only())
    }

    fn rebuild(&self, _: &mut Builder<'_>) -> Result<Self> {
        Err(read_only())
    }
}

fn hold<'g>(tensor: &'g Tensor, may_lend: bool, addresses: &Addresses) -> Result<Held<'g>> {
    // A gradient that is a variable, put into the store by hand, would be locked for reading when
    // the variable is to be written.
    if !may_lend || tensor.is_variable() {
        return Held::copied(tensor).map_err(from_candle);
    }
    let held = Held::of(tensor).map_err(from_candle)?;
    if held
        .address()
        .is_some_and(|address| addresses.contains(address))
    {
        drop(held);
        return Held::copied(tensor).map_err(from_candle);
    }
    Ok(held)
}

/// Where the storages of variables lie in memory, to know a gradient that shares one: a detached
/// view of a variable is no variable, and its lock is the variable's.
#[derive(Default)]
pub(crate) struct Addresses(HashSet<usize, BuildHasherDefault<AddressHasher>>);

impl Addresses {
    pub(crate) fn of(vars: &VarTree) -> Result<Self> {
        let mut addresses = Addresses::default();
        for entry in vars.entries().iter().filter(|_| vars.may_lend()) {
            let held = Held::of(&entry.var).map_err(from_candle)?;
            addresses.0.extend(held.address());
        }
        Ok(addresses)
    }

    pub(crate) fn contains(&self, address: usize) -> bool {
        self.0.contains(&address)
    }

    pub(crate) fn extend(&mut self, addresses: Vec<usize>) {
        self.0.extend(addresses);
    }
}

/// Addresses come from the allocator and not from an enemy: a product spreads them well enough, and
/// a step looks ten thousand up.
#[derive(Default)]
pub(crate) struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (self.0 ^ address as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
