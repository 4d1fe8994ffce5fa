//! Charset: texts are in UTF-8, unless the byte-order mark that they begin with says that they are in UTF-16.

use encoding_rs::{CoderResult, Decoder, Encoding, UTF_8};

/// What a text is in.
pub(super) enum Charset {
    Utf8,
    Utf16(Decoder),
}

impl Charset {
    /// That of the text that begins so.
    pub(super) fn of(start: &[u8]) -> Self {
        match Encoding::for_bom(start) {
            Some((encoding, _)) if encoding != UTF_8 => Self::Utf16(encoding.new_decoder_with_bom_removal()),
            _ => Self::Utf8,
        }
    }

    /// Makes UTF-8 of what stands in the piece from `new` on. Unless it is the last piece, it may end within a letter.
    pub(super) fn decode(&mut self, piece: &mut Vec<u8>, new: usize, is_last: bool) {
        let Self::Utf16(decoder) = self else { return };
        let bytes = piece.split_off(new);
        let mut text = String::with_capacity(decoder.max_utf8_buffer_length(bytes.len()).unwrap_or_default());
        // What is no UTF-16 becomes U+FFFD, which is no letter.
        let (result, ..) = decoder.decode_to_string(&bytes, &mut text, is_last);
        debug_assert_eq!(result, CoderResult::InputEmpty, "there is room for all of it");
        piece.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of bytes that come in pieces of that size.
    fn read(bytes: &[u8], size: usize) -> String {
        let mut charset = Charset::of(&bytes[..bytes.len().min(2)]);
        let mut text = Vec::new();
        for piece in bytes.chunks(size) {
            let new = text.len();
            text.extend_from_slice(piece);
            charset.decode(&mut text, new, false);
        }
        let end = text.len();
        charset.decode(&mut text, end, true);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_text_in_utf_16_is_the_same_however_it_is_cut() {
        for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            let bytes: Vec<u8> = "\u{feff}straße 🎉".encode_utf16().flat_map(to_bytes).collect();
            for size in 1..=bytes.len() {
                assert_eq!(read(&bytes, size), "straße 🎉", "{size}");
            }
        }
    }

    #[test]
    fn without_a_mark_of_utf_16_nothing_is_changed() {
        for text in ["", "a", "straße", "\u{feff}straße"] {
            assert_eq!(read(text.as_bytes(), 1), text);
        }
    }

    #[test]
    fn a_text_that_ends_within_a_letter_is_read_up_to_there() {
        assert_eq!(read(b"\xff\xfea\0b", 2), "a\u{fffd}");
    }
}
