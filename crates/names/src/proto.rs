//! Protobuf, as much as two small messages need: fields in, fields out.
//!
//! - Invariant: reading never allocates and never reads past the input.
//! - Not here: what the fields mean (`crate::record`, `crate::key`).

/// Bytes that are no protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message")]
pub struct ProtoError;

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed-width numbers, which none of our messages uses.
    Other,
}

/// The fields of a message in their order on the wire, unknown ones included.
pub(crate) fn fields(message: &[u8]) -> impl Iterator<Item = Result<(u64, Value<'_>), ProtoError>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = field(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Value<'a>), ProtoError> {
    let tag = varint(rest)?;
    let number = tag >> 3;
    if number == 0 || number > 0x1fff_ffff {
        return Err(ProtoError);
    }
    let value = match tag & 7 {
        0 => Value::Varint(varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Other)?,
        2 => {
            let len = varint(rest)?;
            Value::Bytes(take(rest, usize::try_from(len).map_err(|_| ProtoError)?)?)
        }
        5 => take(rest, 4).map(|_| Value::Other)?,
        _ => return Err(ProtoError),
    };
    Ok((number, value))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], ProtoError> {
    let (taken, left) = rest.split_at_checked(len).ok_or(ProtoError)?;
    *rest = left;
    Ok(taken)
}

/// At most ten bytes; bits beyond 64 are an error.
fn varint(rest: &mut &[u8]) -> Result<u64, ProtoError> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let [byte] = *take(rest, 1)? else {
            return Err(ProtoError);
        };
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(ProtoError);
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(ProtoError)
}

/// Appends a number field.
pub(crate) fn put_varint(out: &mut Vec<u8>, number: u64, value: u64) {
    put_raw(out, number << 3);
    put_raw(out, value);
}

/// Appends a bytes field.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    put_raw(out, number << 3 | 2);
    put_raw(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn put_raw(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number in 1_u64..1000, n: u64, bytes: Vec<u8>) {
            let mut message = Vec::new();
            put_varint(&mut message, number, n);
            put_bytes(&mut message, number + 1, &bytes);
            let read: Result<Vec<_>, _> = fields(&message).collect();
            prop_assert_eq!(read, Ok(vec![(number, Value::Varint(n)), (number + 1, Value::Bytes(&bytes))]));
        }

        #[test]
        fn any_bytes_end_in_fields_or_one_error(bytes: Vec<u8>) {
            let read: Vec<_> = fields(&bytes).collect();
            let errors = read.iter().filter(|field| field.is_err()).count();
            prop_assert!(errors <= 1);
            prop_assert!(read.len() <= bytes.len());
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_refused() {
        let most = [&[0x08][..], &[0xff; 9], &[0x01]].concat();
        assert_eq!(fields(&most).next(), Some(Ok((1, Value::Varint(u64::MAX)))));
        let more = [&[0x08][..], &[0xff; 9], &[0x02]].concat();
        assert_eq!(fields(&more).next(), Some(Err(ProtoError)));
        let endless = [0xff; 32];
        assert_eq!(fields(&endless).next(), Some(Err(ProtoError)));
    }
}
