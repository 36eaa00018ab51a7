//! firstmile.
fn main() {}
