//! monopod
fn main() {}
