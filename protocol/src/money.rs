//! Money: integer minor units and an ISO 4217 currency, never floating point.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An ISO 4217 alphabetic currency code, e.g. `EUR`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "EUR")]
pub struct Currency([u8; 3]);

impl Currency {
    /// The euro, the default of a new server.
    pub const EUR: Self = Self(*b"EUR");

    /// How many decimal digits the minor unit has (ISO 4217 exponent): 2 except for a few.
    pub fn exponent(self) -> u32 {
        match &self.0 {
            b"JPY" | b"KRW" | b"CLP" | b"ISK" | b"VND" | b"XAF" | b"XOF" => 0,
            b"BHD" | b"JOD" | b"KWD" | b"OMR" | b"TND" => 3,
            _ => 2,
        }
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked to be ASCII letters")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no currency code or amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not three capital letters.
    #[error("a currency is three capital letters, such as EUR")]
    Currency,
    /// Not an amount like 12.50.
    #[error("an amount looks like 12.50, without a sign")]
    Amount,
}

impl TryFrom<String> for Currency {
    type Error = MoneyError;
    fn try_from(text: String) -> Result<Self, MoneyError> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => Err(MoneyError::Currency),
        }
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> String {
        currency.as_str().to_owned()
    }
}

/// An amount of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Money {
    /// In the currency's minor unit (cents).
    pub minor: i64,
    /// Of which currency.
    pub currency: Currency,
}

impl Money {
    /// An amount in minor units.
    pub fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// Whether nothing is to be paid.
    pub fn is_zero(self) -> bool {
        self.minor == 0
    }

    /// Reads what a person typed into a price field: `12`, `12.5`, `12.50` or `12,50`.
    pub fn parse(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let text = text.trim().replace(',', ".");
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        let digits = currency.exponent() as usize;
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty()
            || whole.len() > 12
            || fraction.len() > digits
            || !plain(whole)
            || !plain(fraction)
        {
            return Err(MoneyError::Amount);
        }
        let padded = format!("{whole}{fraction:0<digits$}");
        padded
            .parse()
            .map(|minor| Self { minor, currency })
            .map_err(|_| MoneyError::Amount)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.currency.exponent();
        let scale = 10_i64.pow(digits);
        let sign = if self.minor < 0 { "-" } else { "" };
        let (whole, rest) = ((self.minor / scale).abs(), (self.minor % scale).abs());
        match digits {
            0 => write!(f, "{sign}{whole} {}", self.currency),
            _ => write!(
                f,
                "{sign}{whole}.{rest:0width$} {}",
                self.currency,
                width = digits as usize
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_amounts() {
        for (text, minor) in [("12", 1200), ("12.5", 1250), ("0,05", 5), (" 3.99 ", 399)] {
            assert_eq!(
                Money::parse(text, Currency::EUR),
                Ok(Money::new(minor, Currency::EUR))
            );
        }
        for text in ["", "-1", "1.234", "1e3", "9999999999999", "1.2.3", "abc"] {
            assert_eq!(
                Money::parse(text, Currency::EUR),
                Err(MoneyError::Amount),
                "{text}"
            );
        }
        assert_eq!(Money::new(-1205, Currency::EUR).to_string(), "-12.05 EUR");
        let yen = Currency::try_from("JPY".to_owned()).expect("a currency");
        assert_eq!(Money::new(300, yen).to_string(), "300 JPY");
    }
}
