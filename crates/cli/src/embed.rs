//! `candlewick embed`: texts in, embeddings out, in order and in flat memory, however many there are.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Result, anyhow};
use candlewick::{Embedding, Error, Kind, LoadOptions, TextEmbedding};

use crate::args::{ComputeArgs, EmbedArgs, ModelArgs, OutputFormat};
use crate::input::{Input, Item};
use crate::output::Destination;
use crate::progress::{self, EmbedBar};
use crate::writer::Writer;
use crate::{Usage, fetch};

pub(crate) fn run(mut args: EmbedArgs) -> Result<()> {
    if args.model.kind.map(Kind::from).is_some_and(|kind| kind != Kind::Dense) {
        return Err(Usage::new("--kind: only dense models can be run so far"));
    }
    // What can go wrong quickly comes before what takes long: a mistyped file name before a download.
    let input = Input::open(std::mem::take(&mut args.text), &args.io)?;
    let format = output_format(args.io.format, args.io.output.as_deref());
    let destination = Destination::open(args.io.output.as_deref())?;
    let data_is_on_screen = destination.is_stdout() && std::io::stdout().is_terminal();
    if data_is_on_screen && format == OutputFormat::Npy {
        return Err(Usage::new("npy is not for terminals: name a file with --output, or use a pipe"));
    }
    let (name, total_bytes) = match &input {
        Input::Arguments(_) => (None, None),
        Input::Stream(stream) => (Some(stream.name.clone()), stream.total_bytes),
    };
    let bars = progress::bars_are_wanted(args.fetch.no_progress) && name.is_some() && !data_is_on_screen;
    let mut windows = input.start();
    let embedder = Embedder { model: load(&args)?, role: Role::of(&args.model), input: name };

    let mut writer = Writer::new(format, destination, embedder.model.embedding_size())?;
    let mut bar = EmbedBar::new(bars, total_bytes);
    while let Some(window) = windows.next()? {
        let (embeddings, error) = embedder.embed(&window);
        writer.write(&window[..embeddings.len()], &embeddings)?;
        if let Some(error) = error {
            return Err(error);
        }
        bar.add(window.len(), window.iter().map(|item| item.bytes).sum());
    }
    drop(bar);
    writer.finish()?;
    Ok(())
}

fn output_format(asked_for: Option<OutputFormat>, path: Option<&Path>) -> OutputFormat {
    let named_npy = path.and_then(Path::extension).is_some_and(|ext| ext.eq_ignore_ascii_case("npy"));
    asked_for.unwrap_or(if named_npy { OutputFormat::Npy } else { OutputFormat::Jsonl })
}

fn load(args: &EmbedArgs) -> candlewick::Result<TextEmbedding> {
    let ModelArgs { model, model_dir, weights, .. } = &args.model;
    if let Some(folder) = model_dir {
        let mut options = computation(LoadOptions::new(), &args.model, &args.compute);
        options.weights =
            weights.as_ref().map(|file| if file.exists() { file.clone() } else { folder.join(file) });
        return TextEmbedding::from_folder_with(folder, options);
    }
    let registry = fetch::registry(args.fetch.registry.as_deref())?;
    let sources = registry.get_preferring(Kind::Dense, model)?.chosen_sources().count();
    let options = fetch::options(&args.fetch, registry, sources);
    TextEmbedding::load_with(model, computation(options, &args.model, &args.compute))
}

fn computation(mut options: LoadOptions, model: &ModelArgs, compute: &ComputeArgs) -> LoadOptions {
    let ComputeArgs { batch_tokens, threads, device, precision, int8 } = compute;
    options.pooling = model.pooling;
    options.normalize = model.normalize;
    options.max_length = model.max_length.map(Into::into);
    options.dim = model.dim.map(Into::into);
    options.output.clone_from(&model.output_name);
    options.inputs = model.graph_input.iter().cloned().collect();
    options.batch_tokens = batch_tokens.map(Into::into);
    options.threads = threads.map(Into::into);
    options.device(*device).precision(*precision).int8(*int8)
}

/// What texts are to a search.
#[derive(Clone, Copy)]
enum Role {
    Plain,
    Query,
    Passage,
}

impl Role {
    fn of(args: &ModelArgs) -> Role {
        match args {
            ModelArgs { query: true, .. } => Role::Query,
            ModelArgs { passage: true, .. } => Role::Passage,
            _ => Role::Plain,
        }
    }
}

struct Embedder {
    model: TextEmbedding,
    role: Role,
    /// As errors call it; `None` for texts from the command line.
    input: Option<String>,
}

impl Embedder {
    /// The embeddings of `items`; or of those before the first one that fails, and why it does.
    fn embed(&self, items: &[Item]) -> (Vec<Embedding>, Option<anyhow::Error>) {
        let mut fine = items;
        let mut failure = None;
        loop {
            match self.embed_all(fine) {
                Ok(embeddings) => return (embeddings, failure),
                Err(error) => match culprit(&error).filter(|index| *index < fine.len()) {
                    None => return (Vec::new(), Some(error.into())),
                    Some(index) => {
                        failure = Some(self.locate(&items[index], error));
                        fine = &items[..index];
                    }
                },
            }
        }
    }

    fn embed_all(&self, items: &[Item]) -> candlewick::Result<Vec<Embedding>> {
        match self.role {
            Role::Plain => self.model.embed(items),
            Role::Query => self.model.query_embed(items),
            Role::Passage => self.model.passage_embed(items),
        }
    }

    /// Says which line it was. The library counts within the window, which means nothing to a user.
    fn locate(&self, item: &Item, error: Error) -> anyhow::Error {
        let place = match &self.input {
            Some(input) => format!("{input}: line {}", item.line),
            None => format!("text {}", item.line),
        };
        match error {
            Error::NonFinite { model, .. } => {
                anyhow!("{place}: model `{model}`: the embedding is not finite")
            }
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
