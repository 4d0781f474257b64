//! The solvers of argmin find the least loss of a tree with a tie and a frozen leaf.

use std::rc::Rc;

use crate::common::problems::{Quadratic, Rosenbrock};
use approx::assert_abs_diff_eq;
use argmin::core::{
    CostFunction, Executor, Hessian, IterState, Solver, TerminationReason, TerminationStatus,
};
use argmin::solver::conjugategradient::NonlinearConjugateGradient;
use argmin::solver::conjugategradient::beta::{
    FletcherReeves, HestenesStiefel, PolakRibiere, PolakRibierePlus,
};
use argmin::solver::gradientdescent::SteepestDescent;
use argmin::solver::landweber::Landweber;
use argmin::solver::linesearch::condition::ArmijoCondition;
use argmin::solver::linesearch::{
    BacktrackingLineSearch, HagerZhangLineSearch, MoreThuenteLineSearch,
};
use argmin::solver::neldermead::NelderMead;
use argmin::solver::newton::NewtonCG;
use argmin::solver::quasinewton::LBFGS;
use argmin::solver::trustregion::{CauchyPoint, Steihaug, TrustRegion};
use argmin_math::{
    ArgminAdd, ArgminConj, ArgminDiv, ArgminDot, ArgminL1Norm, ArgminL2Norm, ArgminMinMax,
    ArgminMul, ArgminScaledAdd, ArgminScaledSub, ArgminSignum, ArgminSub, ArgminZeroLike,
};
use flatleaf::argmin::FlatVec;
use flatleaf::{destructure, destructure_as, objective, objective_f64, tree};
use ndarray::arr1;

fn more_thuente() -> MoreThuenteLineSearch<FlatVec, FlatVec, f64> {
    MoreThuenteLineSearch::new()
}

/// Restarted where gradients are far from orthogonal (Powell): without it argmin's directions may
/// go uphill, in f64 too.
fn conjugate_gradients<B>(
    beta: B,
) -> NonlinearConjugateGradient<FlatVec, MoreThuenteLineSearch<FlatVec, FlatVec, f64>, B, f64> {
    NonlinearConjugateGradient::new(more_thuente(), beta)
        .restart_iters(10)
        .restart_orthogonality(0.1)
}

fn hager_zhang() -> HagerZhangLineSearch<FlatVec, FlatVec, f64> {
    HagerZhangLineSearch::new()
}

fn backtracking() -> BacktrackingLineSearch<FlatVec, FlatVec, ArmijoCondition<f64>, f64> {
    BacktrackingLineSearch::new(ArmijoCondition::new(1e-4).unwrap())
}

/// The corners of a simplex at a point.
fn simplex(start: &[f32]) -> Vec<FlatVec> {
    let mut corners = vec![FlatVec::from(start.to_vec()); start.len() + 1];
    (0..start.len()).for_each(|i| corners[i][i] += 0.5);
    corners
}

/// Where a solver has come when the loss is at most `target`.
fn solve<O, S, G: Clone, H: Clone>(
    problem: O,
    solver: S,
    start: &[f32],
    target: f64,
    iterations: u64,
) -> FlatVec
where
    S: Solver<O, IterState<FlatVec, G, (), H, (), f64>>,
{
    let configure = |state: IterState<FlatVec, G, (), H, (), f64>| {
        state
            .param(start.to_vec().into())
            .target_cost(target)
            .max_iters(iterations)
    };
    let state = Executor::new(problem, solver)
        .configure(configure)
        .run()
        .unwrap()
        .state;
    assert!(
        state.best_cost <= target,
        "expected at most {target}, found {} after {} iterations",
        state.best_cost,
        state.iter
    );
    state.best_param.unwrap()
}

/// A test a solver: within so many iterations it is at the minimum of Rosenbrock's function and of
/// a quadratic one, and the answer is a model with its tie and its frozen leaf. The factor says how
/// narrow Rosenbrock's valley is: 100 is his own, and takes thousands of steps of those that go
/// straight downhill.
macro_rules! finds_the_minimum {
    ($($name:ident: $solver:expr, $iterations:expr, $factor:expr;)*) => {$(
        #[test]
        fn $name() {
            let mut model = Rosenbrock::new(2);
            model.ab[1] = $factor;
            let (start, layout) = destructure(&model).unwrap();
            let loss = objective(&layout, &model, Rosenbrock::evaluate).unwrap();
            let point = solve(&loss, $solver(&start), &start, 1e-7, $iterations);
            let found = loss.into_model(&point).unwrap();
            assert_abs_diff_eq!(layout.gather(&found).unwrap()[..], [1.0, 1.0, 1.0, 1.0], epsilon = 1e-3);
            assert!(Rc::ptr_eq(&found.x, &found.again));
            assert_eq!(found.ab, arr1(&[1.0, $factor]));

            let model = Quadratic::new(3);
            let (start, layout) = destructure(&model).unwrap();
            let loss = objective(&layout, &model, Quadratic::evaluate).unwrap();
            let point = solve(&loss, $solver(&start), &start, 6.0 + 1e-7, $iterations);
            let found = loss.into_model(&point).unwrap();
            assert_abs_diff_eq!(layout.gather(&found).unwrap()[..], [2.0, 2.0, 2.0, 0.0], epsilon = 1e-3);
            assert!(Rc::ptr_eq(&found.x, &found.again));
            assert_eq!(found.c, arr1(&[1.0, 2.0, 3.0]));
        }
    )*};
}

finds_the_minimum! {
    lbfgs_by_more_and_thuente: |_: &_| LBFGS::new(more_thuente(), 7), 50, 100.0;
    lbfgs_by_hager_and_zhang: |_: &_| LBFGS::new(hager_zhang(), 7), 50, 100.0;
    lbfgs_by_backtracking: |_: &_| LBFGS::new(backtracking(), 7), 50, 100.0;
    conjugate_gradients_of_polak_and_ribiere: |_: &_| conjugate_gradients(PolakRibiere::new()), 100, 100.0;
    conjugate_gradients_of_polak_and_ribiere_never_below_zero: |_: &_| conjugate_gradients(PolakRibierePlus::new()), 100, 100.0;
    conjugate_gradients_of_fletcher_and_reeves: |_: &_| conjugate_gradients(FletcherReeves::new()), 200, 100.0;
    conjugate_gradients_of_hestenes_and_stiefel: |_: &_| conjugate_gradients(HestenesStiefel::new()), 100, 100.0;
    steepest_descent: |_: &_| SteepestDescent::new(more_thuente()), 500, 4.0;
    trust_region_by_steihaug: |_: &_| TrustRegion::new(Steihaug::new()).with_radius(10.0).unwrap(), 50, 100.0;
    trust_region_by_cauchy_point: |_: &_| TrustRegion::new(CauchyPoint::new()).with_radius(10.0).unwrap(), 500, 4.0;
    newton_cg: |_: &_| NewtonCG::new(more_thuente()), 500, 4.0;
    nelder_and_mead: |start: &_| NelderMead::new(simplex(start)), 1000, 100.0;
}

#[test]
fn landweber_walks_down_a_quadratic() {
    let model = Quadratic::new(3);
    let (start, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, Quadratic::evaluate).unwrap();
    let configure = |state: IterState<FlatVec, FlatVec, (), (), (), f64>| {
        state.param(start.into()).max_iters(200)
    };
    let state = Executor::new(&loss, Landweber::new(0.1))
        .configure(configure)
        .run()
        .unwrap()
        .state;
    assert_abs_diff_eq!(
        state.param.unwrap()[..],
        [2.0, 2.0, 2.0, 0.0],
        epsilon = 1e-5
    );
    assert_eq!(loss.evaluations(), 200);
}

#[test]
fn the_l1_form_of_lbfgs_ends_at_exact_zeros() {
    // ½‖x − m‖² + ‖x‖₁: m moved towards 0 by 1, and 0 where it would pass it.
    let model = tree!({ "x": [1.0, 1.0, -1.0, 0.0] });
    let (start, layout) = destructure(&model).unwrap();
    let m = FlatVec::from(vec![3.0, 0.5, -0.25, -2.0]);
    let loss = objective(&layout, &model, |model| {
        let offset: FlatVec = FlatVec::from(layout.gather(model)?).sub(&m);
        Ok::<_, flatleaf::Error>((0.5 * offset.dot(&offset), tree!({ "x": (offset.to_vec()) })))
    })
    .unwrap();
    let solver = LBFGS::new(
        BacktrackingLineSearch::new(ArmijoCondition::new(1e-4).unwrap()),
        7,
    )
    .with_l1_regularization(1.0)
    .unwrap();
    let point = solve(&loss, solver, &start, 4.15625 + 1e-6, 50);
    assert_abs_diff_eq!(point[..], [2.0, 0.0, 0.0, -1.0], epsilon = 1e-3);
    assert_eq!(point[1..3], [0.0, 0.0]);
}

#[test]
fn a_model_of_f64_is_solved_in_f64() {
    let model = (vec![-1.2_f64], vec![1.0_f64]);
    let (start, layout) = destructure_as::<f64>(&model).unwrap();
    let loss = objective_f64(&layout, &model, |(x, y)| {
        let (x, valley) = (x[0], y[0] - x[0] * x[0]);
        (
            (1.0 - x).powi(2) + 100.0 * valley.powi(2),
            (
                vec![-2.0 * (1.0 - x) - 400.0 * valley * x],
                vec![200.0 * valley],
            ),
        )
    })
    .unwrap();
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 7);
    let configure =
        |state: IterState<Vec<f64>, Vec<f64>, (), (), (), f64>| state.param(start).max_iters(100);
    let state = Executor::new(&loss, solver)
        .configure(configure)
        .run()
        .unwrap()
        .state;
    let (x, y) = loss.into_model(&state.best_param.unwrap()).unwrap();
    assert_abs_diff_eq!([x[0], y[0]][..], [1.0, 1.0], epsilon = 1e-7);
}

#[test]
fn a_loss_and_its_gradient_cost_one_evaluation() {
    let model = Rosenbrock::new(1);
    let (start, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, Rosenbrock::evaluate).unwrap();
    let solver = LBFGS::new(more_thuente(), 7);
    let configure = |state: IterState<FlatVec, FlatVec, (), (), (), f64>| {
        state.param(start.into()).max_iters(10)
    };
    let problem = Executor::new(&loss, solver)
        .configure(configure)
        .run()
        .unwrap()
        .problem;
    assert_eq!(loss.evaluations() as u64, problem.counts["cost_count"]);
    assert!(problem.counts["gradient_count"] > problem.counts["cost_count"]);
}

#[test]
fn a_product_of_the_hessian_is_good_to_four_digits() {
    let model = Rosenbrock::new(1);
    let (_, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, Rosenbrock::evaluate).unwrap();
    let hessian = (&loss).hessian(&vec![-1.2, 1.0].into()).unwrap();
    // 2 + 8bx² − 4b(y − x²) = 1330, −4bx = 480; 2b = 200
    let product: FlatVec = hessian.clone().dot(&vec![1.0, 2.0].into());
    assert_abs_diff_eq!(product[..], [1330.0 + 960.0, 480.0 + 400.0], epsilon = 0.2);
    let small: FlatVec = hessian.dot(&vec![1e-20, 2e-20].into());
    assert_abs_diff_eq!(
        small.iter().map(|x| x * 1e20).collect::<Vec<_>>()[..],
        product[..],
        epsilon = 1e-3
    );
    let none: FlatVec = hessian.dot(&vec![0.0, 0.0].into());
    assert_eq!(*none, [0.0, 0.0]);
}

/// (x − 1)², with an error or a NaN in the gradient where x > 2.
fn refusing(
    x: f32,
    refusal: Result<f32, flatleaf::Error>,
) -> Result<(f32, flatleaf::DynTree), flatleaf::Error> {
    let slope = if x > 2.0 { refusal? } else { 2.0 * (x - 1.0) };
    Ok(((x - 1.0) * (x - 1.0), tree!({ "x": (vec![slope]) })))
}

#[test]
fn an_error_ends_the_solver_and_comes_out_of_it() {
    let model = tree!({ "x": [-1.0] });
    let (start, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, |model| {
        refusing(
            layout.gather(model)?[0],
            Err(flatleaf::Error::custom("too far")),
        )
    })
    .unwrap();
    let configure = |state: IterState<FlatVec, FlatVec, (), (), (), f64>| {
        state.param(start.into()).max_iters(10)
    };
    let error = Executor::new(&loss, SteepestDescent::new(more_thuente()))
        .configure(configure)
        .run()
        .err()
        .unwrap();
    assert_eq!(error.to_string(), "too far");
    assert!(error.downcast_ref::<flatleaf::Error>().unwrap().is_custom());
}

#[test]
fn lbfgs_reports_an_error_in_its_line_search_as_an_exit() {
    let model = tree!({ "x": [-1.0] });
    let (start, layout) = destructure(&model).unwrap();
    let loss = objective(&layout, &model, |model| {
        refusing(
            layout.gather(model)?[0],
            Err(flatleaf::Error::custom("too far")),
        )
    })
    .unwrap();
    let configure = |state: IterState<FlatVec, FlatVec, (), (), (), f64>| {
        state.param(start.into()).max_iters(10)
    };
    let state = Executor::new(&loss, LBFGS::new(more_thuente(), 7))
        .configure(configure)
        .run()
        .unwrap()
        .state;
    let exit = TerminationReason::SolverExit("Line search terminated with: 'too far'".into());
    assert_eq!(
        state.termination_status,
        TerminationStatus::Terminated(exit)
    );
}

#[test]
fn a_failed_product_of_the_hessian_is_zero_and_the_error_comes_next() {
    let model = tree!({ "x": [1.999] });
    let (start, layout) = destructure(&model).unwrap();
    let start = FlatVec::from(start);
    let failed = |refusal: Result<f32, flatleaf::Error>| {
        let loss = objective(&layout, &model, |model| {
            refusing(layout.gather(model)?[0], refusal.clone())
        })
        .unwrap();
        let product: FlatVec = (&loss).hessian(&start).unwrap().dot(&vec![1.0].into());
        assert_eq!(*product, [0.0]);
        let error = (&loss).cost(&start).unwrap_err();
        assert!((&loss).cost(&start).is_ok());
        error.downcast::<flatleaf::Error>().unwrap()
    };
    assert!(failed(Err(flatleaf::Error::custom("too far"))).is_custom());
    let error = failed(Ok(f32::NAN));
    assert!(error.is_non_finite());
    assert_eq!(error.path(), Some("x"));
    // Steihaug's method would go on for ever with NaN.
    let loss = objective(&layout, &model, |model| {
        refusing(layout.gather(model)?[0], Ok(f32::NAN))
    })
    .unwrap();
    let configure = |state: IterState<FlatVec, FlatVec, (), _, (), f64>| {
        state.param(start.clone()).max_iters(10)
    };
    let error = Executor::new(&loss, TrustRegion::new(Steihaug::new()))
        .configure(configure)
        .run()
        .err()
        .unwrap();
    assert!(error.downcast::<flatleaf::Error>().unwrap().is_non_finite());
}

#[test]
fn arithmetic_is_that_of_f64_rounded_once() {
    for len in (0..40).chain([100_000]) {
        let x: FlatVec = (0..len)
            .map(|i| (i as f32 * 0.7).sin())
            .collect::<Vec<_>>()
            .into();
        let y: FlatVec = (0..len)
            .map(|i| (i as f32 * 1.3).cos())
            .collect::<Vec<_>>()
            .into();
        let each = |f: &dyn Fn(f64, f64) -> f64| {
            FlatVec::from(
                x.iter()
                    .zip(&*y)
                    .map(|(&x, &y)| f(x.into(), y.into()) as f32)
                    .collect::<Vec<_>>(),
            )
        };
        let (a, factor) = (1e-3, 0.1_f64);
        assert_eq!(x.add(&y), each(&|x, y| x + y));
        assert_eq!(x.sub(&y), each(&|x, y| x - y));
        assert_eq!(
            ArgminMul::<FlatVec, FlatVec>::mul(&x, &y),
            each(&|x, y| x * y)
        );
        assert_eq!(
            ArgminDiv::<FlatVec, FlatVec>::div(&x, &y),
            each(&|x, y| x / y)
        );
        assert_eq!(ArgminAdd::<f64, FlatVec>::add(&x, &a), each(&|x, _| x + a));
        assert_eq!(ArgminSub::<f64, FlatVec>::sub(&x, &a), each(&|x, _| x - a));
        assert_eq!(
            ArgminMul::<f64, FlatVec>::mul(&x, &factor),
            each(&|x, _| x * factor)
        );
        assert_eq!(
            ArgminDiv::<f64, FlatVec>::div(&x, &factor),
            each(&|x, _| x / factor)
        );
        assert_eq!(
            ArgminMul::<FlatVec, FlatVec>::mul(&factor, &x),
            each(&|x, _| x * factor)
        );
        let rounded = |x: f64| f64::from(x as f32);
        assert_eq!(
            x.scaled_add(&factor, &y),
            each(&|x, y| x + rounded(factor * y))
        );
        assert_eq!(
            x.scaled_sub(&factor, &y),
            each(&|x, y| x - rounded(factor * y))
        );
        assert_eq!(FlatVec::min(&x, &y), each(&f64::min));
        assert_eq!(FlatVec::max(&x, &y), each(&f64::max));
        assert_eq!(x.clone().signum(), each(&|x, _| x.signum()));
        assert_eq!((x.conj(), x.zero_like()), (x.clone(), each(&|_, _| 0.0)));
        let pairs = || {
            x.iter()
                .zip(&*y)
                .map(|(&x, &y)| (f64::from(x), f64::from(y)))
        };
        let tolerance = 1e-9 * (1.0 + len as f64);
        assert_abs_diff_eq!(
            ArgminDot::<FlatVec, f64>::dot(&x, &y),
            pairs().map(|(x, y)| x * y).sum(),
            epsilon = tolerance
        );
        assert_abs_diff_eq!(
            x.l1_norm(),
            pairs().map(|(x, _)| x.abs()).sum(),
            epsilon = tolerance
        );
        assert_abs_diff_eq!(
            x.l2_norm(),
            pairs().map(|(x, _)| x * x).sum::<f64>().sqrt(),
            epsilon = tolerance
        );
    }
}

#[test]
fn nan_is_never_lost() {
    let (x, nan) = (FlatVec::from(vec![1.0]), FlatVec::from(vec![f32::NAN]));
    for lost in [
        FlatVec::min(&x, &nan),
        FlatVec::min(&nan, &x),
        FlatVec::max(&x, &nan),
        FlatVec::max(&nan, &x),
        nan.clone().signum(),
    ] {
        assert!(lost[0].is_nan());
    }
}

#[test]
#[should_panic(expected = "expected slices of equal length, found 2 and 3 elements")]
fn vectors_of_unequal_lengths_panic() {
    let _: FlatVec = FlatVec::from(vec![1.0; 2]).add(&FlatVec::from(vec![1.0; 3]));
}

#[cfg(feature = "serde")]
#[test]
fn a_vector_is_stored_as_its_elements() {
    let x = FlatVec::from(vec![1.0, 2.5]);
    assert_eq!(serde_json::to_string(&x).unwrap(), "[1.0,2.5]");
    assert_eq!(serde_json::from_str::<FlatVec>("[1.0,2.5]").unwrap(), x);
}
