//! Where texts come from: arguments, a file or standard input, as plain lines or as JSON objects.
//!
//! Files are read by a thread of their own, so that reading and parsing happen while the model computes.
//! Whatever is wrong with a line is an error that names the input and the line; lines before it count.

use std::fs::{File, Metadata};
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

use crate::Usage;
use crate::args::{InputFormat, IoArgs};
use crate::jsonl::{self, Fields};
use crate::queue::{self, Receiver, Sender};

/// A line's length at most. No text is this long: it is a binary file or a stream without line ends, which
/// would otherwise be collected until memory is full.
const MAX_LINE_BYTES: u64 = 64 << 20;

const BYTE_ORDER_MARK: &str = "\u{feff}";

/// One text, and what is to be said about it.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) text: String,
    /// A JSON object's other fields.
    pub(crate) fields: Fields,
    /// Counted from 1.
    pub(crate) line: u64,
    /// What it took up in the input, its line's end included.
    pub(crate) bytes: u64,
}

impl AsRef<str> for Item {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// An open input.
pub(crate) enum Input {
    Arguments(Vec<String>),
    Stream(Stream),
}

/// An input that is read line by line.
pub(crate) struct Stream {
    reader: Box<dyn Read + Send>,
    layout: Layout,
    /// As errors call it.
    pub(crate) name: String,
    /// Known for regular files.
    pub(crate) total_bytes: Option<u64>,
}

/// How a line holds a text.
enum Layout {
    Text,
    Jsonl {
        text_field: String,
        /// Fields that the output adds, which must not be there.
        added: &'static [&'static str],
    },
}

impl Input {
    /// Finds out what to read, and opens it. The output will have the fields `added`.
    pub(crate) fn open(texts: Vec<String>, args: &IoArgs, added: &'static [&'static str]) -> Result<Input> {
        let path = args.input.as_deref().filter(|path| *path != Path::new("-"));
        let named_jsonl = path.and_then(Path::extension).is_some_and(|ext| ext.eq_ignore_ascii_case("jsonl"));
        let layout = match (args.input_format, &args.text_field) {
            (Some(InputFormat::Jsonl), field) => Layout::jsonl(field, added),
            (None, field) if named_jsonl => Layout::jsonl(field, added),
            (_, None) => Layout::Text,
            (_, Some(_)) => {
                return Err(Usage::new(
                    "--text-field is for JSONL: a file that ends in .jsonl, or --input-format jsonl",
                ));
            }
        };
        if !texts.is_empty() {
            return Ok(Input::Arguments(texts));
        }
        if let Some(path) = path {
            let name = path.display().to_string();
            let file = File::open(path).with_context(|| format!("could not read {name}"))?;
            let metadata = file.metadata().ok().filter(Metadata::is_file);
            let total_bytes = metadata.map(|metadata| metadata.len());
            return Ok(Input::Stream(Stream { reader: Box::new(file), layout, name, total_bytes }));
        }
        let stdin = std::io::stdin();
        if args.input.is_none() && stdin.is_terminal() {
            return Err(Usage::new("nothing to read: give texts, --input FILE, or lines on standard input"));
        }
        let name = "standard input".into();
        Ok(Input::Stream(Stream { reader: Box::new(stdin), layout, name, total_bytes: None }))
    }

    /// Starts to read.
    pub(crate) fn start(self) -> Windows {
        match self {
            Input::Arguments(texts) => {
                let numbered = texts.into_iter().zip(1..);
                let item = |(text, line)| Item { text, fields: Fields::default(), line, bytes: 0 };
                Windows::Ready(Some(numbered.map(item).collect()))
            }
            Input::Stream(Stream { reader, layout, name, .. }) => {
                let reader = BufReader::with_capacity(1 << 16, reader);
                let (sender, windows) = queue::queue();
                let thread = std::thread::spawn(move || read_lines(reader, &layout, &name, &sender));
                Windows::Read { windows, thread: Some(thread) }
            }
        }
    }
}

impl Layout {
    fn jsonl(text_field: &Option<String>, added: &'static [&'static str]) -> Layout {
        Layout::Jsonl { text_field: text_field.clone().unwrap_or_else(|| "text".into()), added }
    }

    /// The item that a line holds, `None` for a line that holds none.
    fn parse(&self, line: &str) -> Result<Option<(String, Fields)>> {
        match self {
            Layout::Text => Ok(Some((line.into(), Fields::default()))),
            Layout::Jsonl { .. } if line.trim_ascii().is_empty() => Ok(None),
            Layout::Jsonl { text_field, added } => jsonl::parse(line, text_field, added).map(Some),
        }
    }
}

/// The texts, a window at a time.
pub(crate) enum Windows {
    Ready(Option<Vec<Item>>),
    Read { windows: Receiver<Item>, thread: Option<JoinHandle<Result<()>>> },
}

impl Windows {
    /// The next texts, at least one; waits for it. `None` at the end of the input.
    ///
    /// An error comes when the texts before it have been taken.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<Item>>> {
        let (windows, thread) = match self {
            Windows::Ready(window) => return Ok(window.take()),
            Windows::Read { windows, thread } => (windows, thread),
        };
        if let Some(window) = windows.next_window() {
            return Ok(Some(window));
        }
        match thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(None),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

fn read_lines(mut reader: impl BufRead, layout: &Layout, name: &str, sender: &Sender<Item>) -> Result<()> {
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let mut limited = (&mut reader).take(MAX_LINE_BYTES + 1);
        let bytes =
            limited.read_until(b'\n', &mut buffer).with_context(|| format!("could not read {name}"))? as u64;
        if bytes == 0 {
            break;
        }
        let place = || format!("{name}: line {line}");
        if bytes > MAX_LINE_BYTES {
            bail!("{}: longer than {} MiB", place(), MAX_LINE_BYTES >> 20);
        }
        let content = content(&buffer, line == 1).with_context(place)?;
        let Some(content) = content else { break };
        let Some((text, fields)) = layout.parse(content).with_context(place)? else { continue };
        if !sender.send(Item { text, fields, line, bytes }, bytes) {
            break;
        }
    }
    Ok(())
}

/// A line without its end and without the mark that some editors put at the start of a file; `None` for a
/// file that consists of that mark alone.
fn content(line: &[u8], is_first: bool) -> Result<Option<&str>> {
    let text = std::str::from_utf8(line)
        .map_err(|error| anyhow::anyhow!("not valid UTF-8 at byte {}", error.valid_up_to() + 1))?;
    let text = match text.strip_prefix(BYTE_ORDER_MARK).filter(|_| is_first) {
        Some("") => return Ok(None),
        Some(text) => text,
        None => text,
    };
    Ok(Some(text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> (Vec<String>, Result<()>) {
        let (sender, receiver) = queue::queue();
        let outcome = read_lines(input, &Layout::Text, "in", &sender);
        drop(sender);
        let items = std::iter::from_fn(|| receiver.next_window()).flatten();
        (items.map(|item| item.text).collect(), outcome)
    }

    #[track_caller]
    fn check(input: &str, expected: &[&str]) {
        let (texts, outcome) = read(input.as_bytes());
        outcome.unwrap();
        assert_eq!(texts, expected);
    }

    #[test]
    fn lines_and_their_ends() {
        check("", &[]);
        check("\n", &[""]);
        check("a\r\nb\n\n", &["a", "b", ""]);
        check("a\nb", &["a", "b"]);
        check("a\r\r\nb\r", &["a\r", "b\r"]);
    }

    #[test]
    fn byte_order_mark_is_dropped_from_the_first_line_only() {
        check("\u{feff}", &[]);
        check("\u{feff}\n", &[""]);
        check("\u{feff}a\n\u{feff}b", &["a", "\u{feff}b"]);
    }

    #[test]
    fn lines_before_a_bad_one_count() {
        let (texts, outcome) = read(b"a\nb\nc\xff\nd\n");
        assert_eq!(texts, ["a", "b"]);
        assert_eq!(format!("{:#}", outcome.unwrap_err()), "in: line 3: not valid UTF-8 at byte 2");
    }

    #[test]
    fn endless_line_is_refused() {
        let (sender, _receiver) = queue::queue();
        let endless = BufReader::new(std::io::repeat(b'x'));
        let error = read_lines(endless, &Layout::Text, "in", &sender).unwrap_err();
        assert_eq!(error.to_string(), "in: line 1: longer than 64 MiB");
    }
}
