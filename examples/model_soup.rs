//! How do I average several models (a model soup), and walk the line between two of them?
//!
//! `Layout::everything` has running statistics in the flat vector too: weights that are averaged
//! want statistics that are averaged.
//!
//! ```text
//! cargo run --example model_soup
//! ```

use flatleaf::Companion::Values;
use flatleaf::{Layout, Result, Tree, ops};
use ndarray::{Array1, Array2, Axis, arr1, s};

#[derive(Tree)]
struct Linear {
    #[tree(frozen)]
    mean: Array1<f32>,
    weight: Array1<f32>,
    #[tree(param)]
    bias: f32,
}

fn main() -> Result<()> {
    let (x, y) = data();
    let models = [0, 1, 2].map(|k| {
        Linear::fit(
            &x.slice(s![k..; 3, ..]).to_owned(),
            &y.slice(s![k..; 3]).to_owned(),
        )
    });
    let [a, b, _] = &models;

    let alone = models.each_ref().map(|model| model.loss(&x, &y));
    let soup = average(&models)?;
    println!("loss of three models, each fitted to a third of the data  {alone:.4?}");
    println!(
        "loss of their average                                     {:.4}\n",
        soup.loss(&x, &y)
    );

    println!("from the first to the second\n    w    loss");
    for w in [-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5] {
        println!("{w:5.2}  {:.4}", between(a, b, w)?.loss(&x, &y));
    }

    assert!(alone.iter().all(|&loss| soup.loss(&x, &y) < loss));
    let layout = Layout::everything(a)?;
    assert_eq!(layout.gather(&between(a, b, 0.0)?)?, layout.gather(a)?); // both ends are exact
    assert_eq!(layout.gather(&between(a, b, 1.0)?)?, layout.gather(b)?);
    approx::assert_relative_eq!(
        soup.mean[0],
        models.iter().map(|model| model.mean[0]).sum::<f32>() / 3.0,
        max_relative = 1e-6
    );
    Ok(())
}

fn average(models: &[Linear]) -> Result<Linear> {
    let layout = Layout::everything(&models[0])?;
    let mut mean = vec![0.0; layout.len()];
    for model in models {
        ops::axpy(&mut mean, 1.0 / models.len() as f32, &layout.gather(model)?);
    }
    layout.restructure(&models[0], &mean)
}

/// The point at `w` of the line that is at `a` for 0 and at `b` for 1.
fn between(a: &Linear, b: &Linear, w: f32) -> Result<Linear> {
    Layout::everything(a)?.map(a, [Values(b)], |_, x, [y]| ops::lerp(x, y, w))
}

/// A line with noise.
fn data() -> (Array2<f32>, Array1<f32>) {
    let x = Array2::from_shape_fn((30, 2), |(row, column)| {
        (row as f32 * (1.7 + column as f32)).sin() + 3.0
    });
    let noise = Array1::from_shape_fn(30, |row| 0.5 * (row as f32 * 12.9898).sin());
    (x.clone(), x.dot(&arr1(&[2.0, -1.0])) + 0.5 + noise)
}

impl Linear {
    /// Gradient descent from zero.
    fn fit(x: &Array2<f32>, y: &Array1<f32>) -> Linear {
        let mut model = Linear {
            mean: x.mean_axis(Axis(0)).expect("rows"),
            weight: Array1::zeros(x.ncols()),
            bias: 0.0,
        };
        for _ in 0..200 {
            let delta = (model.predict(x) - y) / y.len() as f32;
            model.weight -= &(0.5 * (x - &model.mean).t().dot(&delta));
            model.bias -= 0.5 * delta.sum();
        }
        model
    }

    fn predict(&self, x: &Array2<f32>) -> Array1<f32> {
        (x - &self.mean).dot(&self.weight) + self.bias
    }

    fn loss(&self, x: &Array2<f32>, y: &Array1<f32>) -> f32 {
        (self.predict(x) - y)
            .mapv(|error| error * error)
            .mean()
            .expect("rows")
    }
}
