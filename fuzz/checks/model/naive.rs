//! What a layout is, written plainly: a list of places, and leaves as those that hold the same
//! elements.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{ArrayD, ArrayViewD, IxDyn, aview0, aview1};

use super::draw::Node;

/// An array in a tree, with its elements in logical order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) keys: Vec<String>,
    pub(crate) array: ArrayD<f32>,
    pub(crate) is_float: bool,
    pub(crate) is_frozen: bool,
}

impl Place {
    pub(crate) fn path(&self) -> String {
        let escape = |key: &String| {
            key.replace('\\', "\\\\")
                .replace('.', "\\.")
                .replace('*', "\\*")
        };
        let segment = |key: &String| {
            if key.is_empty() {
                "\\e".into()
            } else {
                escape(key)
            }
        };
        self.keys.iter().map(segment).collect::<Vec<_>>().join(".")
    }

    pub(crate) fn is_trainable(&self) -> bool {
        self.is_float && !self.is_frozen
    }

    /// The elements by number.
    fn numbers(&self) -> BTreeSet<u32> {
        self.array.iter().map(|element| *element as u32).collect()
    }
}

pub(crate) fn places(tree: &Node) -> Vec<Place> {
    let mut walk = Walk::default();
    walk.node(tree);
    walk.places
}

#[derive(Default)]
struct Walk {
    keys: Vec<String>,
    is_frozen: bool,
    places: Vec<Place>,
}

impl Walk {
    fn at(&mut self, key: &str, walk: impl FnOnce(&mut Self)) {
        self.keys.push(key.to_owned());
        walk(self);
        self.keys.pop();
    }

    fn frozen(&mut self, walk: impl FnOnce(&mut Self)) {
        let around = std::mem::replace(&mut self.is_frozen, true);
        walk(self);
        self.is_frozen = around;
    }

    fn place(&mut self, array: ArrayViewD<'_, f32>, is_float: bool) {
        self.places.push(Place {
            keys: self.keys.clone(),
            array: array.to_owned(),
            is_float,
            is_frozen: self.is_frozen,
        });
    }

    fn node(&mut self, node: &Node) {
        self.at("0", |walk| walk.content(node));
    }

    fn content(&mut self, node: &Node) {
        match node {
            Node::Array(array) => self.place(array.view(), true),
            Node::View(array) => self.place(array.view(), true),
            Node::Integers(integers) => {
                let numbers: Vec<f32> = integers.iter().map(|&integer| integer as f32).collect();
                self.place(aview1(&numbers).into_dyn(), false);
            }
            Node::Number(_) => {}
            Node::Layer(layer) => {
                self.at("weight", |walk| walk.place(layer.weight.view(), true));
                layer.bias.iter().for_each(|bias| {
                    self.at("bias", |walk| walk.place(aview1(bias).into_dyn(), true))
                });
                self.at("mean", |walk| {
                    walk.frozen(|walk| walk.place(aview1(&layer.mean).into_dyn(), true))
                });
                self.at("scale", |walk| {
                    walk.place(aview0(&layer.scale).into_dyn(), true)
                });
            }
            Node::Shared(part) => self.node(part),
            Node::Guarded(part) => self.node(&part.lock().expect("not poisoned")),
            Node::Cell(part) => self.node(&part.borrow()),
            Node::Sealed(part) => self.frozen(|walk| walk.node(&part.0)),
            Node::Frozen(part) => self.frozen(|walk| walk.node(part)),
            Node::Maybe(part) => part.iter().for_each(|part| self.node(part)),
            Node::List(nodes) => nodes
                .iter()
                .enumerate()
                .for_each(|(index, node)| self.at(&index.to_string(), |walk| walk.node(node))),
            Node::Map(nodes) => nodes
                .iter()
                .for_each(|(key, node)| self.at(key, |walk| walk.node(node))),
            Node::Table(nodes) => {
                let sorted: BTreeMap<_, _> = nodes.iter().collect();
                sorted
                    .iter()
                    .for_each(|(key, node)| self.at(key, |walk| walk.node(node)));
            }
        }
    }
}

/// Indices of the places of one leaf: the first that is trainable, then the others in order.
pub(crate) type Leaf = Vec<usize>;

#[derive(Debug)]
pub(crate) struct Naive {
    pub(crate) places: Vec<Place>,
    /// Trainable, in flat order.
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) others: Vec<Leaf>,
}

impl Naive {
    /// # Errors
    /// The paths of two places that share some elements but not all.
    pub(crate) fn of(places: Vec<Place>) -> Result<Naive, Vec<(String, String)>> {
        let numbers: Vec<BTreeSet<u32>> = places.iter().map(Place::numbers).collect();
        let pairs =
            || (0..places.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
        let overlaps = |&(a, b): &(usize, usize)| {
            numbers[a] != numbers[b] && !numbers[a].is_disjoint(&numbers[b])
        };
        let overlaps: Vec<_> = pairs()
            .filter(overlaps)
            .map(|(a, b)| (places[a].path(), places[b].path()))
            .collect();
        if !overlaps.is_empty() {
            return Err(overlaps);
        }
        let is_tied =
            |a: usize, b: usize| a == b || !numbers[a].is_empty() && numbers[a] == numbers[b];
        let firsts =
            (0..places.len()).filter(|&place| (0..place).all(|before| !is_tied(before, place)));
        let leaf = |first| {
            (first..places.len())
                .filter(|&place| is_tied(first, place))
                .collect::<Leaf>()
        };
        let mut all: Vec<Leaf> = firsts.map(leaf).collect();
        for leaf in &mut all {
            let first = leaf
                .iter()
                .position(|&place| places[place].is_trainable())
                .unwrap_or(0);
            leaf[..=first].rotate_right(1);
        }
        all.sort_by_key(|leaf| leaf[0]);
        let (leaves, others) = all
            .into_iter()
            .partition(|leaf| places[leaf[0]].is_trainable());
        Ok(Naive {
            places,
            leaves,
            others,
        })
    }

    pub(crate) fn first(&self, leaf: &Leaf) -> &Place {
        &self.places[leaf[0]]
    }

    pub(crate) fn flat(&self) -> Vec<f32> {
        self.leaves
            .iter()
            .flat_map(|leaf| self.first(leaf).array.iter().copied())
            .collect()
    }

    /// The places of the tree with another vector in its leaves.
    pub(crate) fn with(&self, flat: &[f32]) -> Vec<Place> {
        let new: BTreeMap<u32, f32> = self
            .flat()
            .iter()
            .map(|&old| old as u32)
            .zip(flat.iter().copied())
            .collect();
        let at = |place: &Place| {
            place
                .array
                .mapv(|old| new.get(&(old as u32)).copied().unwrap_or(old))
        };
        self.places
            .iter()
            .map(|place| Place {
                array: at(place),
                ..place.clone()
            })
            .collect()
    }

    /// The gradient of a leaf: the sum of those that are at its trainable places, or the first of
    /// them.
    pub(crate) fn gradient(
        &self,
        leaf: &Leaf,
        grads: &[Option<ArrayD<f32>>],
        is_summed: bool,
    ) -> Option<Vec<f32>> {
        let present = leaf
            .iter()
            .filter(|&&place| self.places[place].is_trainable());
        let present: Vec<Vec<f32>> = present
            .filter_map(|&place| Some(self.seen_as_first(leaf, place, grads[place].as_ref()?)))
            .collect();
        let counted = if is_summed {
            &present[..]
        } else {
            &present[..present.len().min(1)]
        };
        let sum = |a: Vec<f32>, b: &Vec<f32>| a.iter().zip(b).map(|(a, b)| a + b).collect();
        let zeros = vec![0.0; self.first(leaf).array.len()];
        (!present.is_empty()).then(|| counted.iter().fold(zeros, sum))
    }

    /// What is at one place of a leaf, in the order of the first.
    fn seen_as_first(&self, leaf: &Leaf, place: usize, array: &ArrayD<f32>) -> Vec<f32> {
        let numbers = |place: &Place| {
            place
                .array
                .iter()
                .map(|&number| number as u32)
                .collect::<Vec<_>>()
        };
        let by_number: BTreeMap<u32, f32> = numbers(&self.places[place])
            .into_iter()
            .zip(array.iter().copied())
            .collect();
        numbers(self.first(leaf))
            .iter()
            .map(|number| by_number[number])
            .collect()
    }

    /// An array for every place, with numbers that a seed chooses; at some places none.
    pub(crate) fn gradients(&self, seed: u32) -> Vec<Option<ArrayD<f32>>> {
        let mut seeds = (1..).map(|step: u32| {
            seed.wrapping_mul(0x9e37_79b9)
                .wrapping_add(step.wrapping_mul(0x85eb_ca6b))
        });
        let mut array = |place: &Place| {
            let seed = seeds.next()?;
            let array = ArrayD::from_shape_vec(
                IxDyn(place.array.shape()),
                numbers(place.array.len(), seed),
            )
            .expect("of this shape");
            (seed >> 16 & 3 != 0).then_some(array)
        };
        self.places.iter().map(&mut array).collect()
    }
}

/// Small whole numbers, exact in every sum.
pub(crate) fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let step = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(step(&seed), step)
        .take(len)
        .map(|state| (state >> 24) as f32 - 128.0)
        .collect()
}
