//! The benchmarks' parts. `relay` starts and compares; `part` is one process under measurement; `plain` and `mantel` are
//! what such a process does; `syncthing` speaks to the rival. `dlna` compares media servers.

pub mod dlna;
pub mod mantel;
pub mod measure;
pub mod part;
pub mod plain;
pub mod relay;
pub mod syncthing;
