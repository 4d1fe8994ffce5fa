//! NDJSON: a value a line.

use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;

use serde_json::value::RawValue;
use tidemill_core::failure::Failure;
use tidemill_core::task::Job;

use super::names::name_at;
use super::{Input, InputsError, Sink, input_from_scalar};

/// Longer lines are refused: they would not fit into a message either.
pub(super) const MAX_LINE_BYTES: usize = 16 << 20;
/// What of a bad line is shown.
const SHOWN_CHARS: usize = 100;

/// Hands over each line. A bad one is an input that was refused; its neighbours are not harmed. Where no more can be read
/// that ends the walk: nobody knows what is missing.
pub(super) fn each(
    name: &str,
    from: Box<dyn Read + Send>,
    are_paths: bool,
    scalars: Option<&dyn Job>,
    sink: &mut dyn Sink,
) -> ControlFlow<()> {
    let mut reader = BufReader::with_capacity(1 << 16, from);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        if reader.buffer().is_empty() {
            sink.flush()?;
        }
        let is_too_long = match read_line(&mut reader, &mut line) {
            Ok(_) if line.is_empty() => break,
            Ok(is_too_long) => is_too_long,
            Err(error) => {
                let message = format!("cannot read line {number} of {name}: {error}");
                return sink.fail(InputsError::broken_off(message));
            }
        };
        if is_too_long {
            let failure = format!("line {number} of {name} is longer than {MAX_LINE_BYTES} bytes");
            sink.push(refused(&line, failure))?;
        } else if let Some(input) = parse(name, number, &line, are_paths, scalars) {
            sink.push(input)?;
        }
    }
    ControlFlow::Continue(())
}

/// Reads a line with its end, and nothing at the end of all. Of one that is too long it keeps the beginning, and says so.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    reader.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', line)?;
    let is_too_long = line.strip_suffix(b"\n").unwrap_or(line.as_slice()).len() > MAX_LINE_BYTES;
    if is_too_long {
        reader.skip_until(b'\n')?;
    }
    Ok(is_too_long)
}

/// Makes an input of a line; nothing of a blank one.
fn parse(name: &str, number: u64, line: &[u8], are_paths: bool, scalars: Option<&dyn Job>) -> Option<Input> {
    // Some editors begin a file with a byte-order mark.
    let line = if number == 1 { line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line) } else { line };
    let line = line.trim_ascii();
    if line.is_empty() {
        return None;
    }
    Some(match serde_json::from_slice::<Box<RawValue>>(line) {
        Ok(json) => {
            let json = input_from_scalar(json, scalars);
            let path = are_paths.then(|| serde_json::from_str::<String>(json.get()).ok()).flatten();
            Input { name: path.and_then(|path| name_at(&path)), ..Input::value(json) }
        }
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or(&reason).to_owned();
            refused(line, format!("line {number} of {name} is not JSON: {reason} at column {}", error.column()))
        }
    })
}

fn refused(line: &[u8], message: String) -> Input {
    let shown: String = String::from_utf8_lossy(line).chars().take(SHOWN_CHARS).collect();
    Input::refused(&shown, Failure::invalid_input(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static [u8]) -> Vec<(String, Option<String>)> {
        let mut seen: Vec<Input> = Vec::new();
        assert!(each("items.ndjson", Box::new(text), false, None, &mut seen).is_continue());
        seen.into_iter()
            .map(|input| (input.json.get().to_owned(), input.refused.map(|failure| failure.message)))
            .collect()
    }

    #[test]
    fn each_line_is_a_value_and_blank_ones_are_none() {
        let seen = read("\u{feff}1\r\n\n {\"a\": [1,2]} \n\"x\"".as_bytes());
        let values: Vec<&str> = seen.iter().map(|(json, _)| json.as_str()).collect();
        assert_eq!(values, ["1", "{\"a\": [1,2]}", "\"x\""]);
        assert!(seen.iter().all(|(_, refused)| refused.is_none()));
    }

    #[test]
    fn a_bad_line_is_refused_by_its_number_and_harms_nobody() {
        let seen = read(b"1\n{oops\n3\n\xff\xfe\n5");
        assert_eq!(seen[1].1.as_deref(), Some("line 2 of items.ndjson is not JSON: key must be a string at column 2"));
        assert!(seen[3].1.is_some());
        assert_eq!((seen[0].0.as_str(), seen[2].0.as_str(), seen[4].0.as_str()), ("1", "3", "5"));
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_and_the_next_is_read() {
        for more in [0, 1, 10] {
            let mut text = vec![b'1'; MAX_LINE_BYTES + more];
            text.extend_from_slice(b"\n2\n");
            let seen = read(text.leak());
            assert_eq!(seen.len(), 2);
            let is_refused = seen[0].1.as_deref().is_some_and(|message| message.contains("longer than"));
            assert_eq!(is_refused, more > 0);
            assert_eq!(seen[1], ("2".to_owned(), None));
        }
    }
}
