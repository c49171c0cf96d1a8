//! The forms that values take in Baileys' JSON.
//!
//! Bytes are `{"type":"Buffer","data":…}` with base64 or with numbers, an object or a list of numbers, or just base64 where
//! protobufjs wrote them; large numbers are numbers, text, or protobufjs' `{"low","high","unsigned"}`
//! (WhiskeySockets/Baileys, `Utils/generics`).

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Node reads base64 with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes of base64.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// Bytes in any of the forms.
#[derive(Clone, Default)]
pub(super) struct Binary(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BinaryVisitor)
    }
}

struct BinaryVisitor;

impl<'de> Visitor<'de> for BinaryVisitor {
    type Value = Binary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Binary, E> {
        base64(text).map(Binary).ok_or_else(|| E::custom("no base64"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Binary, A::Error> {
        let mut bytes = Vec::with_capacity(list.size_hint().unwrap_or(32));
        while let Some(byte) = list.next_element()? {
            bytes.push(byte);
        }
        Ok(Binary(bytes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Binary, A::Error> {
        let (mut numbered, mut data) = (Vec::new(), None);
        while let Some(name) = members.next_key::<String>()? {
            if name == "data" {
                data = Some(members.next_value::<Binary>()?);
            } else if let Ok(place) = name.parse::<usize>() {
                if place != numbered.len() {
                    return Err(A::Error::custom("bytes are missing"));
                }
                numbered.push(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        data.or_else(|| (!numbered.is_empty()).then_some(Binary(numbered))).ok_or_else(|| A::Error::custom("no bytes"))
    }
}

/// A whole number in any of the forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Number(pub(super) i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Plain(i64),
            Text(String),
            Halves { low: i64, high: i64 },
        }
        match Form::deserialize(deserializer)? {
            Form::Plain(number) => Ok(Self(number)),
            Form::Text(text) => text.parse().map(Self).map_err(D::Error::custom),
            Form::Halves { low, high } => Ok(Self((high << 32) | (low & 0xffff_ffff))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_in_every_form() {
        for json in [
            r#"{"type":"Buffer","data":"AQID"}"#,
            r#"{"type":"Buffer","data":[1,2,3]}"#,
            r#"{"0":1,"1":2,"2":3}"#,
            "[1,2,3]",
            r#""AQID""#,
        ] {
            assert_eq!(serde_json::from_str::<Binary>(json).unwrap().0, [1, 2, 3], "{json}");
        }
        assert_eq!(serde_json::from_str::<Binary>(r#""AQI""#).unwrap().0, [1, 2], "without padding");
        for json in [r#""%%""#, "{}", r#"{"1":2}"#, "[256]", "7", "null", r#"{"type":"Buffer"}"#] {
            assert!(serde_json::from_str::<Binary>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn numbers_are_read_in_every_form() {
        for json in ["4294967298", r#""4294967298""#, r#"{"low":2,"high":1,"unsigned":false}"#] {
            assert_eq!(serde_json::from_str::<Number>(json).unwrap().0, 4_294_967_298, "{json}");
        }
        assert_eq!(serde_json::from_str::<Number>(r#"{"low":-1,"high":0}"#).unwrap().0, 0xffff_ffff);
        assert!(serde_json::from_str::<Number>(r#""soon""#).is_err());
    }
}
