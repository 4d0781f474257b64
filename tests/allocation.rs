//! Moving a plain tree a second time allocates nothing.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;

use flatleaf::optim::{ClipNorm, Lamb, Optimizer};
use flatleaf::{FlatGrad, Layout, objective};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code)]
// SAFETY: forwards every call to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, memory: Memory) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

type Model = (
    Vec<ndarray::Array2<f32>>,
    Vec<Vec<f32>>,
    Option<Box<ndarray::Array1<f32>>>,
);

fn model() -> Model {
    (
        vec![ndarray::arr2(&[[1.0, 2.0], [3.0, 4.0]]); 1000],
        vec![vec![5.0; 3]; 1000],
        Some(Box::new(ndarray::arr1(&[6.0]))),
    )
}

#[test]
fn a_second_gather_allocates_nothing() {
    let model = model();
    let layout = Layout::of(&model).unwrap();
    let mut flat = vec![0.0; layout.len()];
    layout.gather_into(&model, &mut flat).unwrap();
    assert_eq!(
        allocations(|| layout.gather_into(&model, &mut flat).unwrap()),
        0
    );
}

#[test]
fn strided_arrays_are_gathered_by_way_of_one_buffer() {
    let model = vec![ndarray::arr2(&[[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]]).reversed_axes(); 1000];
    let layout = Layout::of(&model).unwrap();
    let mut flat = vec![0.0; layout.len()];
    layout.gather_into(&model, &mut flat).unwrap();
    assert_eq!(flat[..6], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    assert!(allocations(|| layout.gather_into(&model, &mut flat).unwrap()) < 30);
}

#[test]
fn a_second_restructure_in_place_allocates_nothing() {
    let mut model = model();
    let layout = Layout::of(&model).unwrap();
    let flat = vec![0.5; layout.len()];
    layout.restructure_into(&mut model, &flat).unwrap();
    assert_eq!(
        allocations(|| layout.restructure_into(&mut model, &flat).unwrap()),
        0
    );
}

#[test]
fn a_second_gradient_allocates_nothing() {
    let grads = model();
    let layout = Layout::of(&grads).unwrap();
    let mut grad = FlatGrad::zeros(&layout);
    layout.gather_grad_into(&grads, &mut grad).unwrap();
    assert_eq!(
        allocations(|| layout.gather_grad_into(&grads, &mut grad).unwrap()),
        0
    );
}

#[test]
fn a_second_evaluation_of_an_objective_allocates_nothing() {
    let (template, grads) = (model(), model());
    let layout = Layout::of(&template).unwrap();
    let objective = objective(&layout, &template, |_| (1.0, &grads)).unwrap();
    let (point, mut gradient) = (vec![0.5; layout.len()], vec![0.0; layout.len()]);
    let mut evaluate = |point: &[f32]| objective.value_and_gradient(point, &mut gradient).unwrap();
    evaluate(&vec![0.25; layout.len()]);
    assert_eq!(allocations(|| assert_eq!(evaluate(&point), 1.0)), 0);
    assert_eq!(objective.evaluations(), 2);
}

#[test]
fn a_large_tree_allocates_once_for_all_its_leaves() {
    let mut model = vec![ndarray::Array2::<f32>::ones((100, 100)); 100];
    let layout = Layout::of(&model).unwrap();
    let mut flat = vec![0.0; layout.len()];
    layout.gather_into(&model, &mut flat).unwrap();
    assert!(allocations(|| layout.gather_into(&model, &mut flat).unwrap()) < 20);
    layout.restructure_into(&mut model, &flat).unwrap();
    assert!(allocations(|| layout.restructure_into(&mut model, &flat).unwrap()) < 20);
}

#[test]
fn memory_for_paths_is_linear_however_long_they_are() {
    let key = "k".repeat(10_000);
    let leaves = (0..1000).map(|index| (index.to_string() + "x", flatleaf::DynTree::from(1.0_f32)));
    let tree = flatleaf::DynTree::map([(key, flatleaf::DynTree::map(leaves))]);
    let layout = Layout::of(&tree).unwrap();
    assert_eq!(layout.leaves().len(), 1000);
    assert_eq!(layout.leaves()[999].path().len(), 10_000 + 1 + 4);
}

/// As many allocations for 10,000 leaves as for one: what a step prepares, and nothing for a leaf,
/// also where norms are measured leaf by leaf.
#[test]
fn a_step_of_lent_leaves_allocates_nothing_for_a_leaf() {
    let allocated = |count: usize, along: bool| {
        let mut leaves = vec![vec![1.0_f32; 64]; count];
        let layout = Layout::of(&leaves).unwrap();
        let rule = (ClipNorm::default(), Lamb::default());
        let mut optimizer = Optimizer::new(rule, &layout).unwrap();
        let ones = vec![1.0_f32; 64];
        let grads: Vec<Option<&[f32]>> = vec![Some(&ones); count];
        let mut step = || {
            if along {
                let walk = |step: &mut dyn FnMut(usize, &mut [f32])| {
                    let leaves = leaves.iter_mut().enumerate();
                    leaves.for_each(|(leaf, elements)| step(leaf, elements));
                    Ok(())
                };
                optimizer.update_along(&grads, walk).unwrap();
                return;
            }
            let lend = |leaf: usize, step: &mut dyn FnMut(&mut [f32])| {
                step(&mut leaves[leaf]);
                Ok(())
            };
            optimizer.update_each(&grads, lend).unwrap();
        };
        step();
        allocations(step)
    };
    assert_eq!(allocated(4_000, false), allocated(1, false));
    assert_eq!(allocated(4_000, true), allocated(1, true));
}

/// Gradients of halves are read where they are: what is allocated beside a step by gradients of f32
/// is a list of them, which grows a few times, and nothing for a leaf.
#[cfg(feature = "half")]
#[test]
fn a_step_by_gradients_of_halves_copies_none_of_them() {
    fn allocated<E: flatleaf::FloatElement>(one: E) -> usize
    where
        Vec<Vec<E>>: flatleaf::Tree,
    {
        let mut model = vec![vec![1.0_f32; 64]; 4_000];
        let layout = Layout::of(&model).unwrap();
        let rule = (ClipNorm::default(), Lamb::default());
        let mut optimizer = Optimizer::new(rule, &layout).unwrap();
        let grads = vec![vec![one; 64]; 4_000];
        optimizer.update(&mut model, &grads).unwrap();
        allocations(|| {
            optimizer.update(&mut model, &grads).unwrap();
        })
    }
    assert!(allocated(half::bf16::ONE) < allocated(1.0_f32) + 20);
}
