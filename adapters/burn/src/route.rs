//! Which leaf of a layout each parameter is, in the order in which burn shows them.
//!
//! A layout knows leaves by path, and a module's parameters come with an id: with both written down
//! side by side, whoever walks the module knows each leaf without a path, and compares nothing but
//! numbers. Ids are a matter of the module and not of the layout: a module that was made anew, or
//! that has loaded a record, has others. It gets a route of its own, after its tree has been held
//! against the layout.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use burn_core::module::{Module, ModuleVisitor, Param, ParamId};
use burn_core::tensor::{DType, Device, Tensor};
use flatleaf::{Dtype, Error, Layout, Result};

use crate::params::{Float, Params};
use crate::tensor::{Handle, node_of};

/// Every float of a module, in burn's order.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) stops: Vec<Stop>,
    pub(crate) has_ties: bool,
    /// Whether who goes along meets the leaves in their order. A tie that is frozen at the first of
    /// its places stands further behind in the layout.
    is_in_order: bool,
}

/// What a look at a module finds.
pub(crate) struct Look {
    /// Whether the route leads through this module: the same parameters in the same order, of the
    /// shapes that the layout has.
    pub(crate) fits: bool,
    /// Whether all places of a tie hold equal values.
    pub(crate) ties_hold: bool,
    /// Whether the leaves are met in their order, and each of them is in host memory, as floats of
    /// 32 bits or fewer: whoever takes one out then cannot fail.
    pub(crate) can_walk: bool,
}

/// A float of the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) id: ParamId,
    pub(crate) rank: usize,
    /// Its number among the trainable leaves, if it is one.
    pub(crate) leaf: Option<usize>,
    /// Whether it is the first place of its parameter.
    pub(crate) is_first: bool,
    /// Whether its parameter stands at several places.
    pub(crate) is_tied: bool,
}

impl Route {
    /// The route through a module whose tree has been planned, or held against the layout.
    pub(crate) fn of(params: &Params, layout: &Layout) -> Self {
        let mut counts: HashMap<ParamId, usize> = HashMap::new();
        let floats: Vec<_> = params.floats().collect();
        for float in &floats {
            *counts.entry(float.id).or_default() += 1;
        }
        let mut seen = HashSet::new();
        let stop = |float: &Float| Stop {
            id: float.id,
            rank: float.rank,
            leaf: layout.index_of(&float.path),
            is_first: seen.insert(float.id),
            is_tied: counts[&float.id] > 1,
        };
        let stops: Vec<Stop> = floats.iter().map(stop).collect();
        let first = stops.iter().filter(|stop| stop.is_first);
        Route {
            has_ties: stops.iter().any(|stop| stop.is_tied),
            is_in_order: first.filter_map(|stop| stop.leaf).is_sorted(),
            stops,
        }
    }

    /// Looks at a module, and copies nothing.
    pub(crate) fn look<M: Module>(&self, module: &M, layout: &Layout) -> Look {
        let mut check = Check {
            stops: self.stops.iter(),
            layout,
            host: Device::flex(),
            first: HashMap::new(),
            look: Look {
                fits: true,
                ties_hold: true,
                can_walk: self.is_in_order,
            },
        };
        module.visit(&mut check);
        check.look.fits &= check.stops.next().is_none();
        check.look
    }

    /// Whether burn's autodiff holds every tie for one tensor, without which it loses gradients.
    ///
    /// # Errors
    /// With the layout's path of a parameter that has come apart.
    pub(crate) fn check_nodes<M: Module>(&self, module: &M, layout: &Layout) -> Result<()> {
        if !self.has_ties {
            return Ok(());
        }
        let mut nodes = Nodes {
            stops: self.stops.iter(),
            first: HashMap::new(),
            apart: None,
        };
        module.visit(&mut nodes);
        let Some(leaf) = nodes.apart else {
            return Ok(());
        };
        Err(come_apart(&layout.leaves()[leaf].places().join("`, `")))
    }
}

#[cold]
pub(crate) fn come_apart(places: &str) -> Error {
    Error::custom(format_args!(
        "expected one tensor at all places of a parameter (one `ParamId`), found several at \
         `{places}`: burn keeps the gradient of the last place only, so the rest of it is lost; \
         `Flat::retie` makes them one again, after burn's optimiser, `load_record` and `train`"
    ))
}

/// What is wrong with the elements of a parameter, or of its gradient, with its path.
#[cold]
pub(crate) fn refused_at(path: &str, error: &Error) -> Error {
    Error::custom(format_args!("`{path}`: {error}"))
}

struct Check<'r> {
    stops: std::slice::Iter<'r, Stop>,
    layout: &'r Layout,
    host: Device,
    /// What the first place of each tie holds.
    first: HashMap<ParamId, Handle>,
    look: Look,
}

impl ModuleVisitor for Check<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(stop) = self.stops.next() else {
            self.look.fits = false;
            return;
        };
        self.look.fits &= stop.id == param.id && self.is_leaf(stop, param);
    }
}

impl Check<'_> {
    fn is_leaf<const D: usize>(&mut self, stop: &Stop, param: &Param<Tensor<D>>) -> bool {
        let Some(leaf) = stop.leaf else {
            return true;
        };
        let leaf = &self.layout.leaves()[leaf];
        if param.shape().as_slice() != leaf.shape() {
            return false;
        }
        let is_narrow = matches!(param.dtype(), DType::F32 | DType::F16 | DType::BF16);
        if !is_narrow && leaf.dtype() != Dtype::F64 {
            // It has become wider, or has been quantised, since it was planned.
            return false;
        }
        self.look.can_walk &= is_narrow && param.device() == self.host;
        if stop.is_tied {
            self.look.ties_hold &= self.is_as_before(param);
        }
        true
    }

    /// Whether a place of a tie holds what its first place does.
    fn is_as_before<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> bool {
        let Ok((handle, _)) = Handle::of_float(param.base()) else {
            return false;
        };
        match self.first.entry(param.id) {
            Entry::Vacant(first) => {
                first.insert(handle);
                true
            }
            Entry::Occupied(first) => first.get().is_equal(&handle),
        }
    }
}

struct Nodes<'r> {
    stops: std::slice::Iter<'r, Stop>,
    first: HashMap<ParamId, Option<burn_autodiff::NodeId>>,
    apart: Option<usize>,
}

impl ModuleVisitor for Nodes<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(stop) = self.stops.next() else {
            return;
        };
        let (true, Some(leaf)) = (stop.is_tied, stop.leaf) else {
            return;
        };
        let node = node_of(param.base());
        if *self.first.entry(stop.id).or_insert(node) != node {
            self.apart.get_or_insert(leaf);
        }
    }
}
