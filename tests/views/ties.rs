//! Ties in views that write.

use std::sync::Arc;

use flatleaf::{FlatGrad, Layout, Tree, destructure};
use ndarray::{ArcArray2, Array1, Array2, arr1, arr2};

use crate::models::net;

#[test]
fn both_places_of_a_tie_add_to_one_gradient() {
    let net = net();
    let layout = Layout::of(&net).unwrap();
    let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    let seen = layout.view_grad(&net, &mut grad).unwrap();
    seen.head
        .lend(|mut head| head += &arr2(&[[0.0, 0.0], [0.0, 2.0]]));
    seen.embed.lend(|mut embed| embed.row_mut(0)[0] += 1.0);
    let sum = seen.head.lend(|head| head.sum());
    assert_eq!(sum, 3.0);
    assert_eq!(grad[..4], [1.0, 0.0, 0.0, 2.0]);
}

#[derive(Tree)]
#[tree(view)]
struct Transposed {
    embed: ArcArray2<f32>,
    head: ArcArray2<f32>,
    alone: ArcArray2<f32>,
}

#[test]
fn a_transposed_tie_is_seen_transposed() {
    let embed = arr2(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).into_shared();
    let head = embed.clone().reversed_axes();
    let alone = arr2(&[[7.0]]).into_shared();
    let net = Transposed { embed, head, alone };
    let (mut flat, layout) = destructure(&net).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    flat[1] = 20.0;
    let seen = layout.view_tree(&net, &flat).unwrap();
    assert_eq!(seen.head, arr2(&[[1.0, 4.0], [20.0, 5.0], [3.0, 6.0]]));
    assert_eq!(seen.head.t(), seen.embed);

    let seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    seen.head.lend(|mut head| head[[2, 1]] = 60.0);
    seen.embed.lend(|mut embed| {
        assert_eq!(embed[[1, 2]], 60.0);
        embed[[0, 0]] = 10.0;
    });
    seen.alone.lend(|mut alone| alone += 1.0);
    assert_eq!(flat, [10.0, 20.0, 3.0, 4.0, 5.0, 60.0, 8.0]);
}

#[derive(Tree)]
#[tree(view)]
struct Block {
    weight: Arc<Array2<f32>>,
    bias: Array1<f32>,
}

#[derive(Tree)]
#[tree(view)]
struct Nested {
    first: Arc<Block>,
    second: Arc<Block>,
    weight: Arc<Array2<f32>>,
}

fn nested() -> Nested {
    let weight = Arc::new(arr2(&[[1.0]]));
    let block = Arc::new(Block {
        weight: weight.clone(),
        bias: arr1(&[2.0]),
    });
    Nested {
        first: block.clone(),
        second: block,
        weight,
    }
}

#[test]
fn a_tie_within_a_tie_is_one_array_too() {
    let net = nested();
    let (mut flat, layout) = destructure(&net).unwrap();
    assert_eq!(flat, [1.0, 2.0]);
    let seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    seen.second.lend(|mut block| {
        block.bias += 1.0;
        block.weight.lend(|mut weight| weight += 10.0);
    });
    seen.weight.lend(|mut weight| weight += 100.0);
    seen.first
        .lend(|block| block.weight.lend(|mut weight| weight *= 2.0));
    assert_eq!(flat, [222.0, 3.0]);
}

#[test]
#[should_panic = "`first.weight`: expected a tie that is lent to one place at a time"]
fn what_is_in_a_node_that_is_lent_is_lent_with_it() {
    let net = nested();
    let (mut flat, layout) = destructure(&net).unwrap();
    let seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    seen.first.lend(|_| seen.weight.lend(|_| ()));
}

#[test]
fn after_a_panic_the_tie_can_be_lent_again() {
    let net = net();
    let (mut flat, layout) = destructure(&net).unwrap();
    let seen = layout.view_tree_mut(&net, &mut flat).unwrap();
    let nested = std::panic::AssertUnwindSafe(|| seen.embed.lend(|_| seen.head.lend(|_| ())));
    assert!(std::panic::catch_unwind(nested).is_err());
    seen.head.lend(|mut head| head.fill(9.0));
    assert_eq!(flat[..4], [9.0; 4]);
}

#[test]
fn threads_take_turns_at_a_tie() {
    let net = net();
    let layout = Layout::of(&net).unwrap();
    let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    let seen = layout.view_grad(&net, &mut grad).unwrap();
    std::thread::scope(|scope| {
        for place in [&seen.embed, &seen.head] {
            scope.spawn(|| (0..1000).for_each(|_| place.lend(|mut array| array += 1.0)));
        }
    });
    assert_eq!(grad[..4], [2000.0; 4]);
}
