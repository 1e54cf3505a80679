//! The few forms of the protobuf wire format that dag-pb and UnixFS need.
//!
//! - Invariant: reading never allocates and never reads past its slice.
//! - Not here: what the fields mean (`crate::node`, `crate::unixfs`).

/// What is wrong with a foreign node, as a fragment for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flaw(pub(crate) &'static str);

/// One field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Reads the fields of one message in order.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field's number and value, `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Flaw> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = key >> 3;
        if field == 0 {
            return Err(Flaw("protobuf field number 0"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(usize::try_from(len).map_err(|_| CUT)?)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Flaw("unknown protobuf wire type")),
        };
        Ok(Some((field, value)))
    }

    /// Reads a varint of up to 10 bytes; longer spellings of small numbers are taken, as Go takes them.
    pub(crate) fn varint(&mut self) -> Result<u64, Flaw> {
        if let [byte @ ..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0u64;
        for (i, &byte) in self.0.iter().enumerate().take(10) {
            if i == 9 && byte > 1 {
                return Err(Flaw("varint over 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.0 = &self.0[i + 1..];
                return Ok(value);
            }
        }
        Err(CUT)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Flaw> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(CUT)?;
        self.0 = rest;
        Ok(head)
    }
}

const CUT: Flaw = Flaw("protobuf message cut short");

/// How many bytes `value` takes as a varint.
pub(crate) const fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Appends a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a varint field; `field` is below 16.
pub(crate) fn put_uint(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    put_varint(out, value);
}

/// Appends a field of bytes; `field` is below 16.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varint_length_is_what_is_written() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, (1u64 << shift) | 1] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
                assert_eq!(Fields(&out).varint(), Ok(value));
            }
        }
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        assert_eq!((out.len(), varint_len(u64::MAX)), (10, 10));
    }

    #[test]
    fn a_length_beyond_the_message_is_an_error() {
        assert_eq!(Fields(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]).next(), Err(CUT));
        assert_eq!(Fields(&[0x0a, 0x02, 0x00]).next(), Err(CUT));
        assert!(Fields(&[0x80; 11]).varint().is_err());
        assert!(
            Fields(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02])
                .varint()
                .is_err()
        );
    }
}
