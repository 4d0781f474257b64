use flatleaf::optim::{Optimizer, Sgd};
use flatleaf::{FlatGrad, Layout};

fn main() {
    let mut model = vec![1.0_f32];
    let layout = Layout::of(&model).unwrap();
    let grad = FlatGrad::from_flat(&layout, vec![0.5]).unwrap();
    let mut optimizer = Optimizer::new(Sgd::default(), &layout).unwrap();
    optimizer.update(&mut model, &grad).unwrap();
}
