//! Chance that comes out the same for the same seed, and the texts that nobody would write.

use serde_json::{Value, json};

/// xorshift64*: enough to choose by.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(value).unwrap() % sides
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.roll(from.len())]
    }

    pub(super) fn text(&mut self) -> String {
        let texts = [
            "",
            " ",
            "ok",
            "ghost",
            "start",
            "logout",
            "6281234567890",
            "+62 812-3456",
            "120363012345678901@g.us",
            "a@b@c",
            "\u{0}",
            "caf\u{e9} \u{1f600}",
            "\u{202e}rtl",
            "../../etc/passwd",
            "%00%ff",
            "<script>",
            "'; --",
            "true",
            "1",
            "null",
            "http://127.0.0.1:1/x",
            "data:text/plain;base64,aGk=",
            "ftp://x/y",
            "x.pdf",
            "-",
        ];
        match self.roll(20) {
            0 => "x".repeat(self.roll(3000)),
            1 => "\u{1f600}".repeat(self.roll(500)),
            _ => self.pick(&texts).to_owned(),
        }
    }

    pub(super) fn value(&mut self, depth: usize) -> Value {
        match self.roll(if depth > 2 { 5 } else { 8 }) {
            0 => Value::Null,
            1 => json!(self.roll(2) == 0),
            2 => json!([0, -1, 1, 6_281_234_567_890_i64, i64::MIN, i64::MAX][self.roll(6)]),
            3 => json!([0.5, -0.0, 1e300][self.roll(3)]),
            5 => json!([self.value(depth + 1)]),
            6 => json!({ self.text(): self.value(depth + 1) }),
            _ => json!(self.text()),
        }
    }
}
