//! A file as a tree for reading: tensors at their dotted names.

use std::collections::HashMap;

use super::header::Tensor;
use super::open::Checkpoint;
use crate::element::ReadBytes;
use crate::error::{Error, Result};
use crate::tree::key::{split, unescape};
use crate::tree::stack::MAX_LEVELS;
use crate::tree::{Builder, Identity, Key, LeafRef, Source, Tree, Visitor, VisitorMut};

/// The names of a file as a tree: children in the order in which they are met.
struct Names {
    /// The root first.
    nodes: Vec<Node>,
    children: HashMap<(usize, String), usize>,
}

#[derive(Default)]
struct Node {
    key: String,
    children: Vec<usize>,
    tensor: Option<usize>,
}

impl Names {
    /// # Errors
    /// A name that is the beginning of another's path; more than 1,024 levels.
    fn of(file: &Checkpoint) -> Result<Names> {
        let mut names = Names {
            nodes: vec![Node::default()],
            children: HashMap::new(),
        };
        let (header, notes) = (&file.header, &file.header.notes);
        for (index, tensor) in header.models() {
            names.push(&tensor.name, index)?;
        }
        // An alias with other axes shows what no one slice holds.
        for (name, alias) in notes
            .aliases
            .iter()
            .filter(|(name, alias)| alias.axes.is_none() && !notes.is_beside(name))
        {
            names.push(name, alias.tensor)?;
        }
        Ok(names)
    }

    fn push(&mut self, name: &str, tensor: usize) -> Result<()> {
        let conflict = || {
            Error::invalid_file(
                "a name that is not the beginning of another's path",
                "one that is",
            )
            .at(name)
        };
        let mut node = 0;
        for (level, segment) in split(name).enumerate().filter(|_| !name.is_empty()) {
            if level == MAX_LEVELS {
                return Err(Error::too_deep(MAX_LEVELS).at(name));
            }
            if self.nodes[node].tensor.is_some() {
                return Err(conflict());
            }
            node = self.child(
                node,
                unescape(segment).unwrap_or_else(|| segment.to_owned()),
            );
        }
        let is_taken = self.nodes[node].tensor.replace(tensor).is_some()
            || !self.nodes[node].children.is_empty();
        if is_taken { Err(conflict()) } else { Ok(()) }
    }

    fn child(&mut self, parent: usize, key: String) -> usize {
        let new = self.nodes.len();
        let child = *self.children.entry((parent, key.clone())).or_insert(new);
        if child == new {
            self.nodes.push(Node {
                key,
                ..Node::default()
            });
            self.nodes[parent].children.push(new);
        }
        child
    }
}

/// Copies a tensor whose bytes cannot be lent.
struct Copy<'c>(&'c [u8]);

impl ReadBytes for Copy<'_> {
    fn read_bytes(&self, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(self.0);
        Ok(())
    }
}

/// What a place of a tensor is known by: two places of one are a tie.
#[derive(Clone, PartialEq, Eq, Hash)]
struct TensorId {
    file: usize,
    tensor: usize,
}

impl Checkpoint {
    fn visit_tensor<'a>(&'a self, index: usize, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let tensor: &'a Tensor = &self.tensors()[index];
        let Some(dtype) = tensor.dtype() else {
            return visitor.no_leaf();
        };
        self.check_booleans(tensor)?;
        let bytes = self.bytes_of(tensor);
        let copy = Copy(bytes);
        let is_lent = bytes.as_ptr().addr().is_multiple_of(dtype.size());
        let source = if is_lent {
            Source::Borrowed(bytes)
        } else {
            Source::Reader(&copy)
        };
        let identity = Identity::of(TensorId {
            file: self.address(),
            tensor: tensor.byte_range().start,
        });
        visitor.leaf(LeafRef::new(dtype, tensor.shape(), source).with_identity(&identity))
    }
}

impl Tree for Checkpoint {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let names = Names::of(self)?;
        visitor.read_only();
        let mut open = vec![(0, 0)];
        while let Some((id, next)) = open.pop() {
            let node = &names.nodes[id];
            if let Some(tensor) = node.tensor {
                self.visit_tensor(tensor, visitor)?;
            }
            if let Some(&child) = node.children.get(next) {
                open.push((id, next + 1));
                visitor.enter(Key::Name(&names.nodes[child].key), false)?;
                open.push((child, 0));
            } else if id != 0 {
                visitor.leave(Key::Name(&node.key));
            }
        }
        Ok(())
    }

    fn visit_mut<'a>(&'a mut self, _visitor: &mut dyn VisitorMut<'a>) -> Result<()> {
        Err(Error::read_only("a file"))
    }

    fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
        if builder.changes() {
            Err(Error::read_only("a file"))
        } else {
            Ok(self.clone())
        }
    }
}
