//! placeholder
#[derive(Debug)]
pub struct Damage;
#[derive(Debug)]
pub struct FsckProgress;
#[derive(Debug)]
pub struct FsckReport;
