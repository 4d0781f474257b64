//! A module's parameters, changed where they are.
//!
//! burn changes a module by taking it and giving another, and a storage that two handles share is
//! copied by whoever writes to it. So the handles are taken out of the module first: `strip` leaves
//! an empty tensor at each trainable parameter, the handles are then the only ones and are written
//! without a copy, and at the end they go back, in `Drop`, so that an error and a panic find the
//! module whole.
//!
//! What is frozen stays in the module meanwhile, since running statistics are shared with its
//! clones; it goes back only where it was written, which was in a copy then.

use std::any::Any;
use std::collections::HashMap;

use burn_core::module::{Module, ModuleMapper, Param, ParamId};
use burn_core::tensor::{Bool, Int, Tensor};
use flatleaf::{Result, Tree};

use crate::params::{Form, Params, Recorder};
use crate::tensor::{Handle, Tracking};

/// Changes a module's parameters in place, through anything that takes a mutable [`Tree`].
///
/// On burn's CPU backend nothing is copied, and the storage stays where it is; a tensor of another
/// device is downloaded and uploaded, and so is a tensor in another order than row-major copied. The
/// module is whole after an error and after a panic: what had been written stays written. A
/// parameter that stands at several places (one `ParamId`) is one tensor at all of them afterwards,
/// if all hold equal values.
///
/// # Errors
/// What `f` returns; elements that no leaf can have, such as quantised ones.
///
/// ```
/// use burn_core::tensor::Device;
/// use burn_nn::LinearConfig;
/// use flatleaf::{Companion::Values, Layout};
/// use flatleaf_burn::{Params, change};
///
/// let device = Device::flex().autodiff();
/// let policy = LinearConfig::new(3, 2).init(&device);
/// let mut target = LinearConfig::new(3, 2).init(&device);
///
/// let policy_params = Params::of(&policy)?;
/// let layout = Layout::of(&policy_params)?;
/// change(&mut target, |target| {
///     layout.map_into(target, [Values(&policy_params)], |_, t, [p]| flatleaf::ops::lerp(t, p, 1.0))
/// })?;
/// assert_eq!(layout.gather(&Params::of(&target)?)?, layout.gather(&policy_params)?);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn change<M: Module, R>(
    module: &mut M,
    f: impl FnOnce(&mut dyn Tree) -> Result<R>,
) -> Result<R> {
    let mut stripped = Stripped::of(module)?;
    f(&mut stripped.params)
}

/// Changes a module's parameters under PyTorch's names and in its shapes, as [`change`] does under
/// burn's: see [`Params::torch`]. A state dict of PyTorch's is loaded so.
///
/// # Errors
/// What `f` returns; elements that no leaf can have, such as quantised ones.
///
/// ```
/// use burn_core::tensor::Device;
/// use burn_nn::LinearConfig;
/// use flatleaf::{Layout, StateDict};
/// use flatleaf_burn::{Flat, change_torch};
///
/// let mut linear = LinearConfig::new(3, 2).init(&Device::flex().autodiff());
/// // As PyTorch has it: outputs first. From a file, `file.load_into(params, &LoadOptions::new())`.
/// let weight = ndarray::arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
/// let state = StateDict::from_iter([("weight", weight.into_dyn()), ("bias", ndarray::arr1(&[7.0, 8.0]).into_dyn())])?;
/// change_torch(&mut linear, |params| {
///     let layout = Layout::of(params)?;
///     layout.restructure_into(params, &layout.gather(&state)?)
/// })?;
/// assert_eq!(Flat::of(&linear)?.flatten(&linear)?, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 7.0, 8.0]);
/// # Ok::<(), flatleaf::Error>(())
/// ```
pub fn change_torch<M: Module, R>(
    module: &mut M,
    f: impl FnOnce(&mut dyn Tree) -> Result<R>,
) -> Result<R> {
    let mut stripped = Stripped::in_form(module, Form::Torch)?;
    f(&mut stripped.params)
}

/// A module without its trainable parameters, and these.
pub(crate) struct Stripped<'m, M: Module> {
    module: &'m mut M,
    pub(crate) params: Params,
    taken: Vec<Taken>,
}

/// What a place needs to get its parameter back.
struct Taken {
    tracking: Tracking,
    /// Where the elements were, if the module still holds them.
    kept: Option<usize>,
}

impl<'m, M: Module> Stripped<'m, M> {
    pub(crate) fn of(module: &'m mut M) -> Result<Self> {
        Self::in_form(module, Form::Burn)
    }

    fn in_form(module: &'m mut M, form: Form) -> Result<Self> {
        let mut strip = Strip {
            recorder: Recorder::in_form(form),
            taken: Vec::new(),
        };
        let hollow = module.clone().map(&mut strip);
        let params = strip.recorder.finish()?;
        // The module's own holds end here.
        *module = hollow;
        Ok(Stripped {
            module,
            params,
            taken: strip.taken,
        })
    }
}

impl<M: Module> Drop for Stripped<'_, M> {
    fn drop(&mut self) {
        let mut back = PutBack {
            handles: std::mem::take(&mut self.params).into_handles().into_iter(),
            taken: std::mem::take(&mut self.taken).into_iter(),
            made: HashMap::new(),
        };
        *self.module = self.module.clone().map(&mut back);
    }
}

struct Strip {
    recorder: Recorder,
    taken: Vec<Taken>,
}

impl Strip {
    fn keep(&mut self, id: ParamId, handle: Result<Handle>, tracking: Tracking) {
        let kept = handle.as_ref().ok().map(Handle::address);
        self.recorder.place(id, handle, true);
        self.taken.push(Taken { tracking, kept });
    }
}

impl ModuleMapper for Strip {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.recorder.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.recorder.leave();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        if !tensor.is_require_grad() {
            match Handle::of_float(tensor.clone()) {
                Ok((handle, tracking)) => self.keep(id, Ok(handle), tracking),
                Err(error) => self.keep(id, Err(error), Tracking::NONE),
            }
            return Param::from_mapped_value(id, tensor, mapper);
        }
        match Handle::of_float(tensor) {
            Ok((handle, tracking)) => {
                self.recorder.place(id, Ok(handle), false);
                let kept = None;
                self.taken.push(Taken { tracking, kept });
            }
            Err(error) => self.keep(id, Err(error), Tracking::NONE),
        }
        Param::from_mapped_value(id, Handle::empty(), mapper)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        let handle = Handle::of_other(param.base());
        self.keep(param.id, handle, Tracking::NONE);
        param
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        let handle = Handle::of_other(param.base());
        self.keep(param.id, handle, Tracking::NONE);
        param
    }
}

struct PutBack {
    handles: std::vec::IntoIter<Handle>,
    taken: std::vec::IntoIter<Taken>,
    /// The tensor at the first place of each parameter, and what it holds.
    made: HashMap<ParamId, (Handle, Box<dyn Any>)>,
}

impl PutBack {
    /// What this place gets, unless it still has it.
    fn next(&mut self) -> Option<(Handle, Tracking)> {
        let handle = self.handles.next().expect("as many as places");
        let Taken { tracking, kept } = self.taken.next().expect("as many as places");
        (kept != Some(handle.address())).then_some((handle, tracking))
    }
}

impl ModuleMapper for PutBack {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((handle, tracking)) = self.next() else {
            return param;
        };
        let (id, _, mapper) = param.consume();
        if let Some((first, tensor)) = self.made.get(&id)
            && first.is_equal(&handle)
            && let Some(tensor) = tensor.downcast_ref::<Tensor<D>>()
        {
            return Param::from_mapped_value(id, tensor.clone(), mapper);
        }
        let tensor: Tensor<D> = handle.clone().into_float(tracking, id);
        self.made.insert(id, (handle, Box::new(tensor.clone())));
        Param::from_mapped_value(id, tensor, mapper)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        match self.next() {
            Some((handle, _)) => param.map(|old| handle.into_other(old)),
            None => param,
        }
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        match self.next() {
            Some((handle, _)) => param.map(|old| handle.into_other(old)),
            None => param,
        }
    }
}
