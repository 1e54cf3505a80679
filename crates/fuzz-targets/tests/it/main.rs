//! The targets on the stable compiler: their seeds, what fuzzers found, and damaged seeds.

mod damage;
mod programs;
mod replay;
