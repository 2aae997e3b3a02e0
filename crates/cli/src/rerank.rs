//! `candlewick rerank`: a query and documents in, a score for each document out.

use std::io::IsTerminal;

use anyhow::Result;
use candlewick::{Kind, ScoreActivation, ScoreOptions, TextCrossEncoder};

use crate::args::{ActivationArg, RerankArgs};
use crate::input::{Input, Item};
use crate::jsonl::{Computed, Fields, added};
use crate::model::Place;
use crate::output::Destination;
use crate::texts::Texts;
use crate::writer::Writer;
use crate::{Usage, progress};

pub(crate) fn run(mut args: RerankArgs) -> Result<()> {
    let place = Place::find(&args.model, Kind::CrossEncoder, &args.source, &args.fetch)?;
    // A row says what its model is; a folder may be of another kind too.
    if let Place::Registry { spec, .. } = &place
        && spec.kind != Kind::CrossEncoder
    {
        let problem = format!("{} is of kind {}, and reranking takes a cross-encoder", spec.id, spec.kind);
        return Err(Usage::new(problem + ": `candlewick models --kind cross-encoder` lists them"));
    }
    let is_sorted = args.sort || args.top_k.is_some();
    let names = if is_sorted { added::RANKED } else { added::SCORE };
    let input = Input::open(std::mem::take(&mut args.document), &args.io, names)?;
    let destination = Destination::open(args.io.output.as_deref())?;
    let data_is_on_screen = destination.is_stdout() && std::io::stdout().is_terminal();
    let bars = progress::bars_are_wanted(args.fetch.no_progress) && !data_is_on_screen;
    let texts = Texts::start(input, bars);

    let mut load_options = place.options(&args.source, &args.compute, &args.fetch);
    load_options.instruction.clone_from(&args.instruction);
    let by_id = TextCrossEncoder::load_with;
    let model = place.load(load_options, by_id, TextCrossEncoder::from_folder_with)?;
    let options = score_options(&args);
    // Refuses a label that the model lacks, also where there will be no document.
    model.rerank_with::<&str>(&args.query, &[], &options)?;

    let mut writer = Writer::jsonl(destination);
    let rerank = |items: &[Item]| model.rerank_with(&args.query, items, &options);
    if is_sorted {
        let mut ranking = Ranking::new(args.top_k.map_or(usize::MAX, Into::into));
        texts.for_each_window("the score", rerank, |items, scores| {
            ranking.add(items, scores);
            Ok(())
        })?;
        writer.write(ranking.lines())?;
    } else {
        texts.for_each_window("the score", rerank, |items, scores| {
            let scores = scores.into_iter().map(Computed::Score);
            Ok(writer.write(items.into_iter().map(|item| item.fields).zip(scores))?)
        })?;
    }
    Ok(writer.finish()?)
}

fn score_options(args: &RerankArgs) -> ScoreOptions {
    let mut options = ScoreOptions::new().label(args.label);
    options.activation = args.activation.map(|activation| match activation {
        ActivationArg::Raw => ScoreActivation::Raw,
        ActivationArg::Sigmoid => ScoreActivation::Sigmoid,
        ActivationArg::Softmax => ScoreActivation::Softmax,
    });
    options.window_overlap = args.windows;
    options
}

/// The best documents so far, without their texts.
struct Ranking {
    top_k: usize,
    documents: Vec<Scored>,
    count: usize,
}

struct Scored {
    fields: Fields,
    index: usize,
    score: f32,
}

impl Ranking {
    fn new(top_k: usize) -> Ranking {
        Ranking { top_k, documents: Vec::new(), count: 0 }
    }

    fn add(&mut self, items: Vec<Item>, scores: Vec<f32>) {
        for (item, score) in items.into_iter().zip(scores) {
            self.documents.push(Scored { fields: item.fields, index: self.count, score });
            self.count += 1;
        }
        // Of equal scores the earlier document stays before the later one.
        self.documents.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.documents.truncate(self.top_k);
    }

    /// Best first.
    fn lines(self) -> impl Iterator<Item = (Fields, Computed)> {
        self.documents
            .into_iter()
            .map(|Scored { fields, index, score }| (fields, Computed::Ranked { index, score }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rankings_are_stable_and_keep_the_best() {
        let item = || Item { text: String::new(), fields: Fields::default(), line: 1, bytes: 0 };
        let ranked = |top_k: usize| {
            let mut ranking = Ranking::new(top_k);
            for window in [&[1.0, 3.0, -2.0][..], &[3.0, 2.0], &[3.0]] {
                ranking.add(window.iter().map(|_| item()).collect(), window.to_vec());
                assert!(ranking.documents.len() <= top_k);
            }
            let index = |(_, computed)| match computed {
                Computed::Ranked { index, .. } => index,
                other => panic!("{other:?}"),
            };
            ranking.lines().map(index).collect::<Vec<usize>>()
        };
        assert_eq!(ranked(usize::MAX), [1, 3, 5, 4, 0, 2]);
        assert_eq!(ranked(2), [1, 3]);
    }
}
