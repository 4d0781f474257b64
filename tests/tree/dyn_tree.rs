//! Trees made at run time: what of them can be written as JSON and read back, and their bounds.

use std::sync::Arc;

use flatleaf::{DynTree, Layout};
use ndarray::{ArrayD, IxDyn};

fn read(text: &str) -> Result<DynTree, serde_json::Error> {
    serde_json::from_str(text)
}

fn nested(levels: usize, mut tree: DynTree) -> DynTree {
    for _ in 0..levels {
        tree = DynTree::map([("a", tree)]);
    }
    tree
}

fn of_axes(axes: usize) -> DynTree {
    ArrayD::<f32>::zeros(IxDyn(&vec![1; axes])).into()
}

#[test]
fn an_array_of_very_many_axes_is_not_read() {
    let shape = vec!["1"; 9_000].join(",");
    let text = format!(r#"{{"$array":{{"dtype":"f32","shape":[{shape}],"data":"00000000"}}}}"#);
    let error = read(&text).unwrap_err().to_string();
    assert!(error.contains("at most 64 axes"), "{error}");

    let lists = |axes: usize| "[".repeat(axes) + "1" + &"]".repeat(axes);
    assert_eq!(
        read(&lists(64)).unwrap().as_array::<f32>().unwrap().ndim(),
        64
    );
    let error = read(&lists(65)).unwrap_err().to_string();
    assert!(error.contains("at most 64 axes"), "{error}");
}

#[test]
fn a_copy_of_a_tree_has_no_more_axes_than_one_that_is_read() {
    let model = vec![ArrayD::<f32>::zeros(IxDyn(&[1; 65]))];
    let error = DynTree::of(&model).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("0"));
    assert!(DynTree::of(&of_axes(64)).is_ok());
}

#[test]
fn what_is_written_can_be_read_back() {
    // Lists within lists until nothing deeper is read; then the array's map; then an error.
    for (levels, axes) in [
        (0, 64),
        (63, 64),
        (64, 64),
        (100, 27),
        (100, 28),
        (124, 4),
        (126, 1),
    ] {
        let tree = nested(levels, of_axes(axes));
        let text = serde_json::to_string(&tree).unwrap();
        assert!(read(&text).unwrap() == tree, "{levels} levels, {axes} axes");
    }
    for tree in [
        nested(125, of_axes(4)),
        nested(128, of_axes(0)),
        of_axes(65),
    ] {
        assert!(serde_json::to_string(&tree).is_err());
    }
    let deepest = nested(127, of_axes(0));
    let text = serde_json::to_string(&deepest).unwrap();
    assert!(read(&text).unwrap() == deepest);
}

#[test]
fn a_number_beyond_f32_is_an_error() {
    for text in ["1e39", "[1, -1e39]", r#"{"a": 3.5e38}"#] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains("beyond the range of f32"), "{error}");
    }
    let largest = read("3.4028235e38").unwrap();
    assert_eq!(largest, DynTree::from(f32::MAX));
    assert_eq!(read("1e-60").unwrap(), DynTree::from(0.0_f32));
}

/// Chains of pointers of three kinds, which a walk of their own passes through whatever their length,
/// and the layouts and copies of a long one and of a short one.
macro_rules! chains {
    ($($module:ident: $($pointer:ident)::+, $into_inner:expr;)*) => {$(
        mod $module {
            use $($pointer)::+ as Pointer;

            use flatleaf::{Builder, Result, Tree, Visitor, VisitorMut, deep_clone, destructure};

            struct Chain {
                weight: Vec<f32>,
                next: Option<Pointer<Chain>>,
            }

            impl Chain {
                fn of(len: usize) -> Chain {
                    let mut chain = Chain { weight: vec![1.0], next: None };
                    for _ in 1..len {
                        chain = Chain { weight: Vec::new(), next: Some(Pointer::new(chain)) };
                    }
                    chain
                }

                fn last(&self) -> &Chain {
                    let mut last = self;
                    while let Some(next) = &last.next {
                        last = next;
                    }
                    last
                }
            }

            /// One after the other: dropped as it was built it would overflow the stack.
            impl Drop for Chain {
                fn drop(&mut self) {
                    let mut next = self.next.take().and_then($into_inner);
                    while let Some(mut chain) = next {
                        next = chain.next.take().and_then($into_inner);
                    }
                }
            }

            impl Tree for Chain {
                fn visit<'a>(&'a self, visitor: &mut dyn Visitor<'a>) -> Result<()> {
                    self.last().weight.visit(visitor)
                }

                fn visit_mut<'a>(&'a mut self, _: &mut dyn VisitorMut<'a>) -> Result<()> {
                    Ok(())
                }

                fn rebuild(&self, builder: &mut Builder<'_>) -> Result<Self> {
                    Ok(match &self.next {
                        None => Chain { weight: self.weight.rebuild(builder)?, next: None },
                        Some(next) => {
                            let next = next.rebuild(builder)?;
                            Chain { weight: Vec::new(), next: Some(next) }
                        }
                    })
                }

                flatleaf::rebuild_object!();
            }

            #[test]
            fn one_that_is_planned_is_too_deep_to_be_rebuilt_and_overflows_nothing() {
                let chain = Chain::of(100_000);
                let (flat, layout) = destructure(&chain).unwrap();
                assert_eq!(flat, [1.0]);
                let error = layout.restructure(&chain, &[2.0]).err().unwrap();
                assert!(error.is_too_deep(), "{error}");
                assert_eq!(error.path(), Some(""));
                assert!(deep_clone(&chain).err().unwrap().is_too_deep());

                let short = Chain::of(100);
                let new = layout.restructure(&short, &[2.0]).unwrap();
                assert_eq!((&*new.last().weight, &*short.last().weight), (&[2.0][..], &[1.0][..]));
            }
        }
    )*};
}

chains! {
    chain_of_box: std::boxed::Box, |chain: Pointer<Chain>| Some(*chain);
    chain_of_rc: std::rc::Rc, Pointer::into_inner;
    chain_of_arc: std::sync::Arc, Pointer::into_inner;
}

#[test]
fn two_leaves_need_no_large_stack() {
    let small = std::thread::Builder::new().stack_size(128 << 10);
    let walk = || {
        let model = (Box::new(vec![1.0_f32]), Arc::new(vec![2.0_f32]));
        let layout = Layout::of(&model).unwrap();
        let flat = layout.gather(&model).unwrap();
        let new = layout.restructure(&model, &[3.0, 4.0]).unwrap();
        (flat, layout.gather(&new).unwrap())
    };
    let (old, new) = small.spawn(walk).unwrap().join().unwrap();
    assert_eq!((old, new), (vec![1.0, 2.0], vec![3.0, 4.0]));
}
