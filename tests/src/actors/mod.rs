//! The people of a story: a [`Household`] at its gateway's pages, an [`Operator`] at the server's console, and the
//! [`Site`] with both homes and the server, each a real program. They use the pages' forms, as a browser would.
//! A [`Person`] does so at a real browser. Beside them an auditor ([`Books`]), observers that count bytes, and an [`Intruder`].

mod books;
mod household;
mod intruder;
mod observe;
mod operator;
mod person;
mod site;
mod stage;
pub mod status;

pub use books::{Books, Entry, GrantRow, OrderBooks, Sums};
pub use household::{Answer, Household};
pub use intruder::{Entered, Intruder, Loot};
pub use observe::{Counted, blob_file, recorded, sent_bytes, stored_bytes};
pub use operator::Operator;
pub use person::{Key, Person};
pub use site::{GatewayHandle, Site, SiteBuilder};
pub use stage::{Stage, refused};
pub use status::Status;
