//! The people of a story: a [`Household`] at its gateway's pages, an [`Operator`] at the server's console, and the
//! [`Site`] with both homes and the server, each a real program. They use the pages' forms, as a browser would.

mod household;
mod operator;
mod site;

pub use household::{Household, Status, status};
pub use operator::Operator;
pub use site::{GatewayHandle, Site, SiteBuilder, free_of};
