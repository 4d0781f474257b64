//! A module's parameters as a tree.
//!
//! burn shows a module as a stream: enter a module, here is a parameter, leave. A tree is visited
//! for as long as it is borrowed, so the stream is written down, with a handle for each parameter:
//!
//! ```text
//! struct Net { embed: Embedding, layers: Vec<Linear> }
//!
//! Enter embed   Leaf weight   Leave
//! Enter layers  Enter 0  Leaf weight  Leaf bias  Leave  Leave
//! ```
//!
//! A parameter at two places, one `ParamId` that comes twice, is a tie. It has one handle as long
//! as both places hold one storage. Where they do not (burn's own optimiser takes them apart), each
//! place has its own, so that whoever reads them is told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use burn_autodiff::NodeId;
use burn_core::module::{Module, ModuleVisitor, Param, ParamId};
use burn_core::tensor::{Bool, Int, Tensor};
use burn_optim::GradientsParams;
use flatleaf::{
    Builder, Dtype, Error, Identity, Key, LeafMut, LeafRef, Result, Tree, Visitor, VisitorMut,
};

use crate::route::{come_apart, refused_at};
use crate::tensor::{Handle, node_of, written_elsewhere};

/// A module's parameters as a tree of handles: with burn's paths, and with its `ParamId`s as
/// identities.
///
/// Handles share their storage with the module, so nothing is copied on burn's CPU backend; tensors
/// of other devices are downloaded. Lazy parameters are initialised. Floats that require a gradient
/// are trainable; floats that do not (running statistics, what `no_grad` has frozen) are frozen,
/// integers and booleans are carried. A parameter that carries an adapter, as LoRA's do, is
/// the branch that it is to burn: its own tensor is `weight.base`, beside `weight.lora.a`.
///
/// Whatever takes a [`Tree`] takes it: [`Layout::of`](flatleaf::Layout::of), `norm_l2`,
/// `checkpoint::save`. It is a copy of the handles, so what is written to it does not reach the
/// module; [`change`](crate::change) does that.
///
/// ```
/// use burn_core::tensor::Device;
/// use burn_nn::LinearConfig;
/// use flatleaf::Layout;
/// use flatleaf_burn::Params;
///
/// let linear = LinearConfig::new(3, 2).init(&Device::flex().autodiff());
/// let layout = Layout::of(&Params::of(&linear)?)?;
/// assert_eq!(layout.len(), 8);
/// assert_eq!(layout.leaf("weight").unwrap().shape(), [3, 2]); // inputs first, as burn has them
/// # Ok::<(), flatleaf::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Params {
    nodes: Vec<Node>,
    places: Vec<Place>,
    /// In the order of the places that come first.
    handles: Vec<Handle>,
}

#[derive(Clone, Debug)]
enum Node {
    Enter(Box<str>),
    Leave,
    /// The place below a key, or, for a module that is a parameter itself, at the root.
    Place(Option<Box<str>>, usize),
}

/// A float of a module.
pub(crate) struct Float {
    pub(crate) id: ParamId,
    pub(crate) rank: usize,
    pub(crate) path: String,
}

#[derive(Clone, Debug)]
struct Place {
    id: ParamId,
    identity: Identity,
    shape: Vec<usize>,
    dtype: Option<Dtype>,
    is_frozen: bool,
    /// Whether it is shown the other way round, as PyTorch has it.
    is_transposed: bool,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// A handle that no place before has.
    Own(usize),
    /// The handle of a place before.
    Same(usize),
    /// There is no gradient here.
    Absent,
}

impl Params {
    /// The parameters of a module, in burn's order.
    ///
    /// # Errors
    /// Elements that no leaf can have, such as quantised ones, with the parameter's path; a tensor
    /// that its device does not hand out.
    ///
    /// ```
    /// use burn_core::tensor::Device;
    /// use burn_nn::LinearConfig;
    /// use flatleaf_burn::Params;
    ///
    /// let linear = LinearConfig::new(3, 2).init(&Device::flex().autodiff());
    /// let params = Params::of(&linear)?;
    /// assert_eq!(params.paths().collect::<Vec<_>>(), ["weight", "bias"]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn of<M: Module>(module: &M) -> Result<Self> {
        Self::in_form(module, Form::Burn)
    }

    /// The parameters of a module under the names, and in the shapes, that PyTorch has for these
    /// layers: weights of `Linear` with outputs first, `weight` and `bias` for `gamma` and `beta`
    /// of norms. Saved by [`checkpoint::save`](flatleaf::checkpoint::save), it is a state dict for
    /// `load_state_dict`; [`change_torch`](crate::change_torch) loads one.
    ///
    /// Recurrent layers, whose gates PyTorch keeps in one matrix, have burn's names.
    ///
    /// # Errors
    /// As [`of`](Params::of) has.
    ///
    /// ```
    /// use burn_core::tensor::Device;
    /// use burn_nn::LinearConfig;
    /// use flatleaf::Layout;
    /// use flatleaf_burn::Params;
    ///
    /// let linear = LinearConfig::new(3, 2).init(&Device::flex().autodiff());
    /// let layout = Layout::of(&Params::torch(&linear)?)?;
    /// assert_eq!(layout.leaf("weight").unwrap().shape(), [2, 3]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn torch<M: Module>(module: &M) -> Result<Self> {
        Self::in_form(module, Form::Torch)
    }

    fn in_form<M: Module>(module: &M, form: Form) -> Result<Self> {
        let mut reader = ReadParams(Recorder::in_form(form));
        module.visit(&mut reader);
        reader.0.finish()
    }

    /// The gradients of a module, under the paths of its parameters. A parameter without one is
    /// absent; one of several places has its gradient, which is the total, at the first.
    ///
    /// # Errors
    /// A parameter whose places are no longer one to burn's autodiff: burn keeps the gradient of
    /// the last place only. The message says how to make them one again. A gradient that its device
    /// does not hand out.
    ///
    /// ```
    /// use burn_core::tensor::{Device, Tensor};
    /// use burn_nn::LinearConfig;
    /// use burn_optim::GradientsParams;
    /// use flatleaf::Layout;
    /// use flatleaf_burn::Params;
    ///
    /// let device = Device::flex().autodiff();
    /// let linear = LinearConfig::new(2, 1).init(&device);
    /// let loss = linear.forward(Tensor::<2>::from_floats([[3.0, 4.0]], &device)).sum();
    /// let grads = GradientsParams::from_grads(loss.backward(), &linear);
    ///
    /// let layout = Layout::of(&Params::of(&linear)?)?;
    /// assert_eq!(*layout.gather_grad(&Params::grads(&linear, &grads)?)?, [3.0, 4.0, 1.0]);
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn grads<M: Module>(module: &M, grads: &GradientsParams) -> Result<Self> {
        let mut reader = ReadGrads {
            recorder: Recorder::default(),
            nodes: HashMap::new(),
            grads,
        };
        module.visit(&mut reader);
        reader.recorder.finish()
    }

    /// The paths of all places in burn's order: a parameter that stands at two has both.
    ///
    /// ```
    /// use burn_core::tensor::Device;
    /// use burn_nn::LinearConfig;
    /// use flatleaf_burn::Params;
    ///
    /// let linear = LinearConfig::new(3, 2).with_bias(false).init(&Device::flex().autodiff());
    /// assert!(Params::of(&linear)?.paths().eq(["weight"]));
    /// # Ok::<(), flatleaf::Error>(())
    /// ```
    pub fn paths(&self) -> impl Iterator<Item = String> {
        let mut path: Vec<&str> = Vec::new();
        self.nodes.iter().filter_map(move |node| match node {
            Node::Enter(key) => {
                path.push(key);
                None
            }
            Node::Leave => {
                path.pop();
                None
            }
            Node::Place(key, _) => {
                let keys = path.iter().copied().chain(key.as_deref());
                Some(keys.collect::<Vec<_>>().join("."))
            }
        })
    }

    /// Each float, in burn's order.
    pub(crate) fn floats(&self) -> impl Iterator<Item = Float> {
        let places = self.places.iter().zip(self.paths());
        let floats = places.filter(|(place, _)| place.dtype.is_some_and(Dtype::is_float));
        floats.map(|(place, path)| Float {
            id: place.id,
            rank: place.shape.len(),
            path,
        })
    }

    /// Gives floats other elements, where there are some. The tree is for its handles only then.
    pub(crate) fn set_floats(&mut self, elements: impl Iterator<Item = Option<Handle>>) {
        let places = self.places.iter_mut();
        let floats = places.filter(|place| place.dtype.is_some_and(Dtype::is_float));
        for (place, handle) in floats.zip(elements) {
            if let Some(handle) = handle {
                place.source = Source::Own(self.handles.len());
                self.handles.push(handle);
            }
        }
    }

    /// What each place holds, in order. None may be absent.
    pub(crate) fn into_handles(self) -> Vec<Handle> {
        let places = self.places.iter().map(|place| match place.source {
            Source::Own(handle) | Source::Same(handle) => handle,
            Source::Absent => unreachable!("values are never absent"),
        });
        places.map(|handle| self.handles[handle].clone()).collect()
    }

    fn handle(&self, place: usize) -> Option<&Handle> {
        match self.places[place].source {
            Source::Own(handle) | Source::Same(handle) => Some(&self.handles[handle]),
            Source::Absent => None,
        }
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = self.places.iter().map(|place| &place.shape);
        f.debug_map().entries(self.paths().zip(shapes)).finish()
    }
}

impl Tree for Params {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        self.visit_from(&mut 0, visitor)
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let mut writing = Writing {
            nodes: self.nodes.iter(),
            places: &self.places,
            handles: self.handles.iter_mut(),
        };
        writing.visit(visitor)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        let mut handles = Vec::with_capacity(self.handles.len());
        self.rebuild_from(&mut 0, builder, &mut handles)?;
        Ok(Params {
            handles,
            ..self.clone()
        })
    }
}

impl Params {
    /// Visits what stands from `next` on until the node that is open there is left.
    fn visit_from<'a>(&'a self, next: &mut usize, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        while let Some(node) = self.nodes.get(*next) {
            *next += 1;
            match node {
                Node::Enter(key) => {
                    visitor.within(Key::Name(key), |visitor| self.visit_from(next, visitor))?;
                }
                Node::Leave => return Ok(()),
                Node::Place(key, place) => self.visit_place(key.as_deref(), *place, visitor)?,
            }
        }
        Ok(())
    }

    fn visit_place<'a>(
        &'a self,
        key: Option<&str>,
        place: usize,
        visitor: &mut dyn Visitor<'a>,
    ) -> Result<()> {
        let Some(handle) = self.handle(place) else {
            return Ok(());
        };
        let Place {
            identity,
            is_frozen,
            is_transposed,
            ..
        } = &self.places[place];
        let show = |leaf: LeafRef<'_, 'a>| {
            let leaf = leaf.with_identity(identity);
            match key {
                Some(key) if *is_frozen => visitor.frozen_leaf(Key::Name(key), leaf),
                Some(key) => visitor.child_leaf(Key::Name(key), leaf),
                None => visitor.leaf(leaf),
            }
        };
        match is_transposed {
            true => handle.visit_transposed(show),
            false => handle.visit(show),
        }
    }

    fn rebuild_from(
        &self,
        next: &mut usize,
        builder: &mut Builder<'_>,
        handles: &mut Vec<Handle>,
    ) -> Result<()> {
        while let Some(node) = self.nodes.get(*next) {
            *next += 1;
            match node {
                Node::Enter(key) => builder.within(Key::Name(key), |builder| {
                    self.rebuild_from(next, builder, handles)
                })?,
                Node::Leave => return Ok(()),
                Node::Place(key, place) => {
                    let Some(handle) = self.handle(*place) else {
                        continue;
                    };
                    let rebuilt = match key {
                        Some(key) => {
                            builder.within(Key::Name(key), |builder| handle.rebuild(builder))?
                        }
                        None => handle.rebuild(builder)?,
                    };
                    if let Source::Own(_) = self.places[*place].source {
                        handles.push(rebuilt);
                    }
                }
            }
        }
        Ok(())
    }
}

/// A walk that lends each handle for writing, once: at the first of its places.
struct Writing<'a> {
    nodes: std::slice::Iter<'a, Node>,
    places: &'a [Place],
    handles: std::slice::IterMut<'a, Handle>,
}

impl<'a> Writing<'a> {
    fn visit(&mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        while let Some(node) = self.nodes.next() {
            match node {
                Node::Enter(key) => {
                    visitor.within(Key::Name(key), |visitor| self.visit(visitor))?;
                }
                Node::Leave => return Ok(()),
                Node::Place(key, place) => self.visit_place(key.as_deref(), *place, visitor)?,
            }
        }
        Ok(())
    }

    fn visit_place(
        &mut self,
        key: Option<&str>,
        place: usize,
        visitor: &mut dyn VisitorMut<'a>,
    ) -> Result<()> {
        let Place {
            shape,
            dtype,
            is_transposed,
            source,
            ..
        } = &self.places[place];
        let write = |leaf: LeafMut<'_, 'a>| match key {
            Some(key) => visitor.child_leaf(Key::Name(key), leaf),
            None => visitor.leaf(leaf),
        };
        match source {
            Source::Own(_) => {
                let handle = self.handles.next().expect("one for each place of its own");
                match is_transposed {
                    true => handle.visit_transposed_mut(shape, write),
                    false => handle.visit_mut(shape, write),
                }
            }
            // Written where the first place is.
            Source::Same(_) => written_elsewhere(*dtype, shape, *is_transposed, write),
            Source::Absent => Ok(()),
        }
    }
}

/// In whose names and shapes parameters stand in the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    #[default]
    Burn,
    Torch,
}

/// Layers whose scale and offset are `weight` and `bias` to PyTorch.
const NORMS: [&str; 5] = [
    "Struct:BatchNorm",
    "Struct:GroupNorm",
    "Struct:InstanceNorm",
    "Struct:LayerNorm",
    "Struct:RmsNorm",
];

/// Writes the stream down.
#[derive(Default)]
pub(crate) struct Recorder {
    form: Form,
    params: Params,
    next_is_transposed: bool,
    /// The handles that a parameter has: one, unless its places have come apart.
    seen: HashMap<ParamId, Vec<usize>>,
    failed: Option<Error>,
}

impl Recorder {
    pub(crate) fn in_form(form: Form) -> Self {
        Recorder {
            form,
            ..Self::default()
        }
    }

    pub(crate) fn enter(&mut self, key: &str, container: &str) {
        let key = match (self.form, key) {
            (Form::Torch, "gamma") if NORMS.contains(&container) => "weight",
            (Form::Torch, "beta") if NORMS.contains(&container) => "bias",
            _ => key,
        };
        // burn's linear layers have inputs first.
        self.next_is_transposed =
            self.form == Form::Torch && (key, container) == ("weight", "Struct:Linear");
        let nodes = &mut self.params.nodes;
        // An adapter stands below the parameter that it adapts, which is a leaf and a branch then.
        if container == "Reparameterization"
            && let Some(Node::Place(None, base)) = nodes.last()
        {
            let base = *base;
            nodes.pop();
            nodes.push(Node::Place(Some("base".into()), base));
        }
        nodes.push(Node::Enter(key.into()));
    }

    pub(crate) fn leave(&mut self) {
        let nodes = &mut self.params.nodes;
        match nodes.as_slice() {
            // Nothing in there.
            [.., Node::Enter(_)] => {
                nodes.pop();
            }
            [.., Node::Enter(key), Node::Place(None, place)] => {
                let node = Node::Place(Some(key.clone()), *place);
                nodes.truncate(nodes.len() - 2);
                nodes.push(node);
            }
            _ => nodes.push(Node::Leave),
        }
    }

    pub(crate) fn place(&mut self, id: ParamId, handle: Result<Handle>, is_frozen: bool) {
        let handle = match handle {
            Ok(handle) => handle,
            Err(error) => return self.fail(error),
        };
        let handles = &mut self.params.handles;
        let seen = self.seen.entry(id).or_default();
        let (shape, dtype) = (handle.shape().to_vec(), handle.dtype());
        let source = match seen.iter().find(|&&known| handles[known].is_same(&handle)) {
            Some(known) => Source::Same(*known),
            None => {
                seen.push(handles.len());
                handles.push(handle);
                Source::Own(handles.len() - 1)
            }
        };
        let is_transposed = std::mem::take(&mut self.next_is_transposed);
        self.add(Place {
            id,
            identity: Identity::of(id),
            shape,
            dtype,
            is_frozen,
            is_transposed,
            source,
        });
    }

    fn absent(&mut self, id: ParamId) {
        self.add(Place {
            id,
            identity: Identity::of(id),
            shape: Vec::new(),
            dtype: None,
            is_frozen: false,
            is_transposed: false,
            source: Source::Absent,
        });
    }

    fn add(&mut self, place: Place) {
        let Params { nodes, places, .. } = &mut self.params;
        nodes.push(Node::Place(None, places.len()));
        places.push(place);
    }

    #[cold]
    fn fail(&mut self, error: Error) {
        let path = self.path();
        self.failed.get_or_insert_with(|| refused_at(&path, &error));
    }

    /// Where the stream is.
    fn path(&self) -> String {
        let mut path: Vec<&str> = Vec::new();
        for node in &self.params.nodes {
            match node {
                Node::Enter(key) => path.push(key),
                Node::Leave => drop(path.pop()),
                Node::Place(..) => {}
            }
        }
        path.join(".")
    }

    pub(crate) fn finish(self) -> Result<Params> {
        self.failed.map_or(Ok(self.params), Err)
    }
}

struct ReadParams(Recorder);

impl ModuleVisitor for ReadParams {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.0.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.0.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let is_frozen = !param.is_require_grad();
        let handle = Handle::of_float(param.base()).map(|(handle, _)| handle);
        self.0.place(param.id, handle, is_frozen);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.place(param.id, Handle::of_other(param.base()), true);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.place(param.id, Handle::of_other(param.base()), true);
    }
}

struct ReadGrads<'g> {
    recorder: Recorder,
    /// What autodiff calls each parameter, at the first of its places.
    nodes: HashMap<ParamId, Option<NodeId>>,
    grads: &'g GradientsParams,
}

impl ModuleVisitor for ReadGrads<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.recorder.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.recorder.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let node = node_of(param.base());
        match self.nodes.entry(param.id) {
            Entry::Occupied(first) if *first.get() != node => {
                let places = self.recorder.path();
                self.recorder
                    .failed
                    .get_or_insert_with(|| come_apart(&places));
            }
            Entry::Occupied(_) => self.recorder.absent(param.id),
            Entry::Vacant(first) => {
                first.insert(node);
                match self.grads.get::<D>(param.id) {
                    Some(grad) => {
                        let handle = Handle::of_float(grad).map(|(handle, _)| handle);
                        self.recorder.place(param.id, handle, false);
                    }
                    None => self.recorder.absent(param.id),
                }
            }
        }
    }
}
