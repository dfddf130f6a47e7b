//! The relaying server of Mantel: one process with these parts.
//!
//! - [`customers`]: accounts, homes, claim codes, the operator's log-in. [`directory`]: where each home is (F5, F6).
//! - [`catalog`]: what is offered, to whom, at what price. [`restrictions`]: the rules (F17).
//! - [`orders`]: from order to receipt: a pure decider and one transaction per step. [`ledger`]: the money (F14).
//! - [`passes`] and [`vault`]: the paid right to a title, and the keys that it opens (F25).
//! - [`releases`]: versions of the appliance and which home is offered which.
//! - [`relay`]: joins two homes that cannot reach each other (F8). [`bus`]: MQTT, "look again".
//! - [`api`]: the HTTPS API for gateways. [`console`]: the operator's pages.
//! - [`state`]: all of it in one value, [`state::Core`]. [`app`]: start and ordered stop.
//!
//! Edges point down: `app → api, console → state → orders → vault, passes, ledger, restrictions, catalog, releases,
//! directory → customers → error, db, notice, limit, identity`. `relay` and `bus` know none of the parts above them.

pub mod api;
pub mod app;
pub mod bus;
pub mod catalog;
pub mod config;
pub mod console;
pub mod customers;
pub mod db;
pub mod directory;
pub mod error;
pub mod identity;
pub mod ledger;
pub mod limit;
pub mod notice;
pub mod orders;
pub mod passes;
pub mod relay;
pub mod releases;
pub mod restrictions;
pub mod state;
pub mod vault;
