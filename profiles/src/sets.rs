//! Set algebra of what can be granted: union, intersection and difference of paths, ports and addresses.
//!
//! Every kind has one normal form, so that two sets are equal exactly when they grant the same.

mod network;
mod paths;
mod ranges;

pub(crate) use network::Reach;
pub(crate) use paths::{narrowed, overlapping, topmost};
pub(crate) use ranges::Ranges;
