//! What `embed` and `rerank` share: texts in, something for each of them out, in order and in flat memory, however many
//! there are.

use anyhow::{Result, anyhow};
use candlewick::Error;

use crate::input::{Input, Item, Windows};
use crate::progress::TextsBar;

/// Texts that are being read.
pub(crate) struct Texts {
    windows: Windows,
    /// As errors call the input; `None` for texts from the command line.
    name: Option<String>,
    total_bytes: Option<u64>,
    bars: bool,
}

impl Texts {
    /// Starts to read; draws a bar if `bars` and there is anything to wait for.
    pub(crate) fn start(input: Input, bars: bool) -> Texts {
        let (name, total_bytes) = match &input {
            Input::Arguments(_) => (None, None),
            Input::Stream(stream) => (Some(stream.name.clone()), stream.total_bytes),
        };
        let bars = bars && name.is_some();
        Texts { windows: input.start(), name, total_bytes, bars }
    }

    /// Computes something for each text of a window at a time, and hands it to `take` with the texts. Where a text fails,
    /// those before it count. `what` is computed, as errors call it.
    pub(crate) fn for_each_window<T>(
        mut self,
        what: &str,
        compute: impl Fn(&[Item]) -> candlewick::Result<Vec<T>>,
        mut take: impl FnMut(Vec<Item>, Vec<T>) -> Result<()>,
    ) -> Result<()> {
        let mut bar = TextsBar::new(self.bars, self.total_bytes);
        while let Some(mut window) = self.windows.next()? {
            let (computed, error) = self.compute(&window, what, &compute);
            let (texts, bytes) = (window.len(), window.iter().map(|item| item.bytes).sum());
            window.truncate(computed.len());
            take(window, computed)?;
            if let Some(error) = error {
                return Err(error);
            }
            bar.add(texts, bytes);
        }
        Ok(())
    }

    /// What is computed of `items`; or of those before the first one that fails, and why it does.
    fn compute<T>(
        &self,
        items: &[Item],
        what: &str,
        compute: impl Fn(&[Item]) -> candlewick::Result<Vec<T>>,
    ) -> (Vec<T>, Option<anyhow::Error>) {
        let mut fine = items;
        let mut failure = None;
        loop {
            match compute(fine) {
                Ok(computed) => return (computed, failure),
                Err(error) => match culprit(&error).filter(|index| *index < fine.len()) {
                    None => return (Vec::new(), Some(error.into())),
                    Some(index) => {
                        failure = Some(self.locate(&items[index], what, error));
                        fine = &items[..index];
                    }
                },
            }
        }
    }

    /// Says which line it was. The library counts within the window, which means nothing to a user.
    fn locate(&self, item: &Item, what: &str, error: Error) -> anyhow::Error {
        let place = match &self.name {
            Some(input) => format!("{input}: line {}", item.line),
            None => format!("text {}", item.line),
        };
        match error {
            Error::NonFinite { model, .. } => anyhow!("{place}: model `{model}`: {what} is not finite"),
            Error::Tokenize { source, .. } => anyhow!("{place}: could not be tokenized: {source}"),
            error => anyhow::Error::new(error).context(place),
        }
    }
}

/// Which text an error is about.
fn culprit(error: &Error) -> Option<usize> {
    match error {
        Error::NonFinite { index, .. } | Error::Tokenize { index, .. } => Some(*index),
        _ => None,
    }
}
