//! A random model, and everything that is done with it, against a naive model of the same.

mod draw;
mod naive;

use arbitrary::Unstructured;
use flatleaf::Companion::{Grads, Totals, Values};
use flatleaf::optim::{Optimizer, Sgd};
use flatleaf::{DynTree, Layout, Result, TiedGrads, deep_clone};
use ndarray::ArrayD;

use draw::{Node, Sealed};
use naive::{Leaf, Naive, Place, numbers};

/// Whether the bytes give a model without views that overlap.
pub(crate) fn agrees(bytes: &[u8]) -> bool {
    let mut bytes = Unstructured::new(bytes);
    let (seed, everything) = (
        bytes.arbitrary().unwrap_or(0),
        bytes.ratio(1, 8).unwrap_or(false),
    );
    let tree = draw::model(&mut bytes).expect("bytes that run out are zeros");
    let mut places = naive::places(&tree);
    places
        .iter_mut()
        .for_each(|place| place.is_frozen &= !everything);
    let plan = if everything {
        Layout::everything
    } else {
        Layout::of
    };
    match (Naive::of(places), plan(&tree)) {
        (Ok(naive), Ok(layout)) => {
            let grads = naive.gradients(seed);
            Case {
                naive,
                layout,
                plan,
                grads,
                seed,
            }
            .check(tree);
            true
        }
        (Err(overlaps), Err(error)) => {
            let found = (
                error.path().unwrap_or_default().to_owned(),
                error.other_path().unwrap_or_default().to_owned(),
            );
            assert!(
                error.is_overlap() && overlaps.contains(&found),
                "{error}, not one of {overlaps:?}"
            );
            false
        }
        (naive, layout) => panic!("{naive:?}, but {layout:?}"),
    }
}

/// A model's layout, and what it should be.
struct Case {
    naive: Naive,
    layout: Layout,
    plan: fn(&Node) -> Result<Layout>,
    /// At every place a gradient or none.
    grads: Vec<Option<ArrayD<f32>>>,
    seed: u32,
}

impl Case {
    fn check(&self, mut tree: Node) {
        self.leaves();
        is_written_and_read(&self.layout);
        self.new_trees(&tree);
        self.values();
        self.broken_ties();
        self.gradients();
        self.mask();
        self.companions(&tree);
        self.maps(&tree);
        self.update(&tree);
        self.in_place(&mut tree);
        self.sealed(Sealed(tree));
    }

    fn leaves(&self) {
        let described = |leaf: &Leaf| {
            let paths: Vec<String> = leaf
                .iter()
                .map(|&place| self.naive.places[place].path())
                .collect();
            (paths, self.naive.first(leaf).array.shape().to_vec())
        };
        let expected = |leaves: &[Leaf]| leaves.iter().map(described).collect::<Vec<_>>();
        let found = |leaves: &[flatleaf::Leaf]| {
            leaves
                .iter()
                .map(|leaf| (leaf.places().to_vec(), leaf.shape().to_vec()))
                .collect::<Vec<_>>()
        };
        assert_eq!(found(self.layout.leaves()), expected(&self.naive.leaves));
        assert_eq!(found(self.layout.others()), expected(&self.naive.others));
        let end = self.layout.leaves().iter().fold(0, |next, leaf| {
            assert_eq!(leaf.range(), next..next + leaf.len());
            next + leaf.len()
        });
        assert_eq!(self.layout.len(), end);
    }

    /// A tree holds these places, with the ties of the layout.
    fn assert_holds(&self, tree: &Node, places: &[Place]) {
        let arrays = |places: &[Place]| {
            places
                .iter()
                .map(|place| place.array.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(arrays(&naive::places(tree)), arrays(places));
        assert_eq!((self.plan)(tree).expect("a tree"), self.layout);
    }

    fn new_trees(&self, tree: &Node) {
        let Case { naive, layout, .. } = self;
        assert_eq!(layout.gather(tree).expect("its own tree"), naive.flat());
        let flat = numbers(layout.len(), self.seed);
        let new = layout.restructure(tree, &flat).expect("its own tree");
        self.assert_holds(&new, &naive.with(&flat));
        assert_eq!(layout.gather(&new).expect("a tree like its own"), flat);
        let mut copy = deep_clone(tree).expect("a tree");
        self.assert_holds(&copy, &naive.places);
        layout
            .restructure_into(&mut copy, &flat)
            .expect("a tree like its own");
        self.assert_holds(&copy, &naive.with(&flat));
        self.assert_holds(tree, &naive.places);
    }

    fn in_place(&self, tree: &mut Node) {
        let flat = numbers(self.layout.len(), self.seed);
        self.layout
            .restructure_into(tree, &flat)
            .expect("its own tree");
        self.assert_holds(tree, &self.naive.with(&flat));
        let error = self
            .layout
            .restructure_into(tree, &numbers(flat.len() + 1, 0))
            .expect_err("of another length");
        assert!(error.is_length(), "{error}");
        self.assert_holds(tree, &self.naive.with(&flat));
    }

    /// Frozen from the root on: nothing is trained, and any gradient is ignored.
    fn sealed(&self, tree: Sealed) {
        let layout = Layout::of(&tree).expect("a tree");
        let count = self.naive.leaves.len() + self.naive.others.len();
        for layout in [is_written_and_read(&layout), layout] {
            assert_eq!(
                (layout.len(), layout.leaves().len(), layout.others().len()),
                (0, 0, count)
            );
            let anything =
                flatleaf::tree!({ "z": (self.gradient_tree()), "0": (self.gradient_tree()) });
            assert!(layout.gather_grad(&anything).expect("ignored").is_empty());
        }
    }

    /// Another tree of the same paths: what is missing or too much in it is an error with its path.
    fn values(&self) {
        let Case { naive, layout, .. } = self;
        let entries = || entries(&naive.places);
        assert_eq!(
            layout.gather(&tree_of(&entries())).expect("every place"),
            naive.flat()
        );
        for index in 0..naive.places.len().min(8) {
            let mut others = entries();
            others.remove(index);
            let error = layout
                .gather(&tree_of(&others))
                .expect_err("one place less");
            assert!(
                error.is_missing() && error.path() == Some(&naive.places[index].path()),
                "{error}"
            );
        }
        let (key, array) = (["z".to_owned()], ArrayD::zeros(vec![1]));
        let error = layout
            .gather(&tree_of(&[entries(), vec![(&key[..], &array)]].concat()))
            .expect_err("one place more");
        assert!(error.is_unknown() && error.path() == Some("z"), "{error}");
    }

    /// And so is a tie of which one place holds something else.
    fn broken_ties(&self) {
        for leaf in self.naive.leaves.iter().filter(|leaf| leaf.len() > 1) {
            let mut places = self.naive.places.clone();
            places[leaf[1]]
                .array
                .iter_mut()
                .take(1)
                .for_each(|element| *element += 0.5);
            let error = self
                .layout
                .gather(&tree_of(&entries(&places)))
                .expect_err("not tied");
            let is_place = |path: Option<&str>| {
                leaf.iter()
                    .any(|&place| Some(&*places[place].path()) == path)
            };
            assert!(
                error.is_broken_tie() && is_place(error.path()) && is_place(error.other_path()),
                "{error}"
            );
        }
    }

    /// A step of an optimiser in place, against gradients of some leaves.
    fn update(&self, model: &Node) {
        let negative = |leaf: &Leaf| {
            self.gradient_or_zero(leaf)
                .into_iter()
                .map(|dx| -dx)
                .collect::<Vec<_>>()
        };
        let expected = self
            .naive
            .with(&self.plus(self.naive.leaves.iter().flat_map(negative)));
        let mut copy = deep_clone(model).expect("a tree");
        let mut optimizer = Optimizer::new(
            Sgd {
                lr: 1.0,
                ..Sgd::default()
            },
            &self.layout,
        )
        .expect("a rule");
        optimizer
            .update(&mut copy, &self.gradient_tree())
            .expect("paths of the model");
        self.assert_holds(&copy, &expected);
    }

    fn gradient_or_zero(&self, leaf: &Leaf) -> Vec<f32> {
        self.naive.gradient(leaf, &self.grads, true).unwrap_or(vec![
            0.0;
            self.naive
                .first(leaf)
                .array
                .len()
        ])
    }

    /// The flat vector with this added to it.
    fn plus(&self, added: impl Iterator<Item = f32>) -> Vec<f32> {
        self.naive
            .flat()
            .into_iter()
            .zip(added)
            .map(|(x, dx)| x + dx)
            .collect()
    }

    fn gradient_tree(&self) -> DynTree {
        let entry = |(place, grad): (&'_ Place, &'_ Option<ArrayD<f32>>)| {
            Some(Place {
                array: grad.clone()?,
                ..place.clone()
            })
        };
        let places: Vec<Place> = self
            .naive
            .places
            .iter()
            .zip(&self.grads)
            .filter_map(entry)
            .collect();
        tree_of(&entries(&places))
    }

    fn gradients(&self) {
        for (ties, is_summed) in [(TiedGrads::Sum, true), (TiedGrads::AlreadyTotal, false)] {
            let grad = self
                .layout
                .gather_grad_with(&self.gradient_tree(), ties)
                .expect("paths of the model");
            for (index, leaf) in self.naive.leaves.iter().enumerate() {
                let expected = self.naive.gradient(leaf, &self.grads, is_summed);
                let range = self.layout.leaves()[index].range();
                assert_eq!(grad.is_present(index), expected.is_some(), "{leaf:?}");
                assert_eq!(
                    grad[range.clone()],
                    expected.unwrap_or(vec![0.0; range.len()]),
                    "{leaf:?}"
                );
            }
        }
    }

    fn mask(&self) {
        let (layout, tree) = (&self.layout, self.gradient_tree());
        let mask = layout.mask(&tree).expect("paths of the model");
        let at = |place: usize| {
            mask.get(&self.naive.places[place].path())
                .and_then(DynTree::as_array::<f32>)
        };
        for leaf in &self.naive.leaves {
            let first = at(leaf[0]).map(|array| array.iter().copied().collect());
            assert_eq!(first, self.naive.gradient(leaf, &self.grads, true));
            assert!(leaf[1..].iter().all(|&place| at(place).is_none()));
        }
        assert!(
            self.naive
                .others
                .iter()
                .flatten()
                .all(|&place| at(place).is_none())
        );
        assert_eq!(
            layout.gather_grad(&mask).expect("paths of the model"),
            layout.gather_grad(&tree).expect("paths of the model")
        );
    }

    fn companions(&self, model: &Node) {
        let tree = self.gradient_tree();
        let meet = |leaf: flatleaf::LeafAt<'_, 3>, x: &[f32], others: [&[f32]; 3]| {
            vec![(
                leaf.path().to_owned(),
                x.to_vec(),
                others.map(<[f32]>::to_vec),
                [leaf.is_present(0), leaf.is_present(1)],
            )]
        };
        let met = self.layout.map_reduce(
            model,
            [Grads(&tree), Totals(&tree), Values(model)],
            meet,
            |a, b| [a, b].concat(),
        );
        let expected: Vec<Met> = self
            .naive
            .leaves
            .iter()
            .map(|leaf| self.met(leaf))
            .collect();
        assert_eq!(
            met.expect("paths of the model").unwrap_or_default(),
            expected
        );
    }

    fn met(&self, leaf: &Leaf) -> Met {
        let x: Vec<f32> = self.naive.first(leaf).array.iter().copied().collect();
        let [sum, total] =
            [true, false].map(|is_summed| self.naive.gradient(leaf, &self.grads, is_summed));
        let (present, zeros) = ([sum.is_some(), total.is_some()], || vec![0.0; x.len()]);
        let others = [
            sum.unwrap_or_else(zeros),
            total.unwrap_or_else(zeros),
            x.clone(),
        ];
        (self.naive.first(leaf).path(), x, others, present)
    }

    fn maps(&self, model: &Node) {
        let grads = self.gradient_tree();
        let sums = self.plus(
            self.naive
                .leaves
                .iter()
                .flat_map(|leaf| self.gradient_or_zero(leaf)),
        );
        let add = |_: flatleaf::LeafAt<'_, 1>, x: &mut [f32], [dx]: [&[f32]; 1]| {
            flatleaf::ops::add(x, dx)
        };
        let new = self
            .layout
            .map(model, [Grads(&grads)], add)
            .expect("paths of the model");
        self.assert_holds(&new, &self.naive.with(&sums));
        let mut copy = deep_clone(model).expect("a tree");
        self.layout
            .map_into(&mut copy, [Grads(&grads)], add)
            .expect("paths of the model");
        self.assert_holds(&copy, &self.naive.with(&sums));
    }
}

fn is_written_and_read(layout: &Layout) -> Layout {
    let text = serde_json::to_string(layout).expect("a layout is written");
    let read: Layout = serde_json::from_str(&text).expect("what is written is read");
    assert_eq!(
        (&read, read.fingerprint()),
        (layout, layout.fingerprint()),
        "{text}"
    );
    read
}

/// One leaf as a closure meets it: path, elements, companions, and which of them are present.
type Met = (String, Vec<f32>, [Vec<f32>; 3], [bool; 2]);

type Entry<'p> = (&'p [String], &'p ArrayD<f32>);

fn entries(places: &[Place]) -> Vec<Entry<'_>> {
    places
        .iter()
        .map(|place| (&place.keys[..], &place.array))
        .collect()
}

/// A tree of maps, whose keys come in the opposite order: trees are matched by path.
fn tree_of(entries: &[Entry<'_>]) -> DynTree {
    match entries.first() {
        None => DynTree::absent(),
        Some(([], array)) => DynTree::from(*array),
        Some(_) => {
            let below = |entries: &[Entry<'_>]| {
                tree_of(
                    &entries
                        .iter()
                        .map(|(keys, array)| (&keys[1..], *array))
                        .collect::<Vec<_>>(),
                )
            };
            let children = entries.chunk_by(|a, b| a.0[0] == b.0[0]).rev();
            DynTree::map(children.map(|child| (child[0].0[0].clone(), below(child))))
        }
    }
}
