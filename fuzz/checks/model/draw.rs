//! Random models: every kind of node, with parts and views that any number of places share.
//!
//! Every element has a number of its own as its value. Elements that are one in memory have one
//! number, so the numbers say what is tied.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use arbitrary::{Result, Unstructured};
use flatleaf::Tree;
use ndarray::{ArcArray, Array, Axis, IxDyn, ShapeBuilder, Slice};

/// A variant's field is its child `0`.
#[derive(Tree)]
pub(crate) enum Node {
    Array(Array<f32, IxDyn>),
    View(ArcArray<f32, IxDyn>),
    Integers(Vec<i32>),
    Number(f32),
    Layer(Layer),
    Shared(Rc<Node>),
    Guarded(Arc<Mutex<Node>>),
    Cell(Rc<RefCell<Node>>),
    Sealed(Rc<Sealed>),
    Frozen(#[tree(frozen)] Box<Node>),
    Maybe(Option<Box<Node>>),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
    Table(HashMap<String, Node>),
}

/// Fields of all kinds.
#[derive(Tree)]
pub(crate) struct Layer {
    pub(crate) weight: Array<f32, IxDyn>,
    #[tree(skip)]
    active: bool,
    pub(crate) bias: Option<Box<[f32]>>,
    #[tree(frozen)]
    pub(crate) mean: [f32; 2],
    #[tree(param)]
    pub(crate) scale: f32,
}

/// Frozen wherever it stands, without a segment of its own.
#[derive(Tree)]
#[tree(transparent)]
pub(crate) struct Sealed(#[tree(frozen)] pub(crate) Node);

const MAX_LEVELS: usize = 5;
const MAX_NODES: usize = 48;
const KEYS: [&str; 10] = ["a", "b", "10", "9", "", ".", "*", "\\", "a.b", "\\e"];

/// A list of anything, the more the longer the bytes are.
pub(crate) fn model(bytes: &mut Unstructured<'_>) -> Result<Node> {
    let mut draw = Draw {
        bytes,
        numbers: 0,
        views: Vec::new(),
        parts: Vec::new(),
        left: MAX_NODES,
    };
    draw.views = (0..2)
        .map(|_| draw.array().map(Array::into_shared))
        .collect::<Result<_>>()?;
    for _ in 0..draw.bytes.int_in_range(0..=3)? {
        let part = draw.part()?;
        draw.parts.push(part);
    }
    let count = draw.bytes.int_in_range(1..=8)?;
    (0..count)
        .map(|_| draw.node(MAX_LEVELS))
        .collect::<Result<_>>()
        .map(Node::List)
}

struct Draw<'d, 'b> {
    bytes: &'d mut Unstructured<'b>,
    /// Given out so far.
    numbers: i32,
    views: Vec<ArcArray<f32, IxDyn>>,
    parts: Vec<Part>,
    /// Nodes that may still be drawn.
    left: usize,
}

/// A node that is held by handles, and how many nodes it is.
struct Part {
    handle: Node,
    size: usize,
}

impl Draw<'_, '_> {
    fn node(&mut self, levels: usize) -> Result<Node> {
        self.left = self.left.saturating_sub(1);
        let kinds = if levels == 0 || self.left == 0 {
            10
        } else {
            17
        };
        Ok(match self.bytes.int_in_range(0..=kinds)? {
            0..=1 => Node::Array(self.array()?),
            2..=4 => self.view()?,
            5..=8 => self.handle()?,
            9 => Node::Integers(self.integers()?),
            10 => {
                if self.bytes.arbitrary()? {
                    Node::Number(0.5)
                } else {
                    Node::Layer(self.layer()?)
                }
            }
            11 => Node::Frozen(Box::new(self.node(levels - 1)?)),
            12 => Node::Maybe(if self.bytes.arbitrary()? {
                Some(Box::new(self.node(levels - 1)?))
            } else {
                None
            }),
            13..=14 => Node::Map(self.nodes(levels)?.into_iter().collect()),
            15 => Node::Table(self.nodes(levels)?.into_iter().collect()),
            _ => Node::List(
                self.nodes(levels)?
                    .into_iter()
                    .map(|entry| entry.1)
                    .collect(),
            ),
        })
    }

    fn nodes(&mut self, levels: usize) -> Result<Vec<(String, Node)>> {
        let count = self.bytes.int_in_range(0..=4)?;
        (0..count)
            .map(|_| {
                Ok((
                    (*self.bytes.choose(&KEYS)?).to_owned(),
                    self.node(levels - 1)?,
                ))
            })
            .collect()
    }

    #[allow(clippy::arc_with_non_send_sync)] // a lock around an `Rc` is a tree like any other
    fn part(&mut self) -> Result<Part> {
        let before = self.left;
        let content = self.node(2)?;
        let handle = match self.bytes.int_in_range(0..=3)? {
            0 => Node::Shared(Rc::new(content)),
            1 => Node::Guarded(Arc::new(Mutex::new(content))),
            2 => Node::Cell(Rc::new(RefCell::new(content))),
            _ => Node::Sealed(Rc::new(Sealed(content))),
        };
        Ok(Part {
            handle,
            size: before - self.left,
        })
    }

    /// One more handle to a part, if there is one that is not too large.
    fn handle(&mut self) -> Result<Node> {
        let fits: Vec<&Part> = self
            .parts
            .iter()
            .filter(|part| part.size <= self.left)
            .collect();
        if fits.is_empty() {
            return Ok(Node::Array(self.array()?));
        }
        let part = *self.bytes.choose(&fits)?;
        self.left -= part.size;
        Ok(part.handle.another())
    }

    fn layer(&mut self) -> Result<Layer> {
        let has_bias: bool = self.bytes.arbitrary()?;
        Ok(Layer {
            weight: self.array()?,
            active: true,
            bias: has_bias.then(|| vec![self.number(), self.number()].into()),
            mean: [self.number(), self.number()],
            scale: self.number(),
        })
    }

    fn number(&mut self) -> f32 {
        self.numbers += 1;
        self.numbers as f32
    }

    fn integers(&mut self) -> Result<Vec<i32>> {
        let len = self.bytes.int_in_range(0..=2)?;
        Ok((0..len).map(|_| self.number() as i32).collect())
    }

    /// An array in any order of memory.
    fn array(&mut self) -> Result<Array<f32, IxDyn>> {
        let shape = (0..self.bytes.int_in_range(0..=3)?)
            .map(|_| self.bytes.int_in_range(0..=3))
            .collect::<Result<Vec<usize>>>()?;
        let mut array = Array::zeros(IxDyn(&shape).set_f(self.bytes.arbitrary()?));
        for axis in 0..shape.len() {
            if self.bytes.ratio(1, 4)? {
                array.invert_axis(Axis(axis));
            }
        }
        array
            .iter_mut()
            .for_each(|element| *element = self.number());
        Ok(array)
    }

    /// The same elements in another order of axes, now and then every other one.
    fn view(&mut self) -> Result<Node> {
        let mut view = self.bytes.choose(&self.views)?.clone();
        for axis in 0..view.ndim() {
            if self.bytes.ratio(1, 4)? {
                view.invert_axis(Axis(axis));
            }
            view.swap_axes(axis, self.bytes.int_in_range(axis..=view.ndim() - 1)?);
        }
        if self.bytes.ratio(1, 16)? && view.ndim() > 0 && view.shape()[0] > 1 {
            view.slice_axis_inplace(
                Axis(0),
                Slice::new(self.bytes.int_in_range(0..=1)?, None, 2),
            );
        }
        let unit = self.bytes.ratio(1, 8)?;
        Ok(Node::View(if unit {
            view.insert_axis(Axis(0))
        } else {
            view
        }))
    }
}

impl Node {
    fn another(&self) -> Node {
        match self {
            Node::Shared(part) => Node::Shared(part.clone()),
            Node::Guarded(part) => Node::Guarded(part.clone()),
            Node::Cell(part) => Node::Cell(part.clone()),
            Node::Sealed(part) => Node::Sealed(part.clone()),
            _ => unreachable!("parts are held by handles"),
        }
    }
}
