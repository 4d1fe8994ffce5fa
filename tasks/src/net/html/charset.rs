//! Charset: a page's bytes as text, as a browser reads them.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// How far into a page its own word about its charset is looked for.
///
/// # Source
/// HTML standard, "prescan a byte stream to determine its encoding".
const PRESCAN_BYTES: usize = 1024;

/// The text of a page. A byte-order mark is believed first, then the server, then the page itself; without a word from
/// any of them it is UTF-8 if it can be, else what most pages without one are.
pub(super) fn decode<'a>(page: &'a [u8], told: Option<&str>) -> Cow<'a, str> {
    let told = told.and_then(|label| Encoding::for_label(label.as_bytes()));
    let encoding = told
        .or_else(|| own(page))
        .unwrap_or_else(|| if std::str::from_utf8(page).is_ok() { UTF_8 } else { WINDOWS_1252 });
    // It looks for the mark by itself.
    encoding.decode(page).0
}

/// What the page says of itself.
fn own(page: &[u8]) -> Option<&'static Encoding> {
    let start = WINDOWS_1252.decode_without_bom_handling(&page[..page.len().min(PRESCAN_BYTES)]).0;
    let found = super::parse(&start, &|| false).ok()?;
    let encoding = Encoding::for_label(found.charset?.as_bytes())?;
    // Its own word could be read, so it is not UTF-16.
    Some(if encoding == UTF_16LE || encoding == UTF_16BE { UTF_8 } else { encoding })
}

/// The charset of a `Content-Type`.
pub(in crate::net) fn of_content_type(value: &str) -> Option<&str> {
    value.split(';').skip(1).find_map(|parameter| {
        let (key, charset) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case("charset").then(|| charset.trim().trim_matches(['"', '\'']))
    })
}
