//! `candlewick embed`: texts in, embeddings out, in order and in flat memory, however many there are.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Result;

use crate::args::{EmbedArgs, OutputFormat};
use crate::embedder::Unloaded;
use crate::input::{Input, Item};
use crate::output::Destination;
use crate::texts::Texts;
use crate::writer::Writer;
use crate::{Usage, progress};

pub(crate) fn run(mut args: EmbedArgs) -> Result<()> {
    // What can go wrong quickly comes before what takes long: a mistyped file name before a download.
    let model = Unloaded::find(&args)?;
    let format = output_format(args.format, args.io.output.as_deref());
    if format == OutputFormat::Npy && !model.is_dense() {
        return Err(Usage::new(
            "npy is for dense models, which give a vector for each text: use --format jsonl",
        ));
    }
    let input = Input::open(std::mem::take(&mut args.text), &args.io, model.added())?;
    let destination = Destination::open(args.io.output.as_deref())?;
    let data_is_on_screen = destination.is_stdout() && std::io::stdout().is_terminal();
    if data_is_on_screen && format == OutputFormat::Npy {
        return Err(Usage::new("npy is not for terminals: name a file with --output, or use a pipe"));
    }
    let bars = progress::bars_are_wanted(args.fetch.no_progress) && !data_is_on_screen;
    let texts = Texts::start(input, bars);
    let embedder = model.load(&args)?;
    let mut writer = match embedder.dim() {
        Some(dim) if format == OutputFormat::Npy => Writer::npy(destination, dim)?,
        _ => Writer::jsonl(destination),
    };
    let embed = |items: &[Item]| embedder.embed(items);
    texts.for_each_window("the embedding", embed, |items, embeddings| {
        Ok(writer.write(items.into_iter().map(|item| item.fields).zip(embeddings))?)
    })?;
    Ok(writer.finish()?)
}

fn output_format(asked_for: Option<OutputFormat>, path: Option<&Path>) -> OutputFormat {
    let named_npy = path.and_then(Path::extension).is_some_and(|ext| ext.eq_ignore_ascii_case("npy"));
    asked_for.unwrap_or(if named_npy { OutputFormat::Npy } else { OutputFormat::Jsonl })
}
