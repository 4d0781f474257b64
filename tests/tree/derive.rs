//! What `#[derive(Tree)]` makes of every shape of type, and of every word of `#[tree(...)]`.
#![deny(warnings)]
#![allow(missing_docs)]

use std::marker::PhantomData;

use flatleaf::{Dtype, Layout, Result, Tree, deep_clone, destructure};
use ndarray::{Array1, Array2, array};

fn paths(tree: &impl Tree) -> Result<Vec<String>> {
    Ok(Layout::of(tree)?
        .leaves()
        .iter()
        .map(|leaf| leaf.path().to_owned())
        .collect())
}

/// A new tree and the old one in place: both get the values.
fn restructured<T: Tree>(tree: &mut T, flat: &[f32]) -> Result<T> {
    let layout = Layout::of(tree)?;
    let new = layout.restructure(tree, flat)?;
    layout.restructure_into(tree, flat)?;
    assert_eq!(layout.gather(&new)?, flat);
    assert_eq!(layout.gather(tree)?, flat);
    Ok(new)
}

#[derive(Tree)]
struct Dense {
    weight: Array2<f32>,
    bias: Option<Array1<f32>>,
}

impl Dense {
    fn zeros(inputs: usize, outputs: usize) -> Self {
        Dense {
            weight: Array2::zeros((outputs, inputs)),
            bias: Some(Array1::zeros(outputs)),
        }
    }
}

mod shapes {
    use super::*;

    #[test]
    fn named_fields() -> Result<()> {
        let mut dense = Dense {
            weight: array![[1.0, 2.0], [3.0, 4.0]],
            bias: Some(array![0.0, 0.0]),
        };
        let (flat, layout) = destructure(&dense)?;
        assert_eq!(flat, [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]);
        assert_eq!(paths(&dense)?, ["weight", "bias"]);
        assert_eq!(layout.leaves()[0].shape(), [2, 2]);
        assert_eq!(layout.leaves()[1].range(), 4..6);

        let new = restructured(&mut dense, &[-4.0, -3.0, -2.0, -1.0, 0.0, 1.0])?;
        assert_eq!(new.weight, array![[-4.0, -3.0], [-2.0, -1.0]]);
        assert_eq!(new.bias, Some(array![0.0, 1.0]));
        assert_eq!(dense.weight, new.weight);
        Ok(())
    }

    #[test]
    fn an_absent_option_contributes_nothing_and_stays_absent() -> Result<()> {
        let mut layers = [Dense::zeros(3, 5), Dense::zeros(5, 4), Dense::zeros(4, 3)];
        assert_eq!(Layout::of(&layers)?.len(), 59);
        layers.iter_mut().for_each(|layer| layer.bias = None);
        assert_eq!(Layout::of(&layers)?.len(), 47);
        assert_eq!(restructured(&mut layers, &[1.0; 47])?[2].bias, None);
        Ok(())
    }

    #[derive(Tree)]
    struct Pair(Vec<f32>, Dense, Vec<f32>);

    #[test]
    fn tuple_fields_are_called_by_their_index() -> Result<()> {
        let mut pair = Pair(
            vec![1.0],
            Dense {
                weight: array![[2.0]],
                bias: None,
            },
            vec![3.0, 4.0],
        );
        assert_eq!(paths(&pair)?, ["0", "1.weight", "2"]);
        let new = restructured(&mut pair, &[5.0, 6.0, 7.0, 8.0])?;
        assert_eq!(
            (new.0, new.1.weight, new.2),
            (vec![5.0], array![[6.0]], vec![7.0, 8.0])
        );
        Ok(())
    }

    #[derive(Tree)]
    struct Unit;

    #[derive(Tree)]
    struct NoFields {}

    #[derive(Tree)]
    struct NoElements();

    #[test]
    fn nothing_inside_gives_an_empty_vector() -> Result<()> {
        let mut nothing = (Unit, (NoFields {}, NoElements()));
        assert_eq!(destructure(&nothing)?.0, [0.0_f32; 0]);
        let (Unit, (NoFields {}, NoElements())) = restructured(&mut nothing, &[])?;
        Ok(())
    }

    #[derive(Tree)]
    struct Bare {
        eps: f32,
        steps: usize,
        name: String,
        marker: PhantomData<fn()>,
        weight: [f32; 2],
        on: bool,
    }

    #[test]
    fn bare_values_are_carried_along() -> Result<()> {
        let mut bare = Bare {
            eps: 0.5,
            steps: 3,
            name: "x".into(),
            marker: PhantomData,
            weight: [1.0, 2.0],
            on: true,
        };
        assert_eq!(destructure(&bare)?.0, [1.0, 2.0]);
        let new = restructured(&mut bare, &[3.0, 4.0])?;
        assert_eq!(
            (
                new.eps, new.steps, &*new.name, new.marker, new.weight, new.on
            ),
            (0.5, 3, "x", PhantomData, [3.0, 4.0], true)
        );
        Ok(())
    }

    #[derive(Tree)]
    struct Deep {
        first: Vec<Dense>,
        second: Box<Dense>,
        third: (Vec<f32>, Option<Vec<f32>>),
    }

    #[test]
    fn order_is_depth_first_and_paths_are_dotted() -> Result<()> {
        let dense = |weight, bias| Dense {
            weight: array![[weight]],
            bias: Some(array![bias]),
        };
        let mut deep = Deep {
            first: vec![dense(1.0, 2.0), dense(3.0, 4.0)],
            second: Box::new(dense(5.0, 6.0)),
            third: (vec![7.0], Some(vec![8.0])),
        };
        assert_eq!(
            destructure(&deep)?.0,
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
        );
        let expected = [
            "first.0.weight",
            "first.0.bias",
            "first.1.weight",
            "first.1.bias",
            "second.weight",
            "second.bias",
            "third.0",
            "third.1",
        ];
        assert_eq!(paths(&deep)?, expected);
        let new = restructured(&mut deep, &[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])?;
        assert_eq!(
            (
                new.first[1].weight[[0, 0]],
                new.second.weight[[0, 0]],
                new.third
            ),
            (6.0, 4.0, (vec![2.0], Some(vec![1.0])))
        );
        Ok(())
    }

    #[test]
    fn a_copy_needs_no_clone() -> Result<()> {
        let mut dense = Dense {
            weight: array![[1.0]],
            bias: None,
        };
        let copy = deep_clone(&dense)?;
        dense.weight[[0, 0]] = 2.0;
        assert_eq!(copy.weight, array![[1.0]]);
        Ok(())
    }
}

mod enums {
    use super::*;

    #[derive(Tree)]
    enum Layer {
        Dense { weight: Vec<f32>, bias: Vec<f32> },
        Scale(Vec<f32>),
        Norm(#[tree(frozen)] Vec<f32>, #[tree(param)] f32),
        Activation(#[tree(skip)] fn(f32) -> f32),
        Flatten,
    }

    fn layers() -> Vec<Layer> {
        vec![
            Layer::Dense {
                weight: vec![1.0, 2.0],
                bias: vec![3.0],
            },
            Layer::Activation(f32::abs),
            Layer::Scale(vec![4.0]),
            Layer::Flatten,
            Layer::Norm(vec![9.0], 5.0),
        ]
    }

    #[test]
    fn the_active_variant_is_visited_and_adds_no_segment() -> Result<()> {
        assert_eq!(destructure(&layers())?.0, [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(paths(&layers())?, ["0.weight", "0.bias", "2.0", "4.1"]);
        assert_eq!(Layout::of(&layers())?.others()[0].path(), "4.0");
        Ok(())
    }

    #[test]
    fn the_variant_is_kept() -> Result<()> {
        let mut layers = layers();
        let new = restructured(&mut layers, &[6.0, 7.0, 8.0, 9.0, 10.0])?;
        for layers in [&layers, &new] {
            assert!(
                matches!(&layers[0], Layer::Dense { weight, bias } if *weight == [6.0, 7.0] && *bias == [8.0])
            );
            assert!(matches!(&layers[1], Layer::Activation(activation) if activation(-1.0) == 1.0));
            assert!(matches!(&layers[2], Layer::Scale(scale) if *scale == [9.0]));
            assert!(matches!(&layers[3], Layer::Flatten));
            assert!(
                matches!(&layers[4], Layer::Norm(mean, scale) if *mean == [9.0] && *scale == 10.0)
            );
        }
        Ok(())
    }

    #[derive(Tree)]
    enum Never {}

    #[test]
    fn an_enum_without_variants_is_a_tree() -> Result<()> {
        let mut never: (Option<Never>, Vec<f32>) = (None, vec![1.0]);
        assert_eq!(restructured(&mut never, &[2.0])?.1, [2.0]);
        Ok(())
    }

    #[derive(Tree)]
    enum Either<L, R = L> {
        Left(L),
        Right(R),
    }

    #[test]
    fn generic() -> Result<()> {
        let mut both: (Either<Vec<f32>>, Either<String, Dense>) = (
            Either::Left(vec![1.0]),
            Either::Right(Dense {
                weight: array![[2.0]],
                bias: None,
            }),
        );
        assert_eq!(paths(&both)?, ["0.0", "1.0.weight"]);
        let new = restructured(&mut both, &[3.0, 4.0])?;
        assert!(
            matches!(new, (Either::Left(left), Either::Right(right)) if left == [3.0] && right.weight == array![[4.0]])
        );
        Ok(())
    }
}

mod frozen {
    use super::*;

    #[derive(Tree)]
    struct BatchNorm {
        beta: Array1<f32>,
        gamma: Array1<f32>,
        #[tree(frozen)]
        mean: Array1<f32>,
        #[tree(frozen)]
        inner: Dense,
    }

    fn norm() -> BatchNorm {
        let inner = Dense {
            weight: array![[4.0]],
            bias: Some(array![5.0]),
        };
        BatchNorm {
            beta: array![0.0, 0.0, 0.0],
            gamma: array![1.0, 1.0, 1.0],
            mean: array![2.0, 3.0, 4.0],
            inner,
        }
    }

    #[test]
    fn is_listed_and_not_trained() -> Result<()> {
        let (flat, layout) = destructure(&norm())?;
        assert_eq!(flat, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let others: Vec<_> = layout.others().iter().map(|leaf| leaf.path()).collect();
        assert_eq!(others, ["mean", "inner.weight", "inner.bias"]);
        Ok(())
    }

    #[test]
    fn is_copied_into_a_new_tree_and_left_alone_in_place() -> Result<()> {
        let mut norm = norm();
        let new = restructured(&mut norm, &[6.0; 6])?;
        for norm in [&norm, &new] {
            assert_eq!(
                (&norm.beta, &norm.mean),
                (&array![6.0, 6.0, 6.0], &array![2.0, 3.0, 4.0])
            );
            assert_eq!(
                (&norm.inner.weight, &norm.inner.bias),
                (&array![[4.0]], &Some(array![5.0]))
            );
        }
        Ok(())
    }

    #[test]
    fn has_no_gradient() -> Result<()> {
        assert_eq!(
            Layout::of(&norm())?.gather_grad(&norm())?[..],
            [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
        );
        Ok(())
    }
}

mod skip {
    use super::*;

    /// Counts how often it was cloned, and is no tree.
    #[derive(Debug, Default, PartialEq)]
    struct Cache(u32);

    impl Clone for Cache {
        fn clone(&self) -> Self {
            Cache(self.0 + 1)
        }
    }

    #[derive(Tree)]
    struct Model {
        #[tree(skip)]
        activation: fn(f32) -> f32,
        weight: Vec<f32>,
        #[tree(skip)]
        cloned: Cache,
        #[tree(skip, default)]
        defaulted: Cache,
    }

    fn model() -> Model {
        Model {
            activation: f32::sqrt,
            weight: vec![1.0, 2.0],
            cloned: Cache(7),
            defaulted: Cache(7),
        }
    }

    #[test]
    fn is_no_part_of_the_tree() -> Result<()> {
        let (flat, layout) = destructure(&model())?;
        assert_eq!((flat, layout.others().len()), (vec![1.0, 2.0], 0));
        Ok(())
    }

    #[test]
    fn is_cloned_or_made_by_default() -> Result<()> {
        let mut model = model();
        let new = restructured(&mut model, &[3.0, 4.0])?;
        assert_eq!(
            ((new.activation)(9.0), new.cloned, new.defaulted),
            (3.0, Cache(8), Cache(0))
        );
        assert_eq!(
            (model.weight, model.cloned, model.defaulted),
            (vec![3.0, 4.0], Cache(7), Cache(7))
        );
        Ok(())
    }

    #[derive(Tree)]
    struct Gradient {
        weight: Vec<f32>,
        activation: Vec<f32>,
        cloned: Dense,
    }

    #[test]
    fn gradients_at_or_below_it_are_ignored() -> Result<()> {
        let gradient = Gradient {
            weight: vec![5.0, 6.0],
            activation: vec![1.0],
            cloned: Dense::zeros(1, 1),
        };
        assert_eq!(
            Layout::of(&model())?.gather_grad(&gradient)?[..],
            [5.0, 6.0]
        );
        Ok(())
    }

    #[derive(Tree)]
    struct Generic<T, U> {
        weight: Vec<f32>,
        #[tree(skip)]
        cloned: Vec<T>,
        #[tree(skip, default)]
        defaulted: Option<U>,
    }

    #[test]
    fn asks_for_clone_or_default_only() -> Result<()> {
        struct NoClone;
        let mut generic = Generic {
            weight: vec![1.0],
            cloned: vec![Cache(0)],
            defaulted: Some(NoClone),
        };
        let new = restructured(&mut generic, &[2.0])?;
        assert_eq!(
            (
                new.cloned,
                new.defaulted.is_none(),
                generic.defaulted.is_some()
            ),
            (vec![Cache(1)], true, true)
        );
        Ok(())
    }
}

mod param {
    use super::*;

    #[derive(Tree)]
    struct Softmax {
        #[tree(param)]
        temperature: f32,
        #[tree(param, frozen)]
        limit: f32,
        eps: f32,
        weight: Vec<f32>,
    }

    #[test]
    fn is_a_leaf_without_dimensions() -> Result<()> {
        let mut softmax = Softmax {
            temperature: 2.0,
            limit: 10.0,
            eps: 1e-5,
            weight: vec![3.0],
        };
        let layout = Layout::of(&softmax)?;
        assert_eq!(paths(&softmax)?, ["temperature", "weight"]);
        assert_eq!(
            (layout.leaves()[0].shape(), layout.leaves()[0].len()),
            (&[][..], 1)
        );
        assert_eq!(
            (layout.others()[0].path(), layout.others().len()),
            ("limit", 1)
        );

        let new = restructured(&mut softmax, &[4.0, 5.0])?;
        for softmax in [&softmax, &new] {
            assert_eq!(
                (
                    softmax.temperature,
                    softmax.limit,
                    softmax.eps,
                    softmax.weight[0]
                ),
                (4.0, 10.0, 1e-5, 5.0)
            );
        }
        Ok(())
    }

    #[derive(Tree)]
    struct Double {
        #[tree(param)]
        temperature: f64,
    }

    #[test]
    fn keeps_its_type() -> Result<()> {
        let double = Double { temperature: 0.1 };
        assert_eq!(Layout::of(&double)?.leaves()[0].dtype(), Dtype::F64);
        assert_eq!(deep_clone(&double)?.temperature, 0.1);
        Ok(())
    }

    #[derive(Tree)]
    #[tree(transparent)]
    struct Scalar(#[tree(param)] f32);

    #[derive(Tree)]
    struct Masked<A> {
        a: A,
        #[tree(param)]
        b: f32,
        #[tree(param, frozen)]
        c: f32,
    }

    #[test]
    fn a_mask_holds_at_every_level() -> Result<()> {
        let mut outer = Masked {
            a: Masked {
                a: Scalar(1.0),
                b: 2.0,
                c: 3.0,
            },
            b: 4.0,
            c: 5.0,
        };
        assert_eq!(destructure(&outer)?.0, [1.0, 2.0, 4.0]);
        assert_eq!(paths(&outer)?, ["a.a", "a.b", "b"]);
        let new = restructured(&mut outer, &[6.0, 7.0, 8.0])?;
        assert_eq!(
            (new.a.a.0, new.a.b, new.a.c, new.b, new.c),
            (6.0, 7.0, 3.0, 8.0, 5.0)
        );
        Ok(())
    }
}

mod rename {
    use super::*;

    #[derive(Tree)]
    struct Attention {
        #[tree(rename = "in_proj.weight")]
        projection: Vec<f32>,
        r#type: Vec<f32>,
        #[tree(rename = "n", frozen)]
        norm: Vec<f32>,
        #[tree(rename = "", param)]
        scale: f32,
        #[tree(rename = "hook", skip)]
        callback: fn(),
    }

    fn attention() -> Attention {
        Attention {
            projection: vec![1.0],
            r#type: vec![2.0],
            norm: vec![3.0],
            scale: 4.0,
            callback: || (),
        }
    }

    #[test]
    fn changes_the_key() -> Result<()> {
        let mut attention = attention();
        // A dot inside a key is escaped, and the empty key has a name.
        assert_eq!(paths(&attention)?, [r"in_proj\.weight", "type", r"\e"]);
        assert_eq!(Layout::of(&attention)?.others()[0].path(), "n");
        let new = restructured(&mut attention, &[5.0, 6.0, 7.0])?;
        assert_eq!(
            (new.projection, new.r#type, new.norm, new.scale),
            (vec![5.0], vec![6.0], vec![3.0], 7.0)
        );
        (new.callback)();
        Ok(())
    }

    #[derive(Tree)]
    struct Gradient {
        hook: Vec<f32>,
        r#type: Vec<f32>,
    }

    #[test]
    fn names_a_skipped_field() -> Result<()> {
        let gradient = Gradient {
            hook: vec![8.0],
            r#type: vec![9.0],
        };
        assert_eq!(
            Layout::of(&attention())?.gather_grad(&gradient)?[..],
            [0.0, 9.0, 0.0]
        );
        Ok(())
    }

    #[derive(Tree)]
    struct Swapped(
        #[tree(rename = "1")] Vec<f32>,
        #[tree(rename = "0")] Vec<f32>,
    );

    #[test]
    fn of_tuple_fields() -> Result<()> {
        assert_eq!(paths(&Swapped(vec![1.0], vec![2.0]))?, ["1", "0"]);
        Ok(())
    }

    #[derive(Tree)]
    enum Layer {
        Dense(#[tree(rename = "weight")] Vec<f32>),
        Embedding { weight: Vec<f32> },
    }

    #[test]
    fn keys_of_different_variants_may_be_equal() -> Result<()> {
        let layers = (
            Layer::Dense(vec![1.0]),
            Layer::Embedding { weight: vec![2.0] },
        );
        assert_eq!(paths(&layers)?, ["0.weight", "1.weight"]);
        Ok(())
    }
}

mod transparent {
    use super::*;

    #[derive(Tree)]
    #[tree(transparent)]
    struct Wrapper<T>(T);

    #[derive(Tree)]
    #[tree(transparent)]
    struct Named {
        #[tree(skip)]
        activation: fn(f32) -> f32,
        inner: Dense,
    }

    #[derive(Tree)]
    #[tree(transparent)]
    struct Fixed {
        #[tree(frozen)]
        inner: Vec<f32>,
    }

    #[derive(Tree)]
    struct Model {
        wrapper: Wrapper<Wrapper<Vec<f32>>>,
        named: Named,
        fixed: Fixed,
    }

    #[test]
    fn adds_no_segment() -> Result<()> {
        let named = Named {
            activation: f32::abs,
            inner: Dense {
                weight: array![[2.0]],
                bias: Some(array![3.0]),
            },
        };
        let mut model = Model {
            wrapper: Wrapper(Wrapper(vec![1.0])),
            named,
            fixed: Fixed { inner: vec![4.0] },
        };
        assert_eq!(paths(&model)?, ["wrapper", "named.weight", "named.bias"]);
        assert_eq!(Layout::of(&model)?.others()[0].path(), "fixed");
        let new = restructured(&mut model, &[5.0, 6.0, 7.0])?;
        assert_eq!(
            (new.wrapper.0.0, new.named.inner.weight, new.fixed.inner),
            (vec![5.0], array![[6.0]], vec![4.0])
        );
        assert_eq!((new.named.activation)(-1.0), 1.0);
        Ok(())
    }

    #[test]
    fn at_the_root_the_path_is_empty() -> Result<()> {
        assert_eq!(paths(&Wrapper(vec![1.0_f32]))?, [""]);
        Ok(())
    }
}

mod generics {
    use super::*;

    #[derive(Tree)]
    struct Everything<'a, 'b: 'a, T: 'a, U = Vec<f32>, const N: usize = 2>
    where
        U: Clone,
    {
        borrowed: &'a T,
        list: [U; N],
        both: (Option<T>, &'b U),
        marker: PhantomData<(T, U)>,
    }

    #[test]
    fn of_every_kind() -> Result<()> {
        let (first, second) = (vec![1.0_f32], vec![5.0_f32]);
        let everything: Everything<'_, '_, Vec<f32>> = Everything {
            borrowed: &first,
            list: [vec![2.0], vec![3.0]],
            both: (Some(vec![4.0]), &second),
            marker: PhantomData,
        };
        assert_eq!(destructure(&everything)?.0, [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(
            paths(&everything)?,
            ["borrowed", "list.0", "list.1", "both.0", "both.1"]
        );
        Ok(())
    }

    #[derive(Tree)]
    struct Stack<T, const N: usize> {
        layers: [T; N],
        scale: [f32; N],
    }

    #[test]
    fn with_a_length() -> Result<()> {
        let mut stack = Stack {
            layers: [vec![1.0_f32], vec![2.0], vec![3.0]],
            scale: [4.0, 5.0, 6.0],
        };
        let new = restructured(&mut stack, &[6.0, 5.0, 4.0, 3.0, 2.0, 1.0])?;
        assert_eq!(
            (new.layers, new.scale),
            ([vec![6.0], vec![5.0], vec![4.0]], [3.0, 2.0, 1.0])
        );
        Ok(())
    }

    trait Backend {
        type Array;
    }

    struct Cpu;

    impl Backend for Cpu {
        type Array = Vec<f32>;
    }

    #[derive(Tree)]
    struct OnBackend<B: Backend> {
        weight: B::Array,
        bias: Option<<B as Backend>::Array>,
        marker: PhantomData<B>,
    }

    #[test]
    fn by_an_associated_type_although_the_parameter_is_no_tree() -> Result<()> {
        let mut model = OnBackend::<Cpu> {
            weight: vec![1.0],
            bias: Some(vec![2.0]),
            marker: PhantomData,
        };
        let new = restructured(&mut model, &[3.0, 4.0])?;
        assert_eq!(
            (new.weight, new.bias, new.marker),
            (vec![3.0], Some(vec![4.0]), PhantomData)
        );
        Ok(())
    }

    #[derive(Tree)]
    #[tree(bound = "B: Backend, B::Array: Tree")]
    struct Outer<B: Backend> {
        inner: OnBackend<B>,
    }

    #[derive(Tree)]
    #[tree(bound = "")]
    struct Unbounded<T> {
        weight: Vec<f32>,
        marker: PhantomData<T>,
    }

    #[test]
    fn with_bounds_of_ones_own() -> Result<()> {
        let inner = OnBackend::<Cpu> {
            weight: vec![1.0],
            bias: None,
            marker: PhantomData,
        };
        let model = (
            Outer { inner },
            Unbounded {
                weight: vec![2.0],
                marker: PhantomData::<Cpu>,
            },
        );
        assert_eq!(paths(&model)?, ["0.inner.weight", "1.weight"]);
        assert_eq!(model.1.marker, PhantomData);
        Ok(())
    }

    macro_rules! model {
        ($name:ident { $($field:ident: $type:ty),* }) => {
            #[derive(Tree)]
            struct $name<T> { $($field: $type,)* hygienic: Option<T> }
        };
    }

    model!(FromMacro { weight: Vec<f32>, bias: [f32; 1] });

    #[test]
    fn from_a_macro() -> Result<()> {
        let mut model = FromMacro {
            weight: vec![1.0],
            bias: [2.0],
            hygienic: Some(vec![3.0_f32]),
        };
        let new = restructured(&mut model, &[4.0, 5.0, 6.0])?;
        assert_eq!(
            (new.weight, new.bias, new.hygienic),
            (vec![4.0], [5.0], Some(vec![6.0]))
        );
        Ok(())
    }
}

mod recursion {
    use super::*;

    #[derive(Tree)]
    struct Node {
        value: Vec<f32>,
        next: Option<Box<Node>>,
    }

    #[test]
    fn a_list() -> Result<()> {
        let last = Node {
            value: vec![3.0],
            next: None,
        };
        let mut list = Node {
            value: vec![1.0],
            next: Some(Box::new(Node {
                value: vec![2.0],
                next: Some(Box::new(last)),
            })),
        };
        assert_eq!(paths(&list)?, ["value", "next.value", "next.next.value"]);
        let new = restructured(&mut list, &[4.0, 5.0, 6.0])?;
        assert_eq!(
            new.next.and_then(|node| node.next).map(|node| node.value),
            Some(vec![6.0])
        );
        Ok(())
    }

    #[derive(Tree)]
    struct Rose<T, S> {
        value: T,
        children: Vec<Rose<T, S>>,
        shortcut: Option<Box<Self>>,
        state: Option<S>,
        #[tree(skip)]
        labels: Vec<S>,
    }

    fn rose(value: f32, children: Vec<Rose<Vec<f32>, String>>) -> Rose<Vec<f32>, String> {
        Rose {
            value: vec![value],
            children,
            shortcut: None,
            state: None,
            labels: vec!["a".into()],
        }
    }

    #[test]
    fn a_generic_tree() -> Result<()> {
        let mut tree = rose(
            1.0,
            vec![rose(2.0, vec![rose(3.0, vec![])]), rose(4.0, vec![])],
        );
        tree.children[1].shortcut = Some(Box::new(rose(5.0, vec![])));
        let expected = [
            "value",
            "children.0.value",
            "children.0.children.0.value",
            "children.1.value",
            "children.1.shortcut.value",
        ];
        assert_eq!(paths(&tree)?, expected);
        let new = restructured(&mut tree, &[5.0, 4.0, 3.0, 2.0, 1.0])?;
        assert_eq!(
            (&new.children[0].children[0].value, &new.children[1].value),
            (&vec![3.0], &vec![2.0])
        );
        assert_eq!((new.labels, new.state), (vec!["a".to_owned()], None));
        Ok(())
    }

    #[derive(Tree)]
    struct Block {
        weight: Vec<f32>,
        branch: Option<Branch>,
    }

    #[derive(Tree)]
    struct Branch {
        blocks: Vec<Block>,
    }

    #[test]
    fn two_types_that_hold_each_other() -> Result<()> {
        let inner = Block {
            weight: vec![2.0],
            branch: None,
        };
        let mut outer = Block {
            weight: vec![1.0],
            branch: Some(Branch {
                blocks: vec![inner],
            }),
        };
        assert_eq!(paths(&outer)?, ["weight", "branch.blocks.0.weight"]);
        assert_eq!(restructured(&mut outer, &[3.0, 4.0])?.weight, [3.0]);
        Ok(())
    }
}

mod objects {
    use super::*;

    trait Layer: Tree {
        fn apply(&self, x: f32) -> f32;
    }

    #[derive(Tree)]
    #[tree(object = "dyn Layer", object = "dyn Layer + Send")]
    struct Scale {
        factor: Vec<f32>,
    }

    impl Layer for Scale {
        fn apply(&self, x: f32) -> f32 {
            self.factor[0] * x
        }
    }

    #[derive(Tree)]
    #[tree(object = "dyn Layer", bound = "T: Layer")]
    struct Twice<T>(T);

    impl<T: Layer> Layer for Twice<T> {
        fn apply(&self, x: f32) -> f32 {
            self.0.apply(self.0.apply(x))
        }
    }

    #[derive(Tree)]
    struct Unnamed {
        shift: Vec<f32>,
    }

    impl Layer for Unnamed {
        fn apply(&self, x: f32) -> f32 {
            self.shift[0] + x
        }
    }

    #[test]
    fn are_rebuilt_as_what_they_are() -> Result<()> {
        let mut layers: Vec<Box<dyn Layer>> = vec![
            Box::new(Scale { factor: vec![2.0] }),
            Box::new(Twice(Scale { factor: vec![3.0] })),
        ];
        assert_eq!(paths(&layers)?, ["0.factor", "1.0.factor"]);
        let new = restructured(&mut layers, &[4.0, 5.0])?;
        assert_eq!(
            new.iter().map(|layer| layer.apply(1.0)).collect::<Vec<_>>(),
            [4.0, 25.0]
        );
        Ok(())
    }

    #[test]
    fn of_several_traits() -> Result<()> {
        let mut layers: Vec<Box<dyn Layer + Send>> = vec![Box::new(Scale { factor: vec![2.0] })];
        assert_eq!(restructured(&mut layers, &[4.0])?[0].apply(1.0), 4.0);
        Ok(())
    }

    #[test]
    fn that_no_attribute_names_are_written_in_place_only() -> Result<()> {
        let mut layers: Vec<Box<dyn Layer>> = vec![Box::new(Unnamed { shift: vec![2.0] })];
        let layout = Layout::of(&layers)?;
        layout.restructure_into(&mut layers, &[3.0])?;
        assert_eq!(layers[0].apply(1.0), 4.0);
        assert!(
            layout
                .restructure(&layers, &[5.0])
                .err()
                .is_some_and(|error| error.is_object())
        );
        Ok(())
    }
}

/// Nothing that the user calls as the derive calls its own is in the way, and nothing is said about
/// what the user has allowed.
mod hygiene {
    use super::*;

    mod shadowed {
        #![no_implicit_prelude]
        #![allow(dead_code)]

        mod core {}
        mod std {}
        mod flatleaf {}
        pub(super) struct Box;
        pub(super) struct Clone;
        pub(super) struct Default;
        pub(super) struct Err;
        pub(super) struct Key;
        pub(super) struct Ok;
        pub(super) struct Option;
        pub(super) struct Result;
        pub(super) struct Some;
        pub(super) struct Vec;
        pub(super) struct Visitor;
        pub(super) trait Tree {}

        pub(super) trait Extension {
            fn child(&mut self) {}
            fn clone(&self) {}
            fn frozen(&mut self) {}
            fn offer(&mut self) {}
            fn rebuild(&self) {}
            fn skipped(&mut self) {}
            fn visit(&self) {}
        }

        impl<T: ?::core::marker::Sized> Extension for T {}

        pub(super) trait Layer: ::flatleaf::Tree {}

        #[derive(::flatleaf::Tree)]
        #[tree(object = "dyn Layer")]
        pub(super) struct Model {
            pub(super) weight: [f32; 1],
            #[tree(frozen)]
            pub(super) mean: [f32; 1],
            #[tree(param)]
            pub(super) scale: f32,
            #[tree(skip)]
            pub(super) steps: usize,
            #[tree(skip, default)]
            pub(super) cache: ::core::option::Option<u8>,
        }

        impl Layer for Model {}

        #[derive(::flatleaf::Tree)]
        pub(super) enum Either {
            Ok([f32; 1]),
            Err { r#fn: [f32; 1] },
            None,
        }
    }

    #[test]
    fn shadowed_names() -> Result<()> {
        let model = shadowed::Model {
            weight: [1.0],
            mean: [2.0],
            scale: 3.0,
            steps: 4,
            cache: Some(5),
        };
        let mut both = (
            model,
            [
                shadowed::Either::Ok([6.0]),
                shadowed::Either::Err { r#fn: [7.0] },
                shadowed::Either::None,
            ],
        );
        assert_eq!(paths(&both)?, ["0.weight", "0.scale", "1.0.0", "1.1.fn"]);
        let (model, _) = restructured(&mut both, &[8.0, 9.0, 10.0, 11.0])?;
        assert_eq!(
            (
                model.weight,
                model.mean,
                model.scale,
                model.steps,
                model.cache
            ),
            ([8.0], [2.0], 9.0, 4, None)
        );
        Ok(())
    }

    #[allow(non_upper_case_globals, dead_code)]
    const visitor: u8 = 0;

    #[derive(Tree)]
    struct Locals<'tree> {
        visitor: [f32; 1],
        builder: [f32; 1],
        slot: [f32; 1],
        key: [f32; 1],
        this: [f32; 1],
        tree: [f32; 1],
        r#match: [f32; 1],
        __visitor: [f32; 1],
        __builder: [f32; 1],
        __0: &'tree bool,
    }

    #[test]
    fn fields_called_like_locals() -> Result<()> {
        let one = [1.0];
        let mut locals = Locals {
            visitor: one,
            builder: one,
            slot: one,
            key: one,
            this: one,
            tree: one,
            r#match: one,
            __visitor: one,
            __builder: one,
            __0: &true,
        };
        assert_eq!(
            paths(&locals)?,
            [
                "visitor",
                "builder",
                "slot",
                "key",
                "this",
                "tree",
                "match",
                "__visitor",
                "__builder"
            ]
        );
        let new = restructured(&mut locals, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])?;
        assert_eq!(
            (new.visitor, new.r#match, new.__builder, new.__0),
            ([1.0], [7.0], [9.0], &true)
        );
        Ok(())
    }

    mod elsewhere {
        pub(super) mod deeply {
            pub(crate) use ::flatleaf as leaf;
        }
    }

    use elsewhere::deeply;

    #[derive(Tree)]
    #[tree(crate = "deeply::leaf")]
    struct Relocated<T> {
        weight: T,
        #[tree(param)]
        scale: f32,
        #[tree(skip)]
        name: &'static str,
    }

    #[test]
    fn flatleaf_at_another_path() -> Result<()> {
        let mut relocated = Relocated {
            weight: vec![1.0_f32],
            scale: 2.0,
            name: "x",
        };
        let new = restructured(&mut relocated, &[3.0, 4.0])?;
        assert_eq!((new.weight, new.scale, new.name), (vec![3.0], 4.0, "x"));
        Ok(())
    }

    mod warnings {
        #![deny(
            warnings,
            unused_qualifications,
            missing_docs,
            unreachable_pub,
            single_use_lifetimes,
            elided_lifetimes_in_paths
        )]
        #![deny(clippy::all, clippy::pedantic, clippy::nursery)]
        #![allow(dead_code)]

        #[deprecated]
        #[derive(flatleaf::Tree)]
        pub(super) struct Old(f32);

        #[allow(deprecated, unused_qualifications, unused_parens, clippy::use_self)]
        #[derive(flatleaf::Tree)]
        pub(super) struct Model<'a, T> {
            #[deprecated]
            pub(super) old: Option<Old>,
            pub(super) list: std::vec::Vec<(T)>,
            pub(super) next: Vec<Model<'a, T>>,
            #[tree(skip)]
            pub(super) name: &'a str,
        }

        #[derive(flatleaf::Tree)]
        pub(super) enum Kind {
            #[deprecated]
            First(f32),
            Second {
                _unused: f32,
            },
        }
    }
}

mod params {
    use super::*;

    type Real = f64;

    #[derive(Tree, Debug, PartialEq)]
    #[tree(params)]
    struct Spring<T> {
        k: f32,
        rest: Real,
        generic: T,
        #[tree(frozen)]
        mass: f32,
        #[tree(skip)]
        damping: f32,
        weight: Vec<f32>,
        steps: u32,
        maybe: Option<f32>,
    }

    fn spring() -> Spring<f32> {
        Spring {
            k: 1.0,
            rest: 2.0,
            generic: 3.0,
            mass: 4.0,
            damping: 5.0,
            weight: vec![6.0],
            steps: 7,
            maybe: Some(8.0),
        }
    }

    #[test]
    fn of_a_type_are_all_its_bare_floats() {
        let mut spring = spring();
        let layout = Layout::of(&spring).unwrap();
        let paths: Vec<_> = layout.leaves().iter().map(|leaf| leaf.path()).collect();
        assert_eq!(paths, ["k", "rest", "generic", "weight"]);
        assert_eq!(layout.others()[0].path(), "mass");
        // A float in an `Option` is not bare, and is seen.
        let settings: Vec<_> = layout.settings().map(|setting| setting.0).collect();
        assert_eq!(settings, ["maybe"]);

        let flat = layout.gather_as::<f64>(&spring).unwrap();
        assert_eq!(flat, [1.0, 2.0, 3.0, 6.0]);
        let new = layout
            .restructure_as(&spring, &[9.0, 10.0, 11.0, 12.0])
            .unwrap();
        assert_eq!(
            (new.k, new.rest, new.generic, new.mass),
            (9.0, 10.0, 11.0, 4.0)
        );
        layout
            .restructure_into_as(&mut spring, &[9.0, 10.0, 11.0, 12.0])
            .unwrap();
        assert_eq!(spring, new);
    }

    #[test]
    fn without_the_word_they_are_settings() {
        #[derive(Tree)]
        struct Spring {
            weight: Vec<f32>,
            k: f32,
            steps: u32,
            #[tree(skip)]
            damping: f32,
        }

        let spring = Spring {
            weight: vec![1.0],
            k: 2.0,
            steps: 3,
            damping: 4.0,
        };
        let layout = Layout::of(&spring).unwrap();
        let settings: Vec<_> = layout.settings().collect();
        assert_eq!(settings, [("k".to_owned(), flatleaf::Dtype::F32)]);
        // No array, and so no leaf of any kind.
        assert_eq!((layout.leaves().len(), layout.others().len()), (1, 0));
        let table = layout.to_string();
        let row = table.lines().find(|line| line.starts_with('k')).unwrap();
        let cells: Vec<_> = row.split_whitespace().collect();
        assert_eq!(cells, ["k", "[]", "f32", "setting", "1"]);
        assert_eq!((spring.steps, spring.damping), (3, 4.0));
    }

    #[test]
    fn a_type_parameter_may_be_one() {
        #[derive(Tree)]
        struct Scaled<T> {
            #[tree(param)]
            k: T,
        }

        fn flat<T: flatleaf::FlatElement>(k: T) -> Vec<f64> {
            let (flat, _) = flatleaf::destructure_as::<f64>(&Scaled { k }).unwrap();
            flat
        }

        assert_eq!(flat(2.0_f32), [2.0]);
        assert_eq!(flat(3.0_f64), [3.0]);
    }

    #[test]
    fn a_leaf_where_the_model_has_a_bare_number_says_what_makes_it_one() {
        #[derive(Tree)]
        struct Norm {
            scale: Vec<f32>,
            num_batches_tracked: i64,
            eps: f32,
        }

        let norm = Norm {
            scale: vec![1.0],
            num_batches_tracked: 2,
            eps: 1e-5,
        };
        let layout = Layout::of(&norm).unwrap();
        let entries = [
            ("scale", flatleaf::StateArray::from(vec![1.0_f32])),
            ("num_batches_tracked", ndarray::arr0(2_i64).into()),
            ("eps", ndarray::arr0(1e-5_f32).into()),
        ];
        let error = layout
            .gather(&flatleaf::StateDict::from_iter(entries).unwrap())
            .unwrap_err();
        assert!(error.is_unknown());
        let text = error.to_string();
        assert!(
            text.contains("`num_batches_tracked`") && text.contains("`Array0<i64>`"),
            "{text}"
        );
        assert!(
            text.contains("`eps`") && text.contains("`#[tree(param)]`"),
            "{text}"
        );
        assert_eq!((norm.num_batches_tracked, norm.eps), (2, 1e-5));
    }

    #[test]
    fn a_forgotten_object_names_the_type_that_lacks_it() {
        trait Layer: Tree {}

        #[derive(Tree)]
        struct Scale(Vec<f32>);
        impl Layer for Scale {}

        let layers: Vec<Box<dyn Layer>> = vec![Box::new(Scale(vec![1.0]))];
        let error = flatleaf::deep_clone(&layers).err().unwrap();
        assert!(error.is_object());
        assert_eq!(error.path(), Some("0"));
        let text = error.to_string();
        assert!(
            text.contains("::Scale`") && text.contains("::Layer"),
            "{text}"
        );
    }

    #[test]
    fn a_companion_may_be_of_a_type_without_a_size() {
        fn distance<T: Tree + ?Sized>(a: &T, b: &T) -> Option<f64> {
            let layout = Layout::of(a).unwrap();
            let square = |_: flatleaf::LeafAt<'_, 1>, x: &[f32], [y]: [&[f32]; 1]| {
                x.iter()
                    .zip(y)
                    .map(|(x, y)| f64::from(x - y).powi(2))
                    .sum::<f64>()
            };
            let values = [flatleaf::Companion::Values(&b)];
            layout.map_reduce(a, values, square, |a, b| a + b).unwrap()
        }

        let (a, b): (&[f32], &[f32]) = (&[1.0, 2.0], &[1.0, 4.0]);
        assert_eq!(distance(a, b), Some(4.0));
    }
}
