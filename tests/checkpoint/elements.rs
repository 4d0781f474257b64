//! A scene of splats, a filter and a mesh: trained, stored, taken up again, as a user would do it.

use bytemuck::{Pod, Zeroable};
use flatleaf::checkpoint::{self, Extras, LoadOptions};
use flatleaf::optim::{Adam, ClipNorm, Optimizer};
use flatleaf::{DynTree, FlatGrad, Layout, Tree};
use ndarray::{Array1, ArrayD, arr1, arr2};
use num_complex::Complex32;

use crate::files::Folder;

#[derive(Tree, Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[tree(element)]
#[repr(C)]
struct Gaussian {
    position: [f32; 3],
    opacity: f32,
}

#[derive(Tree, Debug, PartialEq)]
#[tree(view)]
struct Scene {
    gaussians: Vec<Gaussian>,
    filter: Array1<Complex32>,
    triangles: Vec<[u32; 3]>,
    #[tree(frozen)]
    bounds: [[f32; 3]; 2],
}

fn scene() -> Scene {
    let gaussian = |x: f32| Gaussian {
        position: [x, 0.5 * x, -x],
        opacity: 0.25,
    };
    Scene {
        gaussians: vec![gaussian(1.0), gaussian(-2.0)],
        filter: arr1(&[Complex32::new(1.0, -1.0), Complex32::new(0.5, 2.0)]),
        triangles: vec![[0, 1, 2], [2, 1, 3]],
        bounds: [[-4.0; 3], [4.0; 3]],
    }
}

type Chain = (ClipNorm, Adam);

fn optimizer(layout: &Layout) -> Optimizer<Chain> {
    let clip = ClipNorm {
        max: 10.0,
        ..Default::default()
    };
    let adam = Adam {
        lr: 0.05,
        ..Default::default()
    };
    Optimizer::new((clip, adam), layout).unwrap()
}

/// The squares' gradient, written through the view: twice each number.
fn backward(scene: &SceneView<'_>, grad: &mut SceneViewMut<'_>, step: usize) {
    for (grad, gaussian) in grad.gaussians.iter_mut().zip(&scene.gaussians) {
        grad.position = gaussian.position.map(|x| 2.0 * x);
        grad.opacity = 2.0 * gaussian.opacity;
    }
    grad.filter.assign(&scene.filter.mapv(|x| x * 2.0));
    // One bad batch.
    if step == 3 {
        grad.gaussians[1].opacity = f32::NAN;
    }
}

/// Steps from one on to before another: a rate that falls, a batch that is skipped, a filter that has no
/// gradient in one batch.
fn train(
    scene: &Scene,
    layout: &Layout,
    flat: &mut [f32],
    optimizer: &mut Optimizer<Chain>,
    steps: std::ops::Range<usize>,
) {
    let mut grad: FlatGrad = FlatGrad::zeros(layout);
    for step in steps {
        grad.reset();
        backward(
            &layout.view_tree(scene, flat).unwrap(),
            &mut layout.view_grad(scene, &mut grad).unwrap(),
            step,
        );
        if step == 4 {
            grad.set_present_at("filter", false);
        }
        if step == 6 {
            optimizer.adjust("**", |rule| rule.1.lr = 0.01).unwrap();
        }
        match optimizer.step(flat, &grad) {
            Ok(_) => assert_ne!(step, 3),
            // The batch is skipped: nothing has moved.
            Err(error) => {
                assert!(error.is_non_finite() && step == 3);
                assert_eq!(error.path(), Some("gaussians"));
            }
        }
    }
}

#[test]
fn a_scene_is_trained_stored_and_taken_up_again_to_the_same_bits() {
    let folder = Folder::new();
    let path = folder.path("scene");
    let model = scene();
    let layout = Layout::of(&model).unwrap();
    assert_eq!(layout.element_name(6), "gaussians[1].position[2]");
    assert_eq!(layout.element_name(11), "filter[1].im");

    let mut whole = layout.gather(&model).unwrap();
    let mut one_run = optimizer(&layout);
    train(&model, &layout, &mut whole, &mut one_run, 0..10);

    let mut flat = layout.gather(&model).unwrap();
    let mut first_half = optimizer(&layout);
    train(&model, &layout, &mut flat, &mut first_half, 0..5);
    let stored = layout.restructure(&model, &flat).unwrap();
    checkpoint::save_with(&path, &stored, &Extras::new().optimizer("opt", &first_half)).unwrap();

    let mut resumed = scene();
    checkpoint::load_into(&path, &mut resumed, &LoadOptions::default()).unwrap();
    assert_eq!(resumed, stored);
    let file = checkpoint::open(&path).unwrap();
    let mut second_half: Optimizer<Chain> = file.part("opt").unwrap().resume(&layout).unwrap();
    let mut flat = layout.gather(&resumed).unwrap();
    train(&resumed, &layout, &mut flat, &mut second_half, 5..10);
    assert_eq!(crate::common::bits(&flat), crate::common::bits(&whole));
    layout.restructure_into(&mut resumed, &flat).unwrap();
    assert_eq!(resumed.triangles, model.triangles);
    assert_eq!(resumed.bounds, model.bounds);
    assert!(resumed.filter[0].norm() < model.filter[0].norm());
    // Nine batches counted for the splats, and one less for the filter.
    assert_eq!(second_half.step_count("gaussians"), Some(9));
    assert_eq!(second_half.step_count("filter"), Some(8));
}

#[test]
fn elements_are_trailing_axes_in_a_file_but_for_complex_numbers() {
    let folder = Folder::new();
    let path = folder.path("scene");
    checkpoint::save(&path, &scene()).unwrap();
    let file = checkpoint::open(&path).unwrap();
    let types = ["filter", "gaussians"].map(|name| file.tensor(name).unwrap().type_name());
    assert_eq!(types, ["C64", "F32"]);
    let file = DynTree::of(&file).unwrap();
    let expected: ArrayD<f32> = arr2(&[[1.0, -1.0], [0.5, 2.0]]).into_dyn();
    assert_eq!(
        file.get("filter").unwrap().as_array::<f32>(),
        Some(&expected)
    );
    let gaussians = file.get("gaussians").unwrap();
    assert_eq!(gaussians.as_array::<f32>().unwrap().shape(), [2, 4]);
    let triangles = file.get("triangles").unwrap();
    assert_eq!(
        triangles.as_array::<u32>(),
        Some(&arr2(&[[0, 1, 2], [2, 1, 3]]).into_dyn())
    );
    // A scene of another number of splats is another shape.
    let mut other = scene();
    other.gaussians.pop();
    let error = checkpoint::load_into(&path, &mut other, &LoadOptions::default()).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("gaussians"));
}
