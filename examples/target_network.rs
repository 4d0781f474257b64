//! How do I keep a target network: a soft update, Polyak averaging, an exponential moving average
//! of a model?
//!
//! `target ← (1−τ)·target + τ·policy` for what is trained, a plain copy of what is not (running
//! statistics, counters).
//!
//! ```text
//! cargo run --example target_network
//! ```

use std::sync::{Arc, Mutex};

use flatleaf::Companion::Values;
use flatleaf::{Layout, Result, Tree, deep_clone, ops};
use ndarray::{Array1, Array2};

const TAU: f32 = 0.1;
const STEPS: u64 = 50;

#[derive(Clone, Tree)]
struct Policy {
    trunk: Arc<Mutex<Array2<f32>>>, // locked, since a thread that acts reads it too
    head: Array1<f32>,
    #[tree(frozen)]
    mean: Array1<f32>,
    seen: Vec<u64>,
}

fn main() -> Result<()> {
    let trunk = Arc::new(Mutex::new(Array2::zeros((2, 3))));
    let mut policy = Policy {
        trunk,
        head: Array1::zeros(3),
        mean: Array1::zeros(2),
        seen: vec![0],
    };
    let layout = Layout::of(&policy)?;

    // `clone` copies the pointer to the lock: that trunk moves with the policy's, and there is
    // nothing to average.
    let (clone, mut target) = (policy.clone(), deep_clone(&policy)?);
    assert!(Arc::ptr_eq(&clone.trunk, &policy.trunk) && !Arc::ptr_eq(&target.trunk, &policy.trunk));

    println!("step  policy  target");
    for step in 1..=STEPS {
        learn(&mut policy);
        soft_update(&layout, &mut target, &policy)?;
        if step % 10 == 0 {
            println!("{step:4}  {:6.3}  {:6.3}", policy.head[0], target.head[0]);
        }
    }

    // The policy moves by 1 a step, so the target's lag goes to (1−τ)/τ = 9.
    let lag = (1.0 - TAU) / TAU * (1.0 - (1.0 - TAU).powi(STEPS as i32));
    let (trained, averaged) = (layout.gather(&policy)?, layout.gather(&target)?);
    assert_eq!(trained, vec![STEPS as f32; layout.len()]);
    approx::assert_relative_eq!(
        *averaged,
        *vec![STEPS as f32 - lag; layout.len()],
        max_relative = 1e-5
    );
    assert_eq!((&target.mean, &target.seen), (&policy.mean, &policy.seen));
    Ok(())
}

/// For a large model, `par_map_into` shares the leaves among all threads.
fn soft_update(layout: &Layout, target: &mut Policy, policy: &Policy) -> Result<()> {
    layout.map_into(target, [Values(policy)], |_, t, [p]| ops::lerp(t, p, TAU))?;
    layout.copy_frozen(policy, target)
}

/// Stands for a step of training.
fn learn(policy: &mut Policy) {
    *policy.trunk.lock().unwrap() += 1.0;
    policy.head += 1.0;
    policy.mean += 0.25;
    policy.seen[0] += 32;
}
