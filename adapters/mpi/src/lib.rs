//! flatleaf on several processes.
//!
//! Each process has a copy of the model and a part of the data. What they exchange is one flat
//! gradient a step: [`Mpi`] is a [`flatleaf::Communicator`] on MPI, and [`run`] starts it and ends it,
//! so that an error on one rank ends the whole job in place of leaving the others waiting.
//!
//! ```no_run
//! use flatleaf::optim::{AdamW, Optimizer};
//! use flatleaf::{Communicator, destructure};
//!
//! flatleaf_mpi::run(|communicator| -> flatleaf::Result<()> {
//!     let model = vec![1.0_f32, 2.0];
//!     let (mut flat, layout) = destructure(&model)?;
//!     communicator.check_layout(&layout)?;
//!     let mut optimizer = Optimizer::new(AdamW::default(), &layout)?;
//!     for _ in 0..10 {
//!         // The gradient of this rank's part of the batch, which has 32 examples.
//!         let mut grad = layout.gather_grad(&vec![0.1_f32, 0.2])?;
//!         communicator.mean(&mut grad, 32.0)?;
//!         optimizer.step(&mut flat, &grad)?;
//!     }
//!     Ok(())
//! });
//! ```
//!
//! Sums are taken in the order of the ranks, so they are the same bits on every MPI and the bits that
//! [`flatleaf::Threads`] gives. See the README for installing MPI and for running on several hosts.

mod communicator;
mod run;

pub use communicator::Mpi;
pub use run::run;
