//! The relaying server of Mantel.

pub mod api;
pub mod app;
pub mod bus;
pub mod catalog;
pub mod config;
pub mod console;
pub mod customers;
pub mod directory;
pub mod ledger;
pub mod orders;
pub mod passes;
pub mod relay;
pub mod restrictions;
pub mod vault;
