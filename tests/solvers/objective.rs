//! The loss of a model as a function of slices.

use std::cell::{Cell, RefCell};
use std::iter::zip;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::common::models::{self, dense};
use crate::common::problems::{Grads, Quadratic, Rosenbrock};
use approx::assert_abs_diff_eq;
use flatleaf::{
    Error, FlatGrad, Layout, Objective, TiedGrads, destructure, destructure_as, objective,
    objective_f64, tree,
};
use ndarray::arr1;

#[test]
fn a_tie_is_summed_an_absent_leaf_is_zero_and_the_frozen_one_is_none() {
    let model = Rosenbrock::new(1);
    let (flat, layout) = destructure(&model).unwrap();
    let absent = objective(&layout, &model, |_| {
        (
            1.0,
            Grads {
                x: Some(arr1(&[2.0])),
                y: None,
                again: Some(arr1(&[0.5])),
            },
        )
    })
    .unwrap();
    let mut gradient = [7.0, 7.0];
    assert_eq!(
        absent.value_and_gradient(&flat, &mut gradient).unwrap(),
        1.0
    );
    assert_eq!(gradient, [2.5, 0.0]);

    let summed = objective(&layout, &model, Rosenbrock::evaluate).unwrap();
    summed.gradient(&[2.0, 5.0], &mut gradient).unwrap();
    assert_eq!(gradient, [2.0 - 800.0, 200.0]);
    assert_eq!(summed.value(&[2.0, 5.0]).unwrap(), 1.0 + 100.0);
}

#[test]
fn grads_that_are_totals_already_are_read_once() {
    let model = Rosenbrock::new(1);
    let (flat, layout) = destructure(&model).unwrap();
    let grads = || Grads {
        x: Some(arr1(&[2.0])),
        y: None,
        again: Some(arr1(&[2.0])),
    };
    let total = objective(&layout, &model, |_| (1.0, grads()))
        .unwrap()
        .tied_grads(TiedGrads::AlreadyTotal);
    let mut gradient = [7.0, 7.0];
    total.gradient(&flat, &mut gradient).unwrap();
    assert_eq!(gradient, [2.0, 0.0]);
}

#[test]
fn the_last_point_is_remembered_bit_for_bit() {
    let model = Rosenbrock::new(1);
    let (flat, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, Rosenbrock::evaluate).unwrap();
    let mut gradient = [0.0; 2];
    let evaluations = |point: &[f32], gradient: &mut [f32]| {
        loss.value(point).unwrap();
        loss.gradient(point, gradient).unwrap();
        loss.value_and_gradient(point, gradient).unwrap();
        loss.evaluations()
    };
    assert_eq!(loss.evaluations(), 0);
    assert_eq!(evaluations(&flat, &mut gradient), 1);
    assert_eq!(evaluations(&[0.0, 1.0], &mut gradient), 2);
    assert_eq!(evaluations(&[-0.0, 1.0], &mut gradient), 3);
    assert_eq!(evaluations(&flat, &mut gradient), 4);
}

#[test]
fn a_point_of_f64_is_rounded_to_a_leaf_of_f32_and_a_gradient_widened() {
    let model = tree!({ "x": [0.0] });
    let layout = Layout::of(&model).unwrap();
    let loss = objective_f64(&layout, &model, |model| {
        let x = layout.gather(model)?[0];
        Ok::<_, Error>((x, tree!({ "x": [0.1] })))
    })
    .unwrap();
    let mut gradient = [0.0];
    assert_eq!(
        loss.value_and_gradient(&[0.3], &mut gradient).unwrap(),
        f64::from(0.3_f32)
    );
    assert_eq!(gradient, [f64::from(0.1_f32)]);
    assert_eq!(loss.value(&[0.3 + 1e-9]).unwrap(), f64::from(0.3_f32));
    assert_eq!(loss.value(&[1e300]).unwrap(), f64::INFINITY);
}

#[test]
fn nothing_is_rounded_where_the_leaves_are_f64() {
    let model = (vec![0.0_f64], vec![0.0_f32]);
    let layout = Layout::of(&model).unwrap();
    let loss = objective_f64(&layout, &model, |model| {
        (
            model.0[0] + f64::from(model.1[0]),
            (vec![model.0[0]], vec![0.1_f32]),
        )
    })
    .unwrap();
    let mut gradient = [0.0; 2];
    assert_eq!(
        loss.value_and_gradient(&[0.3, 0.5], &mut gradient).unwrap(),
        0.8
    );
    assert_eq!(gradient, [0.3, f64::from(0.1_f32)]);
    assert_eq!(
        loss.into_model(&[0.3, 0.1]).unwrap(),
        (vec![0.3], vec![0.1])
    );

    let error = objective(&layout, &model, |_| (0.0, ())).unwrap_err();
    assert!(error.is_element_type());
    assert_eq!(error.path(), Some("0"));
}

#[test]
fn the_template_is_copied_with_its_cells_and_the_copy_is_handed_out() {
    let cell = Rc::new(RefCell::new(vec![1.0_f32]));
    let template = (cell.clone(), cell);
    let layout = Layout::of(&template).unwrap();
    let loss = objective(&layout, &template, |model| (model.1.borrow()[0], ())).unwrap();
    assert_eq!(loss.value(&[5.0]).unwrap(), 5.0);
    let found = loss.into_model(&[6.0]).unwrap();
    assert_eq!((*template.0.borrow())[0], 1.0);
    assert_eq!((*found.0.borrow())[0], 6.0);
    assert!(Rc::ptr_eq(&found.0, &found.1));
}

#[test]
fn a_model_that_is_lent_is_evaluated_itself() {
    let mut model = dense();
    let layout = Layout::of(&model).unwrap();
    let loss = Objective::new(&layout, &mut model, |model| (model.weight.sum(), ())).unwrap();
    assert_eq!(loss.value(&[1.0; 6]).unwrap(), 4.0);
    loss.into_model(&[2.0; 6]).unwrap();
    assert_eq!(layout.gather(&model).unwrap(), [2.0; 6]);
}

#[test]
fn a_model_that_cannot_be_copied_is_taken() {
    let model = models::layers();
    let (flat, layout) = destructure(&model).unwrap();
    let loss = Objective::new(&layout, model, |layers| {
        (
            layers
                .iter()
                .map(|layer| layer.outputs() as f32)
                .sum::<f32>(),
            (),
        )
    })
    .unwrap();
    assert_eq!(loss.value(&flat).unwrap(), 4.0);
}

#[test]
fn a_model_of_another_layout_is_refused() {
    let layout = Layout::of(&dense()).unwrap();
    let error = objective(&layout, &models::dense_without_bias(), |_| (0.0, ())).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("weight"));
}

#[test]
fn lengths_are_checked_before_anything_is_evaluated() {
    let model = Rosenbrock::new(1);
    let layout = Layout::of(&model).unwrap();
    let loss = objective(&layout, &model, Rosenbrock::evaluate).unwrap();
    let error = loss.value(&[1.0]).unwrap_err();
    assert!(error.is_length());
    assert_eq!(error.to_string(), "the point: expected 2 elements, found 1");
    assert!(loss.value(&[1.0; 3]).unwrap_err().is_length());
    assert!(
        loss.gradient(&[1.0; 2], &mut [0.0; 3])
            .unwrap_err()
            .is_length()
    );
    assert_eq!(loss.evaluations(), 0);
    assert!(loss.into_model(&[1.0]).unwrap_err().is_length());
}

#[test]
fn a_gradient_of_another_shape_is_an_error_with_its_path() {
    let model = Rosenbrock::new(2);
    let (flat, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, |_| {
        (
            0.0,
            Grads {
                x: Some(arr1(&[1.0])),
                ..Grads::default()
            },
        )
    })
    .unwrap();
    let error = loss.value(&flat).unwrap_err();
    assert!(error.is_shape());
    assert_eq!(error.path(), Some("x"));
}

#[test]
fn a_flat_gradient_is_taken_over_with_its_presence() {
    let model = tree!({ "x": [1.0, 2.0], "y": [3.0] });
    let (flat, layout) = destructure(&model).unwrap();
    let grads = tree!({ "x": [0.1, 4.0] });
    let single = objective(&layout, &model, |_| {
        Ok::<_, Error>((1.5_f32, layout.gather_grad(&grads)?))
    })
    .unwrap();
    let mut gradient = [7.0; 3];
    assert_eq!(
        single.value_and_gradient(&flat, &mut gradient).unwrap(),
        1.5
    );
    assert_eq!(gradient, [0.1, 4.0, 0.0]); // absent is zero here

    let wide = objective_f64(&layout, &model, |_| {
        Ok::<_, Error>((1.5_f32, layout.gather_grad(&grads)?))
    })
    .unwrap();
    let mut gradient = [7.0; 3];
    wide.gradient(&[0.0; 3], &mut gradient).unwrap();
    assert_eq!(gradient, [f64::from(0.1_f32), 4.0, 0.0]);

    let absent = objective(&layout, &model, |_| {
        Ok::<_, Error>((1.5_f32, layout.gather_grad(&())?))
    })
    .unwrap();
    let error = absent.gradient(&flat, &mut [7.0; 3]).unwrap_err();
    assert!(error.is_missing());
    assert_eq!(error.path(), Some("x"));
}

#[test]
fn a_flat_gradient_of_another_layout_is_an_error() {
    let model = tree!({ "x": [1.0] });
    let (flat, layout) = destructure(&model).unwrap();
    let other = Layout::of(&tree!({ "y": [1.0] })).unwrap();
    let wrong = objective(&layout, &model, |_| {
        Ok::<_, Error>((0.0, FlatGrad::from_flat(&other, vec![1.0])?))
    })
    .unwrap();
    assert!(wrong.value(&flat).unwrap_err().is_other_layout());
}

#[test]
fn a_function_of_the_vector_itself_needs_no_tree() {
    let layout = Layout::of(&tree!({ "a": [0.0, 0.0], "b": [0.0] })).unwrap();
    let square = Objective::over_vector(&layout, |x| {
        let grads = tree!({ "a": (vec![2.0 * x[0], 2.0 * x[1]]) });
        (x.iter().map(|x| x * x).sum::<f32>(), grads)
    })
    .unwrap();
    let mut gradient = [7.0; 3];
    let value = square.value_and_gradient(&[1.0, 2.0, 3.0], &mut gradient);
    assert_eq!(value.unwrap(), 14.0);
    assert_eq!(gradient, [2.0, 4.0, 0.0]);
    assert_eq!(square.evaluations(), 1);
    assert!(square.value(&[1.0]).unwrap_err().is_length());
    assert_eq!(
        square.into_model(&[4.0, 5.0, 6.0]).unwrap(),
        [4.0, 5.0, 6.0]
    );

    let wide = Objective::over_vector_f64(&layout, |x| (x[0], ())).unwrap();
    assert_eq!(wide.value(&[0.1, 0.0, 0.0]).unwrap(), 0.1);
    // The first evaluation is one, although the vector has been zero before.
    assert_eq!(wide.value(&[0.0; 3]).unwrap(), 0.0);
    assert_eq!(wide.evaluations(), 2);

    let empty = Objective::over_vector(&Layout::of(&()).unwrap(), |_| (1.0, ()));
    let empty = empty.unwrap();
    assert_eq!(empty.value(&[]).unwrap(), 1.0);
    empty.gradient(&[], &mut []).unwrap();
}

#[test]
fn a_function_without_a_gradient_has_values_only() {
    let model = Rosenbrock::new(1);
    let (flat, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, |model| (model.evaluate().0, ())).unwrap();
    assert_eq!(loss.value(&[1.0, 1.0]).unwrap(), 0.0);
    let mut gradient = [7.0, 7.0];
    let error = loss.gradient(&flat, &mut gradient).unwrap_err();
    assert!(error.is_missing());
    assert_eq!(
        error.to_string(),
        "`x`: expected a gradient, here or at another leaf, found no leaf"
    );
    assert_eq!(gradient, [7.0, 7.0]);
}

/// An error of a user's own.
#[derive(Debug)]
enum Failure {
    Diverged(f64),
    Flatleaf(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Flatleaf(error)
    }
}

/// Rosenbrock's function where it is below 1000.
fn bounded(model: &Rosenbrock) -> Result<(f64, Grads), Failure> {
    let (loss, grads) = model.evaluate();
    if loss < 1000.0 {
        Ok((loss, grads))
    } else {
        Err(Failure::Diverged(loss))
    }
}

#[test]
fn the_functions_own_error_comes_out_as_it_is() {
    let model = Rosenbrock::new(1);
    let (flat, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, bounded).unwrap();
    assert!(matches!(
        loss.value(&[0.0, 4.0]),
        Err(Failure::Diverged(1601.0))
    ));
    assert!(matches!(
        loss.value(&[0.0, 4.0]),
        Err(Failure::Diverged(1601.0))
    ));
    assert_eq!(loss.evaluations(), 2); // a failure is not remembered
    assert!(matches!(loss.value(&[0.0]), Err(Failure::Flatleaf(error)) if error.is_length()));
    assert_abs_diff_eq!(loss.value(&flat).unwrap(), 24.2, epsilon = 1e-4);
}

#[test]
fn a_solver_that_takes_no_errors_gets_nan_and_the_first_error_is_kept() {
    let model = Rosenbrock::new(1);
    let (flat, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, bounded).unwrap();
    let mut gradient = [0.0; 2];
    assert!(
        loss.value_and_gradient_or_nan(&flat, &mut gradient)
            .is_finite()
    );
    assert!(gradient.iter().all(|dx| dx.is_finite()));

    assert!(loss.value_or_nan(&[0.0, 4.0]).is_nan());
    assert!(loss.value_or_nan(&[0.0, 5.0]).is_nan());
    assert!(
        loss.value_and_gradient_or_nan(&flat, &mut gradient)
            .is_nan()
    );
    assert!(gradient.iter().all(|dx| dx.is_nan()));
    assert_eq!(loss.evaluations(), 2); // none after the error

    assert!(matches!(loss.value(&flat), Err(Failure::Diverged(1601.0))));
    assert!(loss.value(&flat).is_ok());
    assert!(loss.value_or_nan(&[0.0, 5.0]).is_nan());
    assert!(matches!(
        loss.into_model(&flat),
        Err(Failure::Diverged(2501.0))
    ));
}

#[test]
fn a_panic_of_the_function_leaves_an_objective_that_works() {
    let model = Rosenbrock::new(1);
    let (flat, layout) = destructure(&model).unwrap();
    let panics = Cell::new(true);
    let loss = objective(&layout, &model, |model| {
        if panics.take() {
            panic!("on purpose")
        } else {
            model.evaluate()
        }
    })
    .unwrap();
    catch_unwind(AssertUnwindSafe(|| loss.value(&flat))).unwrap_err();
    assert_abs_diff_eq!(loss.value(&flat).unwrap(), 24.2, epsilon = 1e-4);
}

#[test]
fn threads_take_turns() {
    let model = dense();
    let (flat, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, |model| (model.weight.sum(), ())).unwrap();
    std::thread::scope(|scope| {
        for k in 1..=4 {
            let (loss, scaled) = (&loss, flat.iter().map(|x| k as f32 * x).collect::<Vec<_>>());
            scope.spawn(move || {
                (0..100).for_each(|_| assert_eq!(loss.value(&scaled).unwrap(), f64::from(k) * 10.0))
            });
        }
    });
}

/// Gradient descent as a crate with closures over slices would have it.
fn descend(
    x: &mut [f32],
    rate: f32,
    steps: usize,
    mut f: impl FnMut(&[f32], &mut [f32]) -> f64,
) -> f64 {
    let mut gradient = vec![0.0; x.len()];
    for _ in 0..steps {
        f(x, &mut gradient);
        zip(&mut *x, &gradient).for_each(|(x, dx)| *x -= rate * dx);
    }
    f(x, &mut gradient)
}

#[test]
fn a_plain_closure_over_f32_descends() {
    let model = Quadratic::new(3);
    let (mut flat, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, Quadratic::evaluate).unwrap();
    let least = descend(&mut flat, 0.1, 200, |x, gradient| {
        loss.value_and_gradient_or_nan(x, gradient)
    });
    assert_abs_diff_eq!(least, 6.0, epsilon = 1e-9);
    assert_abs_diff_eq!(flat[..], [2.0, 2.0, 2.0, 0.0], epsilon = 1e-5);
}

/// One step of the classical Runge–Kutta method for x' = f(x).
fn runge_kutta(x: &[f64], h: f64, f: impl Fn(&[f64], &mut [f64])) -> Vec<f64> {
    let slope = |base: &[f64], step: f64| {
        let at: Vec<f64> = zip(x, base).map(|(x, k)| x + step * k).collect();
        let mut out = vec![0.0; x.len()];
        f(&at, &mut out);
        out
    };
    let k1 = slope(&vec![0.0; x.len()], 0.0);
    let k2 = slope(&k1, h / 2.0);
    let k3 = slope(&k2, h / 2.0);
    let k4 = slope(&k3, h);
    (0..x.len())
        .map(|i| x[i] + h / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]))
        .collect()
}

#[test]
fn an_ode_solver_follows_the_gradient_flow() {
    let model = Quadratic::new(1);
    let (start, layout) = destructure_as(&model).unwrap();
    let loss = objective_f64(&layout, &model, Quadratic::evaluate).unwrap();
    let downhill = |x: &[f64], slope: &mut [f64]| {
        loss.gradient(x, slope).unwrap();
        slope.iter_mut().for_each(|dx| *dx = -*dx);
    };
    let end = (0..100).fold(start, |x, _| runge_kutta(&x, 0.01, downhill));
    // x' = −2(x − 2) from 5 and y' = −2y from −1, until t = 1.
    let decay = (-2.0_f64).exp();
    assert_abs_diff_eq!(end[..], [2.0 + 3.0 * decay, -decay], epsilon = 1e-5);
}

/// The traits of basin, which computes in f64.
struct ForBasin<'o, M, F>(&'o Objective<M, F, Error, f64>);

impl<M: flatleaf::Tree, F: FnMut(&M) -> (f64, Grads)> basin::CostFunction for ForBasin<'_, M, F> {
    type Param = Vec<f64>;
    type Output = f64;
    type Error = Error;

    fn cost(&self, point: &Vec<f64>) -> Result<f64, Error> {
        self.0.value(point)
    }
}

impl<M: flatleaf::Tree, F: FnMut(&M) -> (f64, Grads)> basin::Gradient for ForBasin<'_, M, F> {
    type Gradient = Vec<f64>;

    fn gradient(&self, point: &Vec<f64>) -> Result<Vec<f64>, Error> {
        let mut gradient = vec![0.0; point.len()];
        self.0.gradient(point, &mut gradient)?;
        Ok(gradient)
    }
}

#[test]
fn basin_finds_the_minimum_by_lbfgs() {
    let model = Rosenbrock::new(2);
    let (start, layout) = destructure_as(&model).unwrap();
    let loss = objective_f64(&layout, &model, Rosenbrock::evaluate).unwrap();
    let start = basin::FirstOrderState::new(start);
    let solver = basin::Lbfgs::new()
        .unbounded()
        .with_absolute_gradient_tolerance(1e-3);
    let result = basin::Executor::new(ForBasin(&loss), solver, start)
        .max_iter(100)
        .run()
        .unwrap();
    let found = loss.into_model(result.param()).unwrap();
    assert_abs_diff_eq!(layout.gather(&found).unwrap()[..], [1.0; 4], epsilon = 1e-3);
    assert!(Rc::ptr_eq(&found.x, &found.again));
}

#[test]
fn basin_finds_the_minimum_by_cma_es() {
    let model = Quadratic::new(3);
    let (start, layout) = destructure_as(&model).unwrap();
    let loss = objective_f64(&layout, &model, Quadratic::evaluate).unwrap();
    let start = basin::PopulationProgress::from_point(start);
    let solver = basin::CmaEs::<Vec<f64>, basin::DenseMatrix<f64>, f64>::new(1, 1.0);
    let result = basin::Executor::new(ForBasin(&loss), solver, start)
        .max_iter(300)
        .run()
        .unwrap();
    assert_abs_diff_eq!(result.param()[..], [2.0, 2.0, 2.0, 0.0], epsilon = 1e-3);
}
