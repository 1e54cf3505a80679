//! What the names crate promises, on vectors of others and on made-up bytes.

mod choose;
mod foreign;
mod hand_over;
mod head;
mod heads;
mod ipns;
mod paths;
mod summary;
