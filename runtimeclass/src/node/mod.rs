//! The node agent: turns records in the spool into events on pods. Serves no container and decides nothing about one.
//!
//! Each record is folded into a series (desired); `plan` compares the series with what was written to the API
//! (observed) and says what to write now; `api` writes it. Both sides and the spool's positions are one document on
//! disk: a record counts as read only together with the series that counted it, so that a restart loses and doubles none.

mod agent;
mod api;
mod cursor;
mod event;
mod plan;
mod series;

pub(crate) use agent::{Settings, run};

#[cfg(test)]
mod tests;
