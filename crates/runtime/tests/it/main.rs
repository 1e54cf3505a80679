//! What the runtime promises to the crates above it. Time is paused throughout.

mod backoff;
mod budget;
mod rate;
mod tasks;
