//! How do I write an optimiser of my own?
//!
//! A configuration, the names of the vectors it keeps, and a kernel over slices. Here: Yogi (Zaheer
//! et al., *Adaptive methods for nonconvex optimization*, 2018), which is Adam with a second moment
//! that moves by steps of fixed size, so that one small gradient does not wipe out what was
//! learned. Both run on Rosenbrock's valley, in chains with stages that are there.
//!
//! `cargo run --release --example own_rule`

use flatleaf::optim::{
    Adam, ClipNorm, Kernel, Optimizer, Rule, check_decay_rates, check_eps, check_non_negative,
    each, sign,
};
use flatleaf::{Layout, Result, Tree};

/// ```text
/// m ← β₁·m + (1 − β₁)·g
/// v ← v − (1 − β₂)·sign(v − g²)·g²
/// x ← x − lr · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + eps)
/// ```
#[derive(Clone, PartialEq)]
struct Yogi {
    lr: f64,
    betas: (f64, f64),
    eps: f64,
}

impl Rule for Yogi {
    fn validate(&self) -> Result<()> {
        check_non_negative("lr", self.lr)?;
        check_decay_rates("betas", self.betas)?;
        check_eps("eps", self.eps)
    }

    fn states(&self) -> Vec<&'static str> {
        vec!["exp_avg", "exp_avg_sq"]
    }

    fn kernel(&self, step: u64) -> impl Kernel {
        // Numbers stay f64 until they meet a vector.
        let bias = |beta: f64| 1.0 - beta.powf(step as f64);
        let (beta1, fresh1, fresh2) = (
            self.betas.0 as f32,
            (1.0 - self.betas.0) as f32,
            (1.0 - self.betas.1) as f32,
        );
        let (rate, correction) = (
            (self.lr / bias(self.betas.0)) as f32,
            bias(self.betas.1).sqrt().recip() as f32,
        );
        let eps = self.eps as f32;
        each(move |_x, g, [m, v]| {
            *m = beta1 * *m + fresh1 * g;
            *v -= fresh2 * sign(*v - g * g) * g * g;
            rate * *m / (v.sqrt() * correction + eps)
        })
    }

    fn lr_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.lr)
    }
}

/// A point of the plane, as a tree.
#[derive(Tree, Clone)]
struct Point {
    x: [f32; 1],
    y: [f32; 1],
}

impl Point {
    fn height(&self) -> f32 {
        (1.0 - self.x[0]).powi(2) + 100.0 * (self.y[0] - self.x[0].powi(2)).powi(2)
    }

    fn slope(&self) -> Point {
        let across = self.y[0] - self.x[0].powi(2);
        Point {
            x: [-2.0 * (1.0 - self.x[0]) - 400.0 * self.x[0] * across],
            y: [200.0 * across],
        }
    }
}

/// The height after every hundredth of so many steps, and the last point.
fn descend<R: Rule>(rule: R, start: &Point, steps: usize) -> Result<(Vec<f32>, Point)> {
    let mut point = start.clone();
    let mut optimizer = Optimizer::new(rule, &Layout::of(&point)?)?;
    let mut heights = Vec::new();
    for step in 0..steps {
        if step % (steps / 100) == 0 {
            heights.push(point.height());
        }
        let slope = point.slope();
        optimizer.update(&mut point, &slope)?;
    }
    Ok((heights, point))
}

fn main() -> Result<()> {
    let start = Point {
        x: [-1.5],
        y: [2.0],
    };
    let clip = ClipNorm {
        max: 10.0,
        ..ClipNorm::default()
    };
    let yogi = Yogi {
        lr: 0.02,
        betas: (0.9, 0.999),
        eps: 1e-3,
    };
    let (of_yogi, end) = descend((clip, yogi), &start, 4000)?;
    let (of_adam, _) = descend(
        (
            clip,
            Adam {
                lr: 0.02,
                ..Adam::default()
            },
        ),
        &start,
        4000,
    )?;

    println!(
        "height above the valley's lowest point, (1, 1)\n\n   step          yogi          adam"
    );
    for row in [0, 5, 10, 20, 40, 60, 80, 99] {
        println!(
            "{:7}  {:12.3e}  {:12.3e}",
            row * 40,
            of_yogi[row],
            of_adam[row]
        );
    }
    println!("\nyogi ends at ({:.4}, {:.4})", end.x[0], end.y[0]);

    assert!((end.x[0] - 1.0).abs() < 1e-2 && (end.y[0] - 1.0).abs() < 2e-2);
    let refused = Optimizer::new(
        Yogi {
            lr: -1.0,
            betas: (0.9, 0.999),
            eps: 1e-3,
        },
        &Layout::of(&start)?,
    )
    .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "`lr`: expected a finite number of 0 or more, found -1"
    );
    Ok(())
}
