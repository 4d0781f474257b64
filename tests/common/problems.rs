//! Functions with a known minimum, each the loss of a model with a tie and a frozen leaf.

use std::rc::Rc;

use flatleaf::Tree;
use ndarray::{Array1, arr1};

/// Σ (a − x)² + b·(y − x²)², where the second x is the tie's other place and `ab` is frozen. Its
/// minimum is 0 at x = a, y = a².
#[derive(Tree, Debug)]
pub(crate) struct Rosenbrock {
    pub(crate) x: Rc<Array1<f32>>,
    #[tree(frozen)]
    pub(crate) ab: Array1<f32>,
    pub(crate) y: Array1<f32>,
    pub(crate) again: Rc<Array1<f32>>,
}

/// A gradient of three leaves, all of which may be absent.
#[derive(Tree, Debug, Default)]
pub(crate) struct Grads {
    pub(crate) x: Option<Array1<f32>>,
    pub(crate) y: Option<Array1<f32>>,
    pub(crate) again: Option<Array1<f32>>,
}

impl Rosenbrock {
    /// At (−1.2, 1), `count` times.
    pub(crate) fn new(count: usize) -> Rosenbrock {
        let x = Rc::new(Array1::from_elem(count, -1.2));
        Rosenbrock {
            x: x.clone(),
            ab: arr1(&[1.0, 100.0]),
            y: Array1::ones(count),
            again: x,
        }
    }

    /// The loss and its gradient, in f64 and then rounded; half of the gradient of x at either
    /// place.
    pub(crate) fn evaluate(&self) -> (f64, Grads) {
        let [a, b] = [0, 1].map(|i| f64::from(self.ab[i]));
        let [x, y, again] = [&*self.x, &self.y, &*self.again].map(|leaf| leaf.mapv(f64::from));
        let (near, valley) = (a - x, y - &again * &again);
        let grads = Grads {
            x: Some(near.mapv(|near| (-2.0 * near) as f32)),
            y: Some(valley.mapv(|valley| (2.0 * b * valley) as f32)),
            again: Some((-4.0 * b * &valley * again).mapv(|x| x as f32)),
        };
        ((&near * &near).sum() + b * (&valley * &valley).sum(), grads)
    }
}

/// ½ Σ c·(x − m)² with c = 1, 2, …, once for `x` with m = 1 and once for its other place with m =
/// 3, and Σ y². The least of it is at x = 2, y = 0.
#[derive(Tree, Debug)]
pub(crate) struct Quadratic {
    pub(crate) x: Rc<Array1<f32>>,
    pub(crate) y: Array1<f32>,
    #[tree(frozen)]
    pub(crate) c: Array1<f32>,
    pub(crate) again: Rc<Array1<f32>>,
}

impl Quadratic {
    /// At 5, 6, … and −1.
    pub(crate) fn new(count: usize) -> Quadratic {
        let x = Rc::new(Array1::from_iter(super::count_from(5.0, count)));
        Quadratic {
            x: x.clone(),
            y: arr1(&[-1.0]),
            c: Array1::from_iter(super::count_from(1.0, count)),
            again: x,
        }
    }

    pub(crate) fn evaluate(&self) -> (f64, Grads) {
        let half = |x: &Array1<f32>, m: f32| {
            (
                &self.c * (x - m),
                (&self.c * (x - m) * (x - m)).mapv(f64::from).sum() / 2.0,
            )
        };
        let ((dx, loss), (dagain, more)) = (half(&self.x, 1.0), half(&self.again, 3.0));
        let grads = Grads {
            x: Some(dx),
            y: Some(2.0 * &self.y),
            again: Some(dagain),
        };
        (loss + more + f64::from(self.y[0]).powi(2), grads)
    }
}
