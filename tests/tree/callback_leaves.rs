//! A leaf that is no slice in memory: a tensor on a device, with an identity of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use flatleaf::{
    Builder, DynTree, Error, Identity, Key, Layout, LeafMut, LeafRef, Reader, Result, Tree,
    Visitor, VisitorMut, Writer, deep_clone, destructure,
};
use ndarray::arr2;

/// Memory that can only be copied from and to.
#[derive(Default)]
struct Device {
    memory: RefCell<HashMap<u64, Vec<f32>>>,
    transfers: Cell<usize>,
    next: Cell<u64>,
    is_full: Cell<bool>,
}

/// What a framework hands out: an identifier, a shape, no address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TensorId(u64);

#[derive(Clone)]
struct Tensor {
    id: TensorId,
    shape: Vec<usize>,
    device: Rc<Device>,
}

impl Device {
    fn tensor(self: &Rc<Self>, shape: &[usize], elements: &[f32]) -> Tensor {
        let id = self.next.replace(self.next.get() + 1);
        self.memory.borrow_mut().insert(id, elements.to_vec());
        Tensor {
            id: TensorId(id),
            shape: shape.to_vec(),
            device: self.clone(),
        }
    }

    fn download(&self, id: u64, out: &mut [f32]) -> Result<()> {
        self.transfers.set(self.transfers.get() + 1);
        let memory = self.memory.borrow();
        out.copy_from_slice(
            memory
                .get(&id)
                .ok_or_else(|| Error::custom("freed memory"))?,
        );
        Ok(())
    }

    fn upload(&self, id: u64, values: &[f32]) -> Result<()> {
        self.transfers.set(self.transfers.get() + 1);
        if self.is_full.get() {
            return Err(Error::custom("no memory left"));
        }
        self.memory.borrow_mut().insert(id, values.to_vec());
        Ok(())
    }
}

impl Tensor {
    fn read(&self) -> Vec<f32> {
        self.device.memory.borrow()[&self.id.0].clone()
    }
}

impl Tree for Tensor {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let reader = Reader::new(|out: &mut [f32]| self.device.download(self.id.0, out));
        let identity = Identity::of(self.id.clone());
        visitor.leaf(LeafRef::from_reader(&self.shape, &reader).with_identity(&identity))
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let mut writer = Writer::new(|values: &[f32]| self.device.upload(self.id.0, values));
        visitor.leaf(LeafMut::from_writer(&self.shape, &mut writer))
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        builder.shared(Identity::of(self.id.clone()), self, |builder| {
            let reader = Reader::new(|out: &mut [f32]| self.device.download(self.id.0, out));
            let elements: Vec<f32> = builder.leaf(LeafRef::from_reader(&self.shape, &reader))?;
            Ok(self.device.tensor(&self.shape, &elements))
        })
    }

    flatleaf::rebuild_object!();
}

#[test]
fn it_is_gathered_and_written_through_callbacks() {
    let device = Rc::new(Device::default());
    let mut model = (device.tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), vec![5.0_f32]);
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(layout.leaf("0").unwrap().shape(), [2, 2]);
    assert_eq!(device.transfers.get(), 1);
    layout
        .restructure_into(&mut model, &[6.0, 7.0, 8.0, 9.0, 10.0])
        .unwrap();
    assert_eq!(
        (model.0.read(), model.1.clone()),
        (vec![6.0, 7.0, 8.0, 9.0], vec![10.0])
    );
    assert_eq!(device.transfers.get(), 2);
}

#[test]
fn its_identity_makes_a_tie() {
    let device = Rc::new(Device::default());
    let embed = device.tensor(&[3], &[1.0, 2.0, 3.0]);
    let model = vec![embed.clone(), device.tensor(&[3], &[1.0, 2.0, 3.0]), embed];
    let (flat, layout) = destructure(&model).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    assert_eq!(layout.leaves()[0].places(), ["0", "2"]);

    let new = layout
        .restructure(&model, &[4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
        .unwrap();
    assert_eq!(new[0].id, new[2].id);
    assert_ne!(new[0].id, model[0].id);
    assert_eq!(new[2].read(), [4.0, 5.0, 6.0]);
    assert_eq!(model[2].read(), [1.0, 2.0, 3.0]);
    assert_eq!(Layout::of(&new).unwrap(), layout);

    let copy = deep_clone(&model).unwrap();
    assert_eq!(copy[0].id, copy[2].id);
    assert_ne!(copy[0].id, model[0].id);

    let grad = layout.gather_grad(&model).unwrap();
    assert_eq!(*grad, [2.0, 4.0, 6.0, 1.0, 2.0, 3.0]);
}

#[test]
fn places_that_disagree_are_named() {
    let device = Rc::new(Device::default());
    let embed = device.tensor(&[2], &[1.0, 2.0]);
    let layout = Layout::of(&vec![embed.clone(), embed]).unwrap();
    let untied = vec![
        device.tensor(&[2], &[1.0, 2.0]),
        device.tensor(&[2], &[1.0, -2.0]),
    ];
    let error = layout.gather(&untied).unwrap_err();
    assert!(error.is_broken_tie());
    assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
}

#[test]
fn one_identity_with_two_shapes_is_an_error() {
    let device = Rc::new(Device::default());
    let tensor = device.tensor(&[2, 1], &[1.0, 2.0]);
    let reshaped = Tensor {
        shape: vec![2],
        ..tensor.clone()
    };
    let error = Layout::of(&vec![tensor, reshaped]).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("1"));
}

#[test]
fn a_gradient_may_live_there_too() {
    let device = Rc::new(Device::default());
    let layout = Layout::of(&(arr2(&[[1.0_f32], [2.0]]),)).unwrap();
    let grad = layout
        .gather_grad(&(device.tensor(&[2, 1], &[0.5, 0.25]),))
        .unwrap();
    assert_eq!(*grad, [0.5, 0.25]);
}

/// A lock of another library.
struct SpinLock<T>(std::sync::Mutex<T>);

impl<T: Tree> flatleaf::Guarded for SpinLock<T> {
    fn read(&self, visit: &mut dyn FnMut(&dyn Tree) -> Result<()>) -> Result<()> {
        visit(
            &*self
                .0
                .try_lock()
                .map_err(|_| Error::custom("the lock is held"))?,
        )
    }

    fn write(&self, visit: &mut dyn FnMut(&mut dyn Tree) -> Result<()>) -> Result<()> {
        visit(
            &mut *self
                .0
                .try_lock()
                .map_err(|_| Error::custom("the lock is held"))?,
        )
    }
}

impl<T: Tree> Tree for SpinLock<T> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.guarded(self)
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        visitor.child(Key::Same, self.0.get_mut().map_err(Error::custom)?)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        Ok(SpinLock(
            builder
                .child(Key::Same, &*self.0.lock().map_err(Error::custom)?)?
                .into(),
        ))
    }

    flatleaf::rebuild_object!();
}

#[test]
fn a_lock_of_another_library_is_written_through() {
    let lock = Rc::new(SpinLock(std::sync::Mutex::new(vec![1.0_f32])));
    let mut model = (lock.clone(), lock.clone());
    let layout = Layout::of(&model).unwrap();
    layout.restructure_into(&mut model, &[2.0]).unwrap();
    assert_eq!(*lock.0.lock().unwrap(), [2.0]);
    assert!(Rc::ptr_eq(&model.0, &lock));
    let held = lock.0.lock().unwrap();
    let error = layout.gather(&model).unwrap_err();
    assert_eq!(error.to_string(), "`0`: the lock is held");
    drop(held);
}

/// Goes on whatever its part has to say.
#[derive(Clone)]
struct Careless<T>(T);

impl<T: Tree> Tree for Careless<T> {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let _ = visitor.child(Key::Name("part"), &self.0);
        Ok(())
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        let _ = visitor.child(Key::Name("part"), &mut self.0);
        Ok(())
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        builder.child(Key::Name("part"), &self.0).map(Careless)
    }
}

#[test]
fn an_error_of_a_callback_that_the_tree_swallows_is_returned_all_the_same() {
    let device = Rc::new(Device::default());
    let mut model = (
        vec![1.0_f32],
        Careless(device.tensor(&[2], &[2.0, 3.0])),
        vec![4.0_f32],
    );
    let layout = Layout::of(&model).unwrap();
    device.memory.borrow_mut().clear();
    device.is_full.set(true);
    let mut flat = [0.5; 4];
    for error in [
        layout.gather(&model).unwrap_err(),
        layout.gather_into(&model, &mut flat).unwrap_err(),
        layout.gather_grad(&model).unwrap_err(),
        DynTree::of(&model).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "`1.part`: freed memory");
    }
    assert_eq!(flat, [0.5; 4]);
    let error = layout.restructure_into(&mut model, &[7.0; 4]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "every other leaf has been written: `1.part`: no memory left"
    );
}

#[test]
fn a_lock_that_the_tree_passes_by_is_an_error_all_the_same() {
    let lock = Rc::new(SpinLock(std::sync::Mutex::new(vec![1.0_f32])));
    let model = (vec![1.0_f32], Careless(lock.clone()));
    let layout = Layout::of(&model).unwrap();
    let _held = lock.0.lock().unwrap();
    let errors = [
        Layout::of(&model).unwrap_err(),
        layout.gather_grad(&model).unwrap_err(),
        DynTree::of(&model).unwrap_err(),
    ];
    errors
        .iter()
        .for_each(|error| assert_eq!(error.to_string(), "`1.part`: the lock is held"));
}

#[test]
fn a_tree_too_deep_is_an_error_even_where_somebody_gives_up_below() {
    /// Levels of which every one ignores what the next has to say.
    struct Levels(usize);

    impl Tree for Levels {
        fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
            if self.0 > 0 {
                // A new node for every level, and none outlives the walk.
                let next: &'a Levels = Box::leak(Box::new(Levels(self.0 - 1)));
                let _ = visitor.child(Key::Index(0), next);
            }
            Ok(())
        }

        fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
            Ok(())
        }

        fn rebuild(&self, _builder: &mut Builder<'_>) -> Result<Self> {
            Ok(Levels(self.0))
        }
    }

    assert!(Layout::of(&Levels(1_100)).unwrap_err().is_too_deep());
}

/// Has two parts, and forgets the second one in all methods but `visit`.
#[derive(Debug)]
struct Forgetful(Vec<f32>, Vec<f32>);

impl Tree for Forgetful {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        visitor.child(Key::Name("a"), &self.0)?;
        visitor.child(Key::Name("b"), &self.1)
    }

    fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        visitor.child(Key::Name("a"), &mut self.0)
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        Ok(Forgetful(
            builder.child(Key::Name("a"), &self.0)?,
            self.1.clone(),
        ))
    }
}

#[test]
fn a_child_that_is_forgotten_is_an_error() {
    let mut model = Forgetful(vec![1.0], vec![2.0, 3.0]);
    let layout = Layout::of(&model).unwrap();
    let message = |error: Error| (error.is_unstable(), error.to_string());
    let expected = |found: &str| {
        (
            true,
            format!("`b`: expected a tree that answers twice alike, found {found}"),
        )
    };
    let error = layout.restructure(&model, &[7.0; 3]).unwrap_err();
    assert_eq!(
        message(error),
        expected("a `rebuild` that does not ask for it")
    );
    let error = layout.map(&model, [], |_, x, []| x.fill(7.0)).unwrap_err();
    assert_eq!(
        message(error),
        expected("a `rebuild` that does not ask for it")
    );
    let error = layout.restructure_into(&mut model, &[7.0; 3]).unwrap_err();
    assert_eq!(
        message(error),
        expected("a `visit_mut` that does not name it")
    );
}

#[test]
fn an_identifier_is_a_claim_and_values_are_compared() {
    let device = Rc::new(Device::default());
    let one = device.tensor(&[2], &[1.0, 2.0]);
    let layout = Layout::of(&(one.clone(), one.clone())).unwrap();
    assert_eq!(layout.leaves().len(), 1);

    /// A tensor that still says it is another one, and has moved on.
    struct Claims(Identity, Vec<f32>);
    impl Tree for Claims {
        fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
            visitor.leaf(LeafRef::from_slice(&[2], &self.1).with_identity(&self.0))
        }
        fn visit_mut<'a>(&'a mut self, visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
            visitor.leaf(LeafMut::from_slice(&[2], &mut self.1))
        }
        fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
            let values = builder.leaf(LeafRef::from_slice(&[2], &self.1))?;
            Ok(Claims(self.0.clone(), values))
        }
    }
    let claims = |values: &[f32]| Claims(Identity::of(7), values.to_vec());
    let apart = (claims(&[1.0, 2.0]), claims(&[1.0, 3.0]));
    for layout in [&layout, &Layout::of(&apart).unwrap()] {
        assert_eq!(layout.leaves()[0].places(), ["0", "1"]);
        let error = layout.gather(&apart).unwrap_err();
        assert!(error.is_broken_tie(), "{error}");
        assert_eq!((error.path(), error.other_path()), (Some("0"), Some("1")));
        let mut flat = [9.0; 2];
        assert!(layout.gather_into(&apart, &mut flat).is_err());
        assert_eq!(flat, [9.0; 2]);
    }
    let alike = (claims(&[1.0, f32::NAN]), claims(&[1.0, f32::NAN]));
    let flat = layout.gather(&alike).unwrap();
    assert!(flat[0] == 1.0 && flat[1].is_nan());
    // −0 is other bits than 0.
    let signs = (claims(&[1.0, 0.0]), claims(&[1.0, -0.0]));
    assert!(layout.gather(&signs).unwrap_err().is_broken_tie());
}

#[test]
fn a_leaf_that_cannot_be_written_is_the_only_one_that_is_not() {
    let device = Rc::new(Device::default());
    let lost = Rc::new(Device::default());
    lost.next.set(100); // identifiers of its own
    let shared = Rc::new(vec![1.0_f32]);
    let mut model = (
        vec![1.0_f32],
        device.tensor(&[1], &[1.0]),
        lost.tensor(&[1], &[1.0]),
        (shared.clone(), shared),
        vec![1.0_f32],
    );
    let layout = Layout::of(&model).unwrap();
    let holder = model.3.0.clone();
    lost.is_full.set(true);
    let error = layout
        .restructure_into(&mut model, &[2.0, 3.0, 4.0, 5.0, 6.0])
        .unwrap_err();
    assert!(error.is_custom() && error.path() == Some("2"), "{error}");
    assert_eq!(
        error.to_string(),
        "every other leaf has been written: `2`: no memory left"
    );
    assert_eq!(
        (model.0[0], model.1.read(), model.2.read()),
        (2.0, vec![3.0], vec![1.0])
    );
    assert!(Rc::ptr_eq(&model.3.0, &model.3.1));
    assert_eq!((model.3.0[0], model.4[0], holder[0]), (5.0, 6.0, 1.0));

    let mut add_ten = |_: flatleaf::LeafAt<'_, 0>, x: &mut [f32], []: [&[f32]; 0]| x[0] += 10.0;
    let error = layout.map_into(&mut model, [], &mut add_ten).unwrap_err();
    assert_eq!(error.path(), Some("2"));
    assert_eq!(
        (model.0[0], model.1.read(), model.2.read()),
        (12.0, vec![13.0], vec![1.0])
    );
    assert_eq!((model.3.1[0], model.4[0]), (15.0, 16.0));
}

#[test]
fn a_step_whose_leaf_cannot_be_written_is_counted_once() {
    use flatleaf::optim::{Optimizer, Sgd};
    let lost = Rc::new(Device::default());
    let mut model = (vec![1.0_f32], lost.tensor(&[1], &[1.0]));
    let layout = Layout::of(&model).unwrap();
    let sgd = Sgd {
        lr: 0.5,
        ..Default::default()
    };
    let mut optimizer = Optimizer::new(sgd, &layout).unwrap();
    lost.is_full.set(true);
    let grads = (vec![1.0_f32], vec![1.0_f32]);
    let error = optimizer.update(&mut model, &grads).unwrap_err();
    assert_eq!(error.path(), Some("1"));
    // The other leaf has moved, and the step counts: to repeat it would move it twice.
    assert_eq!((model.0[0], model.1.read()), (0.5, vec![1.0]));
    assert_eq!(optimizer.step_count("0").unwrap(), 1);
}
