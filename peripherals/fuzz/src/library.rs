//! The gateway's words for lists and searches, taken in as source: linking the gateway would build a database, a web
//! server and a broker's client with the fuzzer's flags.

#[path = "../../../gateway/src/library/lists.rs"]
#[allow(dead_code, unreachable_pub, reason = "the fuzzer needs a part of it")]
pub mod shelf;
