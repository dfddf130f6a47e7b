//! What the gateway reads from players, from other homes' gateways and from the household's broker, taken in as source;
//! see `library`.

macro_rules! of_the_gateway {
    ($($path:literal as $name:ident;)*) => {
        $(
            #[path = $path]
            #[allow(dead_code, unreachable_pub, reason = "the fuzzer needs a part of it")]
            pub mod $name;
        )*
    };
}

of_the_gateway! {
    "../../../gateway/src/media_server/soap.rs" as soap;
    "../../../gateway/src/media_server/search.rs" as search;
    "../../../gateway/src/media_server/object.rs" as object;
    "../../../gateway/src/playback/range.rs" as range;
    "../../../gateway/src/home_assistant/discovery.rs" as home_assistant;
    "../../../gateway/src/exchange/wire.rs" as frames;
}

/// First byte and the byte past the last of the part that a Range header asks for.
pub fn part(header: &str, size: u64) -> Option<(u64, u64)> {
    match range::wanted(Some(header), size) {
        range::Wanted::Part { start, end } => Some((start, end)),
        range::Wanted::Whole | range::Wanted::Unsatisfiable => None,
    }
}
