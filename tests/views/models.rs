//! The model of most tests here: a tie, a frozen leaf, a list, an option, a skipped field, a setting.

use std::sync::Arc;

use flatleaf::Tree;
use ndarray::{Array1, Array2, arr1, arr2};

#[derive(Tree)]
#[tree(view)]
pub(crate) struct Dense {
    pub(crate) weight: Array2<f32>,
    pub(crate) bias: Option<Array1<f32>>,
}

#[derive(Tree)]
#[tree(view)]
pub(crate) struct Net {
    pub(crate) embed: Arc<Array2<f32>>,
    pub(crate) layers: Vec<Dense>,
    #[tree(frozen)]
    pub(crate) mean: Array1<f32>,
    #[tree(skip)]
    pub(crate) act: fn(f32) -> f32,
    pub(crate) head: Arc<Array2<f32>>,
    pub(crate) eps: f32,
}

/// The flat vector is 1 to 8.
pub(crate) fn net() -> Net {
    let embed = Arc::new(arr2(&[[1.0, 2.0], [3.0, 4.0]]));
    Net {
        embed: embed.clone(),
        layers: vec![
            Dense {
                weight: arr2(&[[5.0, 6.0]]),
                bias: Some(arr1(&[7.0])),
            },
            Dense {
                weight: arr2(&[[8.0]]),
                bias: None,
            },
        ],
        mean: arr1(&[0.5]),
        act: f32::abs,
        head: embed,
        eps: 1e-5,
    }
}
