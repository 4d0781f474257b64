//! Every model of the menagerie comes back as it was, ties and all.

use std::borrow::Cow;
use std::fs;

use flatleaf::checkpoint::{self, Checkpoint, Extras, LoadOptions};
use flatleaf::{Dtype, DynTree, Layout, Tree, deep_clone};
use safetensors::SafeTensors;

use crate::common::models::{Law, every};
use crate::files::{Folder, open, parts, saved};

/// A copy of a model with zeros everywhere: what a file of zeros makes of it.
fn zeroed<T: Tree>(model: &T) -> T {
    let mut bytes = saved(model);
    let data = bytes.len() - parts(&bytes).1.len();
    bytes[data..].fill(0);
    let mut copy = deep_clone(model).unwrap();
    open(&bytes)
        .unwrap()
        .load_into(&mut copy, &LoadOptions::new())
        .unwrap();
    copy
}

fn is_f32(layout: &Layout) -> bool {
    layout
        .leaves()
        .iter()
        .all(|leaf| leaf.dtype() == Dtype::F32)
}

struct ComesBack;

impl Law for ComesBack {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let before = DynTree::of(&model).unwrap();
        let mut target = zeroed(&model);
        let report = open(&saved(&model))
            .unwrap()
            .load_into(&mut target, &LoadOptions::new())
            .unwrap();
        assert!(report.is_complete(), "{name}");
        assert_eq!(DynTree::of(&target).unwrap(), before, "{name}");
        assert_eq!(DynTree::of(&model).unwrap(), before, "{name}");
        assert_eq!(
            Layout::of(&target).unwrap(),
            Layout::of(&model).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn a_model_comes_back_with_its_ties() {
    every(&ComesBack);
}

struct LoadsUntied;

/// A copy made at run time has no ties: every place gets its value through an alias.
impl Law for LoadsUntied {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let before = DynTree::of(&model).unwrap();
        let mut target = DynTree::of(&zeroed(&model)).unwrap();
        open(&saved(&model))
            .unwrap()
            .load_into(&mut target, &LoadOptions::new())
            .unwrap();
        assert_eq!(target, before, "{name}");
    }
}

#[test]
fn a_copy_without_ties_gets_the_same_values() {
    every(&LoadsUntied);
}

struct IsTheFlatVector;

impl Law for IsTheFlatVector {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let layout = Layout::of(&model).unwrap();
        let file = open(&saved(&model)).unwrap();
        assert_eq!(file.fingerprint(), Some(layout.fingerprint()), "{name}");
        if !is_f32(&layout) {
            return;
        }
        let flat = layout.gather(&model).unwrap();
        let stored = file.flat_for(&layout).unwrap();
        assert_eq!(stored, flat, "{name}");
        assert!(matches!(stored, Cow::Borrowed(_)), "{name}");
    }
}

#[test]
fn a_model_of_f32_lies_in_the_file_as_in_the_flat_vector() {
    every(&IsTheFlatVector);
}

struct SavedFlat;

impl Law for SavedFlat {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let (folder, layout) = (Folder::new(), Layout::of(&model).unwrap());
        if !is_f32(&layout) {
            return;
        }
        let flat = layout.gather(&model).unwrap();
        checkpoint::save_flat(
            folder.path("flat"),
            &layout,
            &flat,
            &Extras::new().others_of(&model),
        )
        .unwrap();
        assert_eq!(
            fs::read(folder.path("flat")).unwrap(),
            saved(&model),
            "{name}"
        );
    }
}

#[test]
fn a_flat_vector_of_f32_leaves_is_saved_as_its_model_is() {
    every(&SavedFlat);
}

struct IsLegal;

impl Law for IsLegal {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let bytes = saved(&model);
        let (theirs, ours) = (
            SafeTensors::deserialize(&bytes).unwrap(),
            open(&bytes).unwrap(),
        );
        assert_eq!(theirs.len(), ours.tensors().len(), "{name}");
        for tensor in ours.tensors() {
            let same = theirs.tensor(tensor.name()).unwrap();
            assert_eq!(
                (same.shape(), same.dtype().to_string()),
                (tensor.shape(), tensor.type_name()),
                "{name}"
            );
        }
    }
}

#[test]
fn the_crate_agrees_about_every_file() {
    every(&IsLegal);
}

/// A file is a tree: the tree of what was saved.
struct FileIsATree;

impl Law for FileIsATree {
    fn holds<T: Tree>(&self, name: &str, model: T) {
        let (layout, file) = (Layout::of(&model).unwrap(), open(&saved(&model)).unwrap());
        let has_axes = file.metadata().contains_key("flatleaf.axes");
        if !has_axes && is_f32(&layout) {
            assert_eq!(
                layout.gather(&file).unwrap(),
                layout.gather(&model).unwrap(),
                "{name}"
            );
        }
        let own: Layout = Layout::of::<Checkpoint>(&file).unwrap();
        assert_eq!(
            own.len(),
            Layout::everything(&model).unwrap().len(),
            "{name}"
        );
        if is_f32(&own) {
            assert_eq!(file.flat().unwrap(), own.gather(&file).unwrap(), "{name}");
        }
    }
}

#[test]
fn a_file_is_a_tree_of_what_was_saved() {
    every(&FileIsATree);
}
