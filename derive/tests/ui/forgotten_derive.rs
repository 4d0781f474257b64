struct Dense {
    weight: Vec<f32>,
}

fn main() {
    let model = vec![Dense { weight: vec![1.0] }];
    let _ = flatleaf::destructure(&model);
}
