//! The gateway in each home.

pub mod app;
pub mod attempts;
pub mod cameras;
pub mod catalog;
pub mod config;
pub mod devices;
pub mod exchange;
pub mod home_assistant;
pub mod library;
pub mod link;
pub mod media_server;
pub mod playback;
pub mod recording;
pub mod rights;
pub mod updates;
pub mod uploads;
pub mod web;
pub mod zone;
