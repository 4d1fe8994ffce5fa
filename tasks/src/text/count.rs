//! `text.count`: how often a word occurs.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime};

use futures::TryStreamExt as _;
use regex::bytes::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidemill_core::blobs::{BlobError, must_be_file};
use tidemill_core::failure::Failure;
use tidemill_core::task::{About, Arguments, Cost, Hands, Invalid, Task, Tools, Wait, raw, raw_word};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::StreamReader;

use super::charset::Charset;

/// A file is read in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// The longest word to count.
const WORD_BYTES: usize = 1000;

/// The longest that it can be found as: in another case a letter may take up to 4 bytes, as the K of kelvin does for k.
const FOUND_BYTES: usize = 4 * WORD_BYTES;

/// The longest letter: what stands so far before and behind a word decides whether it is a whole one.
const LETTER_BYTES: usize = 4;

/// What may stand in a word, as `\b` has it: combining accents and vowel signs do, raised and lowered numbers do not.
static IN_WORD: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\A\w\z").expect("the pattern is good, as a test makes sure"));

/// Counts a word, case-insensitively and as a whole word.
#[derive(Clone, Copy, Debug)]
pub struct Count;

/// What to search.
#[derive(Debug)]
pub enum Input {
    /// The text itself.
    Text(String),
    /// A file, or the URL of one; read as a stream.
    Path(String),
}

/// Options of a batch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The word to count, without white space.
    pub word: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { word: "lorem".into() }
    }
}

/// What was counted, and when.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Output {
    /// How often the word occurs.
    pub count: u64,
    /// When counting began, in UTC (RFC 3339).
    pub started: String,
    /// When it ended, in UTC (RFC 3339).
    pub finished: String,
    /// Between the two, on a clock that never jumps.
    pub duration_ms: f64,
}

impl Task for Count {
    type Input = Input;
    type Options = Options;
    type Output = Output;
    type Plan = Regex;

    fn about(&self) -> About {
        About {
            name: "text.count",
            summary: "Count a word in texts or files",
            details: "An input is a text, {\"text\": …}, or {\"path\": …} of a file, which is read as a stream and may be \
                      larger than memory; it is in UTF-8, or in UTF-16 if it begins with that one's byte-order mark. \
                      Counted are whole words, whatever their case. On the command line, a word that names a file or \
                      folder is that file or the files in it; anything else with a space in it is a text.",
            examples: &[
                "tidemill run text.count 'Lorem ipsum dolor sit amet'",
                "tidemill run text.count books/ -o word=whale --format table",
            ],
            arguments: Arguments::FilesOrValues,
            makes_files: false,
        }
    }

    fn plan(&self, options: Options) -> Result<Regex, Invalid> {
        let word = options.word;
        if word.is_empty() || word.len() > WORD_BYTES || word.contains(char::is_whitespace) {
            return Err(Invalid(format!("word: {word:?} is not one word of at most {WORD_BYTES} bytes")));
        }
        // \b asks for a border between a word's letter and something else; a word such as "C++" ends in no letter.
        let edge = |letter: Option<char>| if letter.is_some_and(is_in_word) { r"\b" } else { "" };
        let pattern = format!("{}{}{}", edge(word.chars().next()), regex::escape(&word), edge(word.chars().last()));
        RegexBuilder::new(&pattern)
            .case_insensitive(true)
            .build()
            .map_err(|error| Invalid(format!("word: cannot search for {word:?}: {error}")))
    }

    fn cost(&self, _word: &Regex) -> Cost {
        Cost::millis(1)
    }

    fn input_from_word(&self, word: &str) -> Box<RawValue> {
        match serde_json::from_str::<Input>(word) {
            Ok(_) => raw_word(word),
            Err(_) => raw(&serde_json::json!({ "text": word })),
        }
    }
}

impl Wait for Count {
    fn hands(&self, _word: &Regex) -> Hands {
        // Where small files come from far away they are waited for; each takes a piece of memory.
        Hands::PerCore(32)
    }

    async fn run(self: Arc<Self>, word: Arc<Regex>, input: Input, tools: Tools) -> Result<Output, Failure> {
        let (started, clock) = (SystemTime::now(), Instant::now());
        let count = match input {
            Input::Text(text) => count_in(&tools, &word, text.into_bytes()).await?,
            Input::Path(location) => match tools.blobs.file_at(&location)? {
                Some(path) => count_file(&tools, &word, &path).await?,
                None => {
                    let pieces = tools.blobs.stream(&location).await?.map_err(std::io::Error::other);
                    let broken = |error: std::io::Error| match error.downcast::<BlobError>() {
                        Ok(error) => error.into(),
                        Err(error) => BlobError::unreadable(Path::new(&location), &error).into(),
                    };
                    count_read(&tools, &word, StreamReader::new(pieces), 0, broken).await?
                }
            },
        };
        Ok(Output {
            count,
            started: humantime::format_rfc3339_millis(started).to_string(),
            finished: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            duration_ms: clock.elapsed().as_secs_f64() * 1000.0,
        })
    }
}

fn is_in_word(letter: char) -> bool {
    IN_WORD.is_match(letter.encode_utf8(&mut [0; LETTER_BYTES]).as_bytes())
}

async fn count_in(tools: &Tools, word: &Arc<Regex>, bytes: Vec<u8>) -> Result<u64, Failure> {
    let all = 0..bytes.len();
    Ok(count_within(tools, word, bytes, all).await?.count)
}

/// What was counted in a piece.
struct Counted {
    count: u64,
    /// Where the next search begins: behind the place asked for, where a word begins before it and ends behind it.
    next: usize,
    piece: Vec<u8>,
}

/// Counts the words that begin in a part of a piece.
async fn count_within(
    tools: &Tools,
    word: &Arc<Regex>,
    piece: Vec<u8>,
    part: Range<usize>,
) -> Result<Counted, Failure> {
    let word = Arc::clone(word);
    let counting = tools.compute.run(move |_| {
        let (mut count, mut next) = (0, part.start);
        if part == (0..piece.len()) {
            // The same as below, and quicker.
            (count, next) = (word.find_iter(&piece).count() as u64, part.end);
        } else {
            while let Some(found) = word.find_at(&piece, next).filter(|found| found.start() < part.end) {
                (count, next) = (count + 1, found.end());
            }
        }
        Counted { count, next: next.max(part.end), piece }
    });
    counting.await.map_err(Failure::from)
}

/// A piece in UTF-8, what was read last from `new` on; and the charset, for the next piece.
async fn decoded(
    tools: &Tools,
    mut charset: Charset,
    mut piece: Vec<u8>,
    new: usize,
    is_last: bool,
) -> Result<(Charset, Vec<u8>), Failure> {
    if matches!(charset, Charset::Utf8) {
        return Ok((charset, piece));
    }
    let decoding = tools.compute.run(move |_| {
        charset.decode(&mut piece, new, is_last);
        (charset, piece)
    });
    decoding.await.map_err(Failure::from)
}

async fn count_file(tools: &Tools, word: &Arc<Regex>, path: &Path) -> Result<u64, Failure> {
    let failed = |error: std::io::Error| Failure::from(BlobError::unreadable(path, &error));
    let metadata = tokio::fs::metadata(path).await.map_err(failed)?;
    must_be_file(&metadata).map_err(failed)?;
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    // Hundreds of small files are under way at once: each takes room for itself, and one byte more to see its end.
    let room = usize::try_from(metadata.len()).map_or(PIECE_BYTES, |bytes| PIECE_BYTES.min(bytes.saturating_add(1)));
    count_read(tools, word, file, room, failed).await
}

/// `room`: how much of a piece is expected.
async fn count_read(
    tools: &Tools,
    word: &Arc<Regex>,
    mut reader: impl AsyncRead + Unpin,
    room: usize,
    failed: impl Fn(std::io::Error) -> Failure,
) -> Result<u64, Failure> {
    // Of what is carried to the next piece, what lies before `from` was searched, and is only looked back at.
    let (mut count, mut carried, mut from, mut charset) = (0, Vec::new(), 0, None);
    loop {
        let mut piece = Vec::with_capacity(carried.len() + room);
        piece.append(&mut carried);
        let new = piece.len();
        let read = (&mut reader).take(PIECE_BYTES as u64).read_to_end(&mut piece).await.map_err(&failed)?;
        let told = charset.take().unwrap_or_else(|| Charset::of(&piece));
        let (told, mut piece) = decoded(tools, told, piece, new, read == 0).await?;
        charset = Some(told);
        if read == 0 {
            let end = piece.len();
            return Ok(count + count_within(tools, word, piece, from..end).await?.count);
        }
        if let Some(last) = piece.iter().rposition(u8::is_ascii_whitespace) {
            // The last word may go on in the next piece. What follows the last white space waits for it.
            let end = last + 1;
            carried = piece.split_off(end);
            count += count_within(tools, word, piece, from..end).await?.count;
            from = 0;
        } else {
            // It could be cut anywhere: what begins so near to the end that it may go on behind it waits.
            let end = piece.len().saturating_sub(FOUND_BYTES + LETTER_BYTES).max(from);
            let counted = count_within(tools, word, piece, from..end).await?;
            let kept = counted.next.saturating_sub(LETTER_BYTES);
            count += counted.count;
            (carried, from) = (counted.piece, counted.next - kept);
            carried.drain(..kept);
        }
    }
}

/// What an input may be, as a message says it.
const FORMS: &str = "a text, {\"text\": …} or {\"path\": …}";

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Input;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(FORMS)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Input, M::Error> {
                let input = match map.next_key::<Cow<'de, str>>()?.as_deref() {
                    Some("text") => Input::Text(map.next_value()?),
                    Some("path") => Input::Path(map.next_value()?),
                    Some(other) => return Err(de::Error::unknown_field(other, &["text", "path"])),
                    None => return Err(de::Error::invalid_length(0, &self)),
                };
                match map.next_key::<Cow<'de, str>>()? {
                    None => Ok(input),
                    Some(other) => {
                        Err(de::Error::custom(format_args!("{other:?} is one field too many; expected {FORMS}")))
                    }
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Input {
    fn schema_name() -> Cow<'static, str> {
        "TextInput".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        let object = |field: &str| {
            json_schema!({
                "type": "object", "properties": { field: { "type": "string" } },
                "required": [field], "additionalProperties": false,
            })
        };
        json_schema!({ "oneOf": [{ "type": "string" }, object("text"), object("path")] })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidemill_core::blobs::{Blobs, FetchLimits};
    use tidemill_core::compute;

    use super::*;

    async fn count(word: &str, input: Input) -> Result<u64, Failure> {
        let limits = FetchLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(1) };
        let tools = Tools::new(compute::Pool::new(1).unwrap(), Blobs::without_store(limits));
        let plan = Arc::new(Count.plan(Options { word: word.into() }).unwrap());
        Arc::new(Count).run(plan, input, tools).await.map(|output| output.count)
    }

    /// In a blob, wherever that is.
    async fn in_blob(word: &str, text: &[u8], blobs: Blobs) -> Result<u64, Failure> {
        let blob = blobs.put(text.to_vec(), "text/plain", "txt").await?;
        let tools = Tools::new(compute::Pool::new(1).unwrap(), blobs);
        let plan = Arc::new(Count.plan(Options { word: word.into() }).unwrap());
        Arc::new(Count).run(plan, Input::Path(format!("blob:{}", blob.blob)), tools).await.map(|output| output.count)
    }

    #[tokio::test]
    async fn a_blob_is_read_as_a_stream_from_a_folder_and_from_afar() {
        let folder = tempfile::tempdir().unwrap();
        // Pieces come as they come.
        let text = format!("{} lorem {}", "lorem ".repeat(PIECE_BYTES / 3), "+".repeat(PIECE_BYTES));
        let many = (PIECE_BYTES / 3 + 1) as u64;
        let limits = FetchLimits { max_bytes: 10 << 20, timeout: Duration::from_secs(1) };
        let afar = || Blobs::at(&"memory://".parse().unwrap(), limits, None).unwrap();

        for blobs in [Blobs::in_folder(folder.path(), limits).unwrap(), afar()] {
            assert_eq!(in_blob("lorem", text.as_bytes(), blobs).await.unwrap(), many);
        }
        let utf_16: Vec<u8> = "\u{feff}Straße straße".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(in_blob("straße", &utf_16, afar()).await.unwrap(), 2);

        let missing = format!("blob:sha256:{}", "0".repeat(64));
        let tools = Tools::new(compute::Pool::new(1).unwrap(), afar());
        let plan = Arc::new(Count.plan(Options::default()).unwrap());
        let error = Arc::new(Count).run(plan, Input::Path(missing), tools).await.unwrap_err();
        assert_eq!(error.kind, "not_found");
    }

    async fn in_text(word: &str, text: &str) -> u64 {
        count(word, Input::Text(text.into())).await.unwrap()
    }

    #[tokio::test]
    async fn the_texts_of_the_catalogue_come_out() {
        assert_eq!(in_text("lorem", "Lorem ipsum dolor sit amet").await, 1);
        assert_eq!(in_text("lorem", "consectetur Lorem adipiscing Lorem elit").await, 2);
    }

    #[tokio::test]
    async fn only_whole_words_count_in_any_script() {
        assert_eq!(in_text("lorem", "lorems LOREM, (lorem) floremx lorem").await, 3);
        assert_eq!(in_text("straße", "Straße STRAßE Straßenbahn").await, 2);
        assert_eq!(in_text("c++", "C++ is not C+").await, 1);
        assert_eq!(in_text("தமிழ்", "தமிழ் தமிழ்நாடு").await, 1);
        assert_eq!(in_text("cafe\u{301}", "cafe\u{301}, CAFE\u{301} cafe\u{301}s").await, 2);
        assert_eq!(in_text("cafe", "cafe\u{301}").await, 0);
    }

    #[tokio::test]
    async fn a_word_that_begins_or_ends_with_what_is_no_letter_is_found() {
        for (word, text) in [("m²", "5 m², m² km²"), ("CO₂", "CO₂ (co₂)"), ("½", "½ or 1½"), ("²x", "²x, ²x ²xy")]
        {
            assert_eq!(in_text(word, text).await, 2, "{word} in {text}");
        }
    }

    #[tokio::test]
    async fn a_word_across_the_border_of_two_pieces_is_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.txt");
        let text = "lorem ".repeat(PIECE_BYTES / 2);
        std::fs::write(&path, &text).unwrap();
        let input = Input::Path(path.to_str().unwrap().into());
        assert_eq!(count("lorem", input).await.unwrap(), (PIECE_BYTES / 2) as u64);
    }

    #[tokio::test]
    async fn a_file_without_white_space_is_counted_as_it_would_be_in_one_piece() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.txt");
        let more = PIECE_BYTES + 2 * FOUND_BYTES + 1;
        // Words all about the first cut, which must neither spoil one nor make one.
        let edge = PIECE_BYTES - FOUND_BYTES - LETTER_BYTES;
        let about = format!("{}{}{}", ".".repeat(edge - 500), "lorem,élorem,".repeat(80), ".".repeat(more - edge));
        for (word, text) in [
            ("lorem", "lorem,".repeat(more / 5)),
            ("lorem", "lorem".repeat(more / 5)),
            ("lorem", about),
            // Where one begins depends on all before it.
            ("+++++++", "+".repeat(more)),
            ("+++++++", format!("{} +++++++ {}", "+".repeat(more), "+".repeat(more))),
        ] {
            std::fs::write(&path, &text).unwrap();
            let in_file = count(word, Input::Path(path.to_str().unwrap().into())).await.unwrap();
            assert_eq!(in_file, in_text(word, &text).await, "{word} in {}…", &text[..20]);
        }
    }

    #[tokio::test]
    async fn a_file_in_utf_16_is_counted_as_its_text_would_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long.txt");
        let lorems = "lorem ".repeat(PIECE_BYTES / 12);
        // The first piece ends within the 🎉.
        let text = format!("\u{feff}{lorems}🎉 straße {lorems}");
        for text in [text.replace(' ', ","), text] {
            for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
                let bytes: Vec<u8> = text.encode_utf16().flat_map(to_bytes).collect();
                std::fs::write(&path, bytes).unwrap();
                for (word, times) in [("lorem", 2 * (PIECE_BYTES / 12)), ("straße", 1), ("🎉", 1)] {
                    let input = Input::Path(path.to_str().unwrap().into());
                    assert_eq!(count(word, input).await.unwrap(), times as u64, "{word}");
                }
            }
        }
    }

    #[tokio::test]
    async fn so_is_what_is_fetched_in_utf_16() {
        let url = "data:,%FF%FEl%00o%00r%00e%00m%00";

        assert_eq!(count("lorem", Input::Path(url.into())).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_refused_for_good_before_it_is_opened() {
        let failure = count("lorem", Input::Path("/dev/null".into())).await.unwrap_err();

        assert_eq!((&*failure.kind, failure.retryable), ("unreadable", false));
        assert_eq!(failure.message, "cannot read /dev/null: it is not a regular file");
    }

    #[tokio::test]
    async fn a_missing_file_says_so() {
        let failure = count("lorem", Input::Path("/no/such.txt".into())).await.unwrap_err();
        assert_eq!(failure.kind, "not_found");
        assert!(failure.message.contains("/no/such.txt"));
    }

    #[test]
    fn an_input_is_a_text_or_one_of_two_fields() {
        let read = serde_json::from_str::<Input>;
        assert!(matches!(read("\"a b\""), Ok(Input::Text(text)) if text == "a b"));
        assert!(matches!(read("{\"path\":\"a\"}"), Ok(Input::Path(path)) if path == "a"));
        for bad in ["{}", "{\"txt\":\"a\"}", "{\"text\":\"a\",\"path\":\"b\"}", "7"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_words_are_not_a_word() {
        assert!(Count.plan(Options { word: "two words".into() }).is_err());
        assert!(Count.plan(Options { word: String::new() }).is_err());
    }
}
