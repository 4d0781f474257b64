//! A file as a tree: its tensors are leaves at their dotted names.
//!
//! Names are sorted by their segments, so that whatever is below one node comes together and the
//! tree is built with a stack of the nodes that are open, without a map and without a copy of a
//! name. A node costs some forty bytes however long its path is: a file may have a hundred million
//! bytes of names that consist of dots.
//!
//! Of the names `b.w`, `a` and `b.c`, in the order of the file, the sorted order is `a`, `b.c`,
//! `b.w`. The nodes are the root, `a` (first met with name 1), `b`, `c` (2) and `w` (0); `b` is
//! first met where the first of its children is (0). Siblings by when they are first met give the
//! order of the file again: `b` before `a`, `w` before `c`.

use std::borrow::Cow;

use super::names::{key_of, path_of};
use super::open::Checkpoint;
use super::sources::reordered;
use super::tensor::Tensor;
use super::work;
use crate::element::{Dtype, ReadBytes};
use crate::error::{Error, Result};
use crate::tree::axes::AxisMap;
use crate::tree::key::split;
use crate::tree::stack::MAX_LEVELS;
use crate::tree::{Builder, Identity, Key, LeafRef, Source, Tree, Visitor, VisitorMut};

/// A name of a tensor: its own or an alias.
struct NamedLeaf<'c> {
    path: Cow<'c, str>,
    tensor: usize,
    axes: Option<&'c AxisMap>,
    /// Whether it only looks like a tie, in the metadata of another program.
    is_guess: bool,
}

/// The names of a file, in the order of the file.
fn named_leaves(file: &Checkpoint) -> Vec<NamedLeaf<'_>> {
    let metadata = &file.header.metadata;
    let own = file.header.models().map(|(index, tensor)| NamedLeaf {
        path: path_of(&tensor.name),
        tensor: index,
        axes: tensor.axes.as_ref(),
        is_guess: false,
    });
    let aliases = metadata.aliases().iter();
    let aliases = aliases.filter(|alias| !metadata.is_extra(&alias.name));
    let aliases = aliases.map(|alias| NamedLeaf {
        path: path_of(&alias.name),
        tensor: alias.tensor,
        axes: alias.axes.as_ref(),
        is_guess: !alias.is_stated,
    });
    own.chain(aliases).collect()
}

/// No node, or no leaf.
const NONE: u32 = u32::MAX;

struct NameNode<'n> {
    segment: &'n str,
    parent: u32,
    /// The index of the first name at or below this node.
    first: u32,
    leaf: u32,
}

/// The names of a file as a tree, the root first, parents before their children.
struct NameTree<'n> {
    nodes: Vec<NameNode<'n>>,
    /// The nodes, those of one parent together and in the order of the file.
    children: Vec<u32>,
    /// Where the children of each node begin there.
    starts: Vec<u32>,
}

impl<'n> NameTree<'n> {
    /// # Errors
    /// A name that is the beginning of another's path; more than 1,024 levels.
    fn of(names: &'n [NamedLeaf<'_>]) -> Result<NameTree<'n>> {
        let mut sorted: Vec<u32> = (0..names.len() as u32).collect();
        let path = |index: u32| segments(&names[index as usize].path);
        // Of two equal names the one that is no guess comes first.
        sorted.sort_by(|&a, &b| {
            work::count(1);
            path(a).cmp(path(b)).then(a.cmp(&b))
        });
        let root = NameNode {
            segment: "",
            parent: NONE,
            first: NONE,
            leaf: NONE,
        };
        let mut nodes = vec![root];
        let mut open = vec![0];
        for index in sorted {
            push_name(names, index, &mut nodes, &mut open)?;
        }
        for node in (1..nodes.len()).rev() {
            let first = nodes[node].first;
            let parent = nodes[node].parent as usize;
            nodes[parent].first = nodes[parent].first.min(first);
        }
        let mut children: Vec<u32> = (1..nodes.len() as u32).collect();
        children.sort_by_key(|&node| {
            let NameNode { parent, first, .. } = nodes[node as usize];
            (parent, first)
        });
        let parents = children.iter().map(|&node| nodes[node as usize].parent);
        let mut starts = vec![0; nodes.len() + 1];
        parents.for_each(|parent| starts[parent as usize + 1] += 1);
        for node in 0..nodes.len() {
            starts[node + 1] += starts[node];
        }
        Ok(NameTree {
            nodes,
            children,
            starts,
        })
    }

    fn child(&self, node: u32, position: u32) -> Option<u32> {
        let node = node as usize;
        let start = self.starts[node];
        let end = self.starts[node + 1];
        let index = start + position;
        (index < end).then(|| self.children[index as usize])
    }
}

/// Adds the next of the sorted names below the nodes that are open, which are those of the name
/// before it.
fn push_name<'n>(
    names: &'n [NamedLeaf<'_>],
    index: u32,
    nodes: &mut Vec<NameNode<'n>>,
    open: &mut Vec<u32>,
) -> Result<()> {
    let name = &names[index as usize];
    let shared = segments(&name.path)
        .zip(&open[1..])
        .take_while(|&(segment, &node)| nodes[node as usize].segment == segment)
        .count();
    open.truncate(shared + 1);
    work::count(open.len());
    // A leaf on the way is a name that is the beginning of this one, or this very name.
    for &node in open.iter() {
        let leaf = nodes[node as usize].leaf;
        if leaf == NONE {
            continue;
        }
        let other = &names[leaf as usize];
        if name.is_guess {
            return Ok(());
        }
        if !other.is_guess {
            return Err(Error::leaf_and_branch(&other.path, &name.path));
        }
        nodes[node as usize].leaf = NONE;
    }
    for (level, segment) in segments(&name.path).enumerate().skip(shared) {
        if level == MAX_LEVELS {
            return Err(Error::too_deep(MAX_LEVELS).at(&name.path));
        }
        let parent = open[level];
        open.push(nodes.len() as u32);
        nodes.push(NameNode {
            segment,
            parent,
            first: index,
            leaf: NONE,
        });
    }
    let node = &mut nodes[open[open.len() - 1] as usize];
    (node.first, node.leaf) = (node.first.min(index), index);
    Ok(())
}

/// The segments of a path; the empty path has none.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    split(path).filter(|_| !path.is_empty())
}

/// A tensor as bytes that cannot be lent: they are not aligned, or seen with other axes.
struct TensorBytes<'c> {
    bytes: &'c [u8],
    dtype: Dtype,
    stored_shape: &'c [usize],
    axes: Option<&'c AxisMap>,
    /// Of the array as it is seen, in elements.
    strides: Vec<isize>,
    /// The address of its first element.
    address: usize,
}

impl<'c> TensorBytes<'c> {
    fn new(
        bytes: &'c [u8],
        dtype: Dtype,
        stored_shape: &'c [usize],
        axes: Option<&'c AxisMap>,
    ) -> Self {
        let seen = match axes {
            Some(axes) => &axes.shape,
            None => stored_shape,
        };
        let mut address = bytes.as_ptr().addr();
        let mut stored = row_major_strides(stored_shape);
        if let Some(axes) = axes {
            // Axes of length 1 are no axes of the map, and their strides are never used.
            let longer = stored_shape.iter().zip(stored);
            let longer: Vec<(usize, isize)> = longer
                .filter(|&(&len, _)| len != 1)
                .map(|(&len, stride)| (len, stride))
                .collect();
            let mut map = axes.axes.iter();
            stored = seen
                .iter()
                .map(|&len| {
                    let Some(&(axis, is_reversed)) = (len != 1).then(|| map.next()).flatten()
                    else {
                        return 1;
                    };
                    let (len, stride) = longer[axis];
                    if !is_reversed {
                        return stride;
                    }
                    address += (len - 1) * stride.unsigned_abs() * dtype.size();
                    -stride
                })
                .collect();
        }
        TensorBytes {
            bytes,
            dtype,
            stored_shape,
            axes,
            strides: stored,
            address,
        }
    }
}

fn row_major_strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as isize;
    }
    strides
}

impl ReadBytes for TensorBytes<'_> {
    fn read_bytes(&self, out: &mut [u8]) -> Result<()> {
        match self.axes {
            None => out.copy_from_slice(self.bytes),
            Some(axes) => {
                let seen = reordered(self.bytes, self.dtype, self.stored_shape, |order| {
                    axes.to_place(order)
                });
                out.copy_from_slice(&seen);
            }
        }
        Ok(())
    }

    fn geometry(&self) -> Option<(usize, Vec<isize>)> {
        Some((self.address, self.strides.clone()))
    }
}

/// What a place of a tensor is known by: two places of one are a tie.
#[derive(Clone, PartialEq, Eq, Hash)]
struct TensorId {
    file: usize,
    tensor: usize,
}

impl Checkpoint {
    fn visit_tensor<'a>(
        &'a self,
        leaf: &NamedLeaf<'a>,
        visitor: &mut dyn Visitor<'a>,
    ) -> Result<()> {
        let tensor: &'a Tensor = &self.tensors()[leaf.tensor];
        let dtype = tensor.element_type()?;
        self.check_booleans(tensor)?;
        let bytes = self.bytes_of(tensor);
        let stored_shape = tensor.stored_shape();
        let fields = tensor.fields();
        let reader = TensorBytes::new(bytes, dtype, stored_shape, leaf.axes);
        // Where one of the places has other axes, it is what they share in memory that ties them.
        if tensor.axes.is_some() || self.header.metadata.is_transposed(leaf.tensor) {
            let shape = leaf.axes.map_or(stored_shape, |axes| &axes.shape);
            let seen = LeafRef::new(dtype, shape, Source::Reader(&reader));
            let seen = seen.may_overlap();
            return visitor.leaf(seen.with_fields(fields));
        }
        let is_aligned = bytes.as_ptr().addr().is_multiple_of(dtype.size());
        let source = if is_aligned {
            Source::Borrowed(bytes)
        } else {
            Source::Reader(&reader)
        };
        let identity = Identity::of(TensorId {
            file: self.address(),
            tensor: tensor.byte_range().start,
        });
        let leaf = LeafRef::new(dtype, tensor.shape(), source);
        let leaf = leaf.with_fields(fields);
        visitor.leaf(leaf.with_identity(&identity))
    }
}

impl Tree for Checkpoint {
    fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
        let names = named_leaves(self);
        let tree = NameTree::of(&names)?;
        visitor.read_only();
        let mut open = vec![(0, 0)];
        while let Some((id, next)) = open.pop() {
            let node = &tree.nodes[id as usize];
            if node.leaf != NONE {
                let leaf = &names[node.leaf as usize];
                self.visit_tensor(leaf, visitor)?;
            }
            if let Some(child) = tree.child(id, next) {
                open.push((id, next + 1));
                let segment = tree.nodes[child as usize].segment;
                let key = key_of(segment);
                visitor.enter(Key::Name(&key), false)?;
                open.push((child, 0));
            } else if id != 0 {
                let key = key_of(node.segment);
                visitor.leave(Key::Name(&key));
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
