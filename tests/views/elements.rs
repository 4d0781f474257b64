//! Views of arrays whose elements are several numbers: an element is seen as what it is.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use flatleaf::{FlatGrad, Layout, Tree, destructure};
use ndarray::{ArcArray2, Array1, Array2, arr1, arr2};

#[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[tree(element)]
#[repr(C)]
struct Ball {
    center: [f32; 2],
    radius: f32,
}

fn ball(first: f32) -> Ball {
    Ball {
        center: [first, first + 1.0],
        radius: first + 2.0,
    }
}

#[derive(Tree)]
#[tree(view)]
struct Scene {
    points: Vec<[f32; 2]>,
    balls: Array1<Ball>,
    light: Ball,
    corners: [[f32; 2]; 2],
    shared: Arc<Array2<[f32; 1]>>,
    triangles: Vec<[u32; 3]>,
    #[tree(frozen)]
    start: Vec<Ball>,
    nothing: Vec<[f32; 0]>,
    none: Option<Vec<Ball>>,
    again: Arc<Array2<[f32; 1]>>,
}

/// The flat vector is 1 to 16.
fn scene() -> Scene {
    let shared = Arc::new(arr2(&[[[15.0], [16.0]]]));
    Scene {
        points: vec![[1.0, 2.0], [3.0, 4.0]],
        balls: arr1(&[ball(5.0)]),
        light: ball(8.0),
        corners: [[11.0, 12.0], [13.0, 14.0]],
        shared: shared.clone(),
        triangles: vec![[0, 1, 2]],
        start: vec![ball(0.5)],
        nothing: vec![[]; 2],
        none: None,
        again: shared,
    }
}

#[test]
fn a_view_that_reads_shows_elements() {
    let scene = scene();
    let (mut flat, layout) = destructure(&scene).unwrap();
    flat.iter_mut().for_each(|x| *x += 100.0);
    let view = layout.view_tree(&scene, &flat).unwrap();
    assert_eq!(view.points, arr1(&[[101.0, 102.0], [103.0, 104.0]]));
    assert_eq!(view.balls[0], ball(105.0));
    assert_eq!(*view.light, ball(108.0));
    assert_eq!(view.corners[1], [113.0, 114.0]);
    assert_eq!(
        (view.shared[[0, 1]], view.again[[0, 0]]),
        ([116.0], [115.0])
    );
    assert_eq!((view.triangles[0], view.start[0]), ([0, 1, 2], ball(0.5)));
    assert_eq!((view.nothing.len(), view.none.is_none()), (2, true));
    let own = flatleaf::view(&scene).unwrap();
    assert_eq!((own.points[1], *own.light), ([3.0, 4.0], ball(8.0)));
}

#[test]
fn a_view_that_writes_writes_elements_to_the_vector() {
    let scene = scene();
    let (mut flat, layout) = destructure(&scene).unwrap();
    let mut view = layout.view_tree_mut(&scene, &mut flat).unwrap();
    view.points[1][0] = -3.0;
    view.balls[0].radius = -7.0;
    view.light[()].center = [-8.0, -9.0];
    view.corners[0] = [-11.0, -12.0];
    view.again.lend(|mut array| array[[0, 1]] = [-16.0]);
    assert!(view.triangles.is_frozen() && view.start.is_frozen() && !view.nothing.is_frozen());
    assert_eq!(
        flat,
        [
            1.0, 2.0, -3.0, 4.0, 5.0, 6.0, -7.0, -8.0, -9.0, 10.0, -11.0, -12.0, 13.0, 14.0, 15.0,
            -16.0
        ]
    );
}

#[test]
fn a_view_of_a_gradient_adds_to_elements_and_ignores_frozen_ones() {
    let scene = scene();
    let layout = Layout::of(&scene).unwrap();
    let mut grad: FlatGrad = FlatGrad::zeros(&layout);
    let mut view = layout.view_grad(&scene, &mut grad).unwrap();
    view.balls[0].center[1] += 0.5;
    view.start[0].radius = 9.0;
    view.shared.lend(|mut array| array[[0, 0]][0] += 1.0);
    view.again.lend(|mut array| array[[0, 0]][0] += 2.0);
    assert_eq!(
        view.start[0],
        Ball {
            radius: 9.0,
            ..Ball::zeroed()
        }
    );
    assert_eq!(
        (grad[5], grad[14], grad.iter().sum::<f32>()),
        (0.5, 3.0, 3.5)
    );
    assert!(grad.is_present(0));
}

#[derive(Tree)]
#[tree(view)]
struct Turned {
    rows: ArcArray2<[f32; 2]>,
    columns: ArcArray2<[f32; 2]>,
}

#[test]
fn a_transposed_tie_is_seen_transposed_with_its_elements_whole() {
    let rows = arr2(&[[[1.0_f32, 2.0], [3.0, 4.0], [5.0, 6.0]]]).into_shared();
    let columns = rows.clone().reversed_axes();
    let model = Turned { rows, columns };
    let (mut flat, layout) = destructure(&model).unwrap();
    flat[4] = 50.0;
    let view = layout.view_tree(&model, &flat).unwrap();
    assert_eq!(view.columns.shape(), [3, 1]);
    assert_eq!(
        (view.rows[[0, 2]], view.columns[[2, 0]]),
        ([50.0, 6.0], [50.0, 6.0])
    );
    let view = layout.view_tree_mut(&model, &mut flat).unwrap();
    view.columns
        .lend(|mut columns| columns[[1, 0]] = [30.0, 40.0]);
    assert_eq!(flat, [1.0, 2.0, 30.0, 40.0, 50.0, 6.0]);
}

#[cfg(feature = "num-complex")]
#[test]
fn complex_numbers_are_seen_as_such() {
    use num_complex::Complex32;

    #[derive(Tree)]
    #[tree(view, params)]
    struct Filter {
        taps: Array1<Complex32>,
        pole: Complex32,
    }
    let number = Complex32::new;
    let filter = Filter {
        taps: arr1(&[number(1.0, 2.0)]),
        pole: number(3.0, 4.0),
    };
    let (mut flat, layout) = destructure(&filter).unwrap();
    assert_eq!(flat, [1.0, 2.0, 3.0, 4.0]);
    let mut view = layout.view_tree_mut(&filter, &mut flat).unwrap();
    view.taps *= number(0.0, 1.0);
    view.pole[()].im = 5.0;
    let view = layout.view_tree(&filter, &flat).unwrap();
    assert_eq!(
        (view.taps[0], *view.pole),
        (number(-2.0, 1.0), number(3.0, 5.0))
    );
}
