use flatleaf::Layout;
use flatleaf::optim::{ClipValue, Kernel, Optimizer, Rule, each};

#[derive(Clone, PartialEq)]
struct Descent;

impl Rule for Descent {
    fn kernel(&self, _step: u64) -> impl Kernel {
        each(|_x, dx, []| dx)
    }
}

fn main() {
    let layout = Layout::of(&vec![1.0_f64]).unwrap();
    Optimizer::new_as::<f64>(Descent, &layout).unwrap();
    Optimizer::new_as::<f64>((ClipValue { max: 1.0 }, Descent), &layout).unwrap();
}
