//! QR codes as SVG, black on white whatever the page's colours: cameras want contrast.

use qrcode::{Color, EcLevel, QrCode};
use std::fmt::Write;

/// The white border that readers need, in modules (ISO/IEC 18004 §6.3.8).
const QUIET: usize = 4;

/// A text's QR code; empty where the text is too long for one (about 2,300 bytes).
pub(super) fn svg(text: &str) -> String {
    let Ok(code) = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::M) else {
        return String::new();
    };
    let (width, size) = (code.width(), code.width() + 2 * QUIET);
    let mut path = String::new();
    for (at, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            let (x, y) = (at % width + QUIET, at / width + QUIET);
            let _ = write!(path, "M{x} {y}h1v1h-1z");
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\" role=\"img\" aria-label=\"QR code of the \
         link\" shape-rendering=\"crispEdges\"><path fill=\"#fff\" d=\"M0 0h{size}v{size}H0z\"/><path fill=\"#000\" \
         d=\"{path}\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_no_text_and_gives_up_on_long_ones() {
        let drawn = svg("https://box:8443/claim/ABCD<script>");
        assert!(drawn.starts_with("<svg") && !drawn.contains("script"));
        assert_eq!(svg(&"x".repeat(5_000)), "");
    }
}
