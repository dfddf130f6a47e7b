//! The server as gateways see it: over its real HTTPS listener on loopback, with real keys and signatures.

mod enrolment;
mod hostile;
mod lab;
mod life;
mod refusals;
mod restart;
mod rules;
mod sums;
mod wires;
