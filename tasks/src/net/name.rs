//! Names: what a file from the web is called.

use percent_encoding::percent_decode;
use url::Url;

/// Names are cut to this length; most file systems take 255 bytes, and something may be added to it.
const MAX_BYTES: usize = 180;

/// The usual endings, the first of each kind being the one that is given to a file that has none.
const ENDINGS: [(&str, &str); 26] = [
    ("application/gzip", "gz"),
    ("application/javascript", "js"),
    ("application/json", "json"),
    ("application/pdf", "pdf"),
    ("application/x-tar", "tar"),
    ("application/xhtml+xml", "xhtml"),
    ("application/xml", "xml"),
    ("application/zip", "zip"),
    ("audio/mpeg", "mp3"),
    ("audio/ogg", "ogg"),
    ("audio/wav", "wav"),
    ("font/woff2", "woff2"),
    ("image/avif", "avif"),
    ("image/bmp", "bmp"),
    ("image/gif", "gif"),
    ("image/jpeg", "jpg"),
    ("image/png", "png"),
    ("image/svg+xml", "svg"),
    ("image/tiff", "tiff"),
    ("image/webp", "webp"),
    ("text/css", "css"),
    ("text/csv", "csv"),
    ("text/html", "html"),
    ("text/javascript", "js"),
    ("text/plain", "txt"),
    ("video/mp4", "mp4"),
];

/// What nobody says more of.
const UNKNOWN: &str = "application/octet-stream";

/// The media type of a `Content-Type`, without its parameters.
pub(super) fn media_type(header: Option<&str>) -> String {
    let essence = header.and_then(|header| header.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
    let is_token = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
    };
    match essence.split_once('/') {
        Some((kind, sub)) if essence.len() <= 127 && is_token(kind) && is_token(sub) => essence,
        _ => UNKNOWN.to_owned(),
    }
}

/// The name of a file: what the server calls it, else the last part of its URL, else the host.
pub(super) fn of(disposition: Option<&[u8]>, url: &Url, media_type: &str) -> String {
    let told = disposition.and_then(file_name).and_then(|name| clean(&name));
    let last = || {
        let last = url.path_segments()?.rev().find(|part| !part.is_empty())?;
        clean(&percent_decode(last.as_bytes()).decode_utf8_lossy())
    };
    if let Some(name) = told.or_else(last) {
        return name;
    }
    let host = url.host_str().and_then(clean).unwrap_or_else(|| "download".to_owned());
    format!("{host}.{}", ending_of(media_type))
}

/// The ending of a name, else the usual one of its kind.
pub(super) fn extension<'a>(name: &'a str, media_type: &str) -> &'a str {
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && (1..=10).contains(&ending.len()) => ending,
        _ => ending_of(media_type),
    }
}

fn ending_of(media_type: &str) -> &'static str {
    ENDINGS.iter().find(|(known, _)| *known == media_type).map_or("bin", |(_, ending)| ending)
}

/// A name that is nothing but a name: no folder, nothing invisible, not hidden, not too long.
fn clean(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let good: String = last
        .chars()
        .map(|c| if c.is_control() || "<>:\"|?*\u{202a}\u{202b}\u{202d}\u{202e}".contains(c) { '_' } else { c })
        .collect();
    let good = good.trim().trim_start_matches('.').trim_end_matches(['.', ' ']);
    if good.is_empty() {
        return None;
    }
    if good.len() <= MAX_BYTES {
        return Some(good.to_owned());
    }
    // The ending stays: it says what the file is.
    let (stem, ending) = match good.rsplit_once('.') {
        Some((stem, ending)) if ending.len() <= 10 => (stem, format!(".{ending}")),
        _ => (good, String::new()),
    };
    let cut = (0..=MAX_BYTES - ending.len()).rev().find(|at| stem.is_char_boundary(*at)).unwrap_or(0);
    Some(format!("{}{ending}", &stem[..cut]))
}

/// The name in a `Content-Disposition`; that of `filename*` (RFC 8187) before that of `filename`.
///
/// # Source
/// RFC 6266. What servers send besides is read as browsers do: a plain name may be in UTF-8 or percent-encoded.
fn file_name(header: &[u8]) -> Option<String> {
    let header = String::from_utf8_lossy(header);
    let mut plain = None;
    for parameter in parameters(&header) {
        let Some((key, value)) = parameter.split_once('=') else { continue };
        match key.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                let mut parts = value.trim().trim_matches('"').splitn(3, '\'');
                // One in a charset that nobody knows is none; there may be a plain one.
                if let (Some(charset), Some(_language), Some(text)) = (parts.next(), parts.next(), parts.next())
                    && let Some(encoding) = encoding_rs::Encoding::for_label(charset.as_bytes())
                {
                    let bytes: Vec<u8> = percent_decode(text.as_bytes()).collect();
                    return Some(encoding.decode(&bytes).0.into_owned());
                }
            }
            "filename" => plain = Some(unquoted(value.trim())),
            _ => {}
        }
    }
    plain.map(|name| percent_decode(name.as_bytes()).decode_utf8().map_or(name.clone(), |text| text.into_owned()))
}

/// What stands between semicolons that are not within quotes.
fn parameters(header: &str) -> Vec<&str> {
    let (mut parts, mut from, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (at, c) in header.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ';' if !is_quoted => {
                parts.push(&header[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&header[from..]);
    parts
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else { return value.to_owned() };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            // Only a quote is ever escaped: servers of Windows send backslashes that mean folders.
            ('\\', Some('"' | '\\')) => text.extend(chars.next()),
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(disposition: &str, url: &str) -> String {
        of(Some(disposition.as_bytes()), &url.parse().unwrap(), "text/html")
    }

    #[test]
    fn the_server_names_the_file_else_its_url_does() {
        for (disposition, name) in [
            ("attachment; filename=\"a b.txt\"", "a b.txt"),
            ("attachment; filename=a.txt; size=3", "a.txt"),
            ("attachment; FileName = \"semi;colon.txt\"", "semi;colon.txt"),
            ("attachment; filename=\"quo\\\"te.txt\"", "quo_te.txt"),
            ("attachment; filename=\"e.txt\"; filename*=UTF-8''%e2%82%ac%20rates.txt", "€ rates.txt"),
            ("attachment; filename*=iso-8859-1'en'%A3%20rates.txt", "£ rates.txt"),
            ("attachment; filename=e.txt; filename*=klingon'en'%A3.txt", "e.txt"),
            ("attachment; filename*=klingon'en'%A3.txt; filename=e.txt", "e.txt"),
            ("attachment; filename*=klingon'en'%A3.txt", "page.php"),
            ("attachment; filename=\"na%C3%AFve.txt\"", "naïve.txt"),
            ("attachment; filename=\"Grüße.txt\"", "Grüße.txt"),
            ("attachment", "page.php"),
            ("attachment; filename=", "page.php"),
        ] {
            assert_eq!(named(disposition, "https://host/dir/page.php?x=1#y"), name, "{disposition}");
        }
        let by_url = |url: &str| of(None, &url.parse().unwrap(), "text/html");
        assert_eq!(by_url("https://host/dir/gr%C3%BC%C3%9Fe.png?size=1"), "grüße.png");
        assert_eq!(by_url("https://host/dir/"), "dir");
        assert_eq!(by_url("https://host.example/"), "host.example.html");
    }

    #[test]
    fn no_name_leads_out_of_its_folder_or_hides() {
        for (told, name) in [
            ("../../etc/passwd", "passwd"),
            ("..\\\\..\\\\autoexec.bat", "autoexec.bat"),
            ("C:\\\\Windows\\\\x.dll", "x.dll"),
            ("/etc/cron.d/evil", "evil"),
            (".bashrc", "bashrc"),
            ("..%2f..%2fpasswd", "passwd"),
            ("a\u{1}b?.txt", "a_b_.txt"),
            ("gpj.\u{202e}exe", "gpj._exe"),
            ("..", "page.php"),
            ("dots...", "dots"),
        ] {
            assert_eq!(named(&format!("attachment; filename=\"{told}\""), "https://host/page.php"), name, "{told}");
        }
        let long = format!("{}.tar", "ü".repeat(500));
        let cut = clean(&long).unwrap();
        assert!(cut.len() <= MAX_BYTES && cut.ends_with("ü.tar"), "{cut}");
    }

    #[test]
    fn a_media_type_is_two_words_or_nobody_knows() {
        assert_eq!(media_type(Some("Text/HTML; charset=utf-8")), "text/html");
        for none in [None, Some(""), Some("html"), Some("a/b/c"), Some("text/\u{1}"), Some("/")] {
            assert_eq!(media_type(none), UNKNOWN, "{none:?}");
        }
        assert_eq!(extension("a.tar.gz", UNKNOWN), "gz");
        assert_eq!(extension("README", "text/plain"), "txt");
        assert_eq!(extension("README", UNKNOWN), "bin");
    }
}
