//! What must be true of a row by itself, beyond its types.

use std::path::{Component, Path};

use super::spec::{Kind, ModelSpec, ReferenceFigures, SourceSpec, SparseMethod, WeightsFormat, WeightsSpec};

type Result<T = (), E = String> = std::result::Result<T, E>;

impl ModelSpec {
    pub(super) fn check(&self) -> Result {
        if self.id.is_empty() || [self.dim, self.vocab_size, self.max_length].contains(&Some(0)) {
            return Err("id, dim, vocab_size and max_length must not be empty or zero".into());
        }
        let is_vector = !matches!(self.kind, Kind::Sparse | Kind::CrossEncoder);
        if is_vector != self.dim.is_some() {
            let must = if is_vector { "must" } else { "cannot" };
            return Err(format!("a {} model {must} state dim", self.kind));
        }
        if self.kind != Kind::Sparse && (self.vocab_size.is_some() || self.requires_idf) {
            return Err("vocab_size and requires_idf are of sparse models".into());
        }
        if (self.kind == Kind::Sparse) != self.method.is_some() {
            return Err("method is of sparse models, and they must state it".into());
        }
        if self.late_interaction.is_some() && self.kind != Kind::LateInteraction {
            return Err("late_interaction is of late-interaction models".into());
        }
        self.check_pairs()?;
        self.check_weights()?;
        self.check_graphs()?;
        self.check_paths()?;
        self.check_checksums()?;
        for (key, figures) in [("reference", &self.reference), ("query_reference", &self.query_reference)] {
            if let Some(figures) = figures {
                figures.check(self, key).map_err(|problem| format!("{key}: {problem}"))?;
            }
        }
        Ok(())
    }

    fn check_pairs(&self) -> Result {
        let of_pairs = self.pair_template.is_some() || self.logit_score.is_some();
        if of_pairs && self.kind != Kind::CrossEncoder {
            return Err("pair_template and logit_score are of cross-encoders".into());
        }
        if let Some(template) = &self.pair_template {
            template.pieces().map_err(|problem| format!("pair_template: {problem}"))?;
        }
        Ok(())
    }

    fn check_weights(&self) -> Result {
        // Only sparse models can do without a network.
        if (self.weights.is_empty() && self.method != Some(SparseMethod::Bm25)) || self.sources.is_empty() {
            return Err("a model needs weights and sources".into());
        }
        for weights in &self.weights {
            let is_onnx = weights.format == WeightsFormat::Onnx;
            if !is_onnx && (weights.dialect.is_some() || !weights.data.is_empty()) {
                return Err(format!("`{}`: dialect and data are of onnx files", weights.path));
            }
            if !self.sources.iter().any(|source| source.has(weights.format)) {
                return Err(format!("no source has `{}`", weights.path));
            }
        }
        for format in self.sources.iter().flat_map(SourceSpec::formats) {
            if !self.weights.iter().any(|weights| weights.format == *format) {
                return Err(format!("a source has {format} weights, but there are none"));
            }
        }
        Ok(())
    }

    fn check_graphs(&self) -> Result {
        let is_onnx = |weights: &WeightsSpec| weights.format == WeightsFormat::Onnx;
        if !self.weights.iter().any(is_onnx) {
            if !self.inputs.is_empty() {
                return Err("inputs are of onnx files".into());
            }
            if self.output.is_some() {
                return Err("output is of onnx files".into());
            }
        }
        for (index, input) in self.inputs.iter().enumerate() {
            let name = &input.name;
            if self.inputs[..index].iter().any(|other| other.name == *name) {
                return Err(format!("the input `{name}` is there twice"));
            }
            let are_finite = [input.plain, input.query, input.passage].iter().all(|value| value.is_finite());
            if name.is_empty() || !are_finite {
                return Err(format!("the input `{name}` has no name, or a value that is not finite"));
            }
        }
        Ok(())
    }

    fn check_paths(&self) -> Result {
        let weights = self.weights.iter().flat_map(|weights| weights.data.iter().chain([&weights.path]));
        let wheel_folders = self.sources.iter().filter_map(|source| match source {
            SourceSpec::Wheel { folder, .. } => Some(folder),
            SourceSpec::Hub { .. } => None,
        });
        for path in weights.chain(&self.files).chain(&self.optional_files).chain(wheel_folders) {
            let stays_inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            if path.is_empty() || path.contains('\\') || !stays_inside {
                return Err(format!("`{path}` is not a relative path inside the model's folder"));
            }
        }
        Ok(())
    }

    fn check_checksums(&self) -> Result {
        let wheels = self.sources.iter().filter_map(|source| match source {
            SourceSpec::Wheel { sha256, .. } => Some(sha256),
            SourceSpec::Hub { .. } => None,
        });
        let figures = self.reference.iter().chain(&self.query_reference);
        let images = figures.filter_map(|figures| Some(&figures.image.as_ref()?.sha256));
        let weights = self.weights.iter().filter_map(|weights| weights.sha256.as_ref());
        for sum in weights.chain(wheels).chain(images) {
            if sum.len() != 64 || !sum.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!("`{sum}` is not a sha256 in lower-case hexadecimal"));
            }
        }
        Ok(())
    }
}

impl ReferenceFigures {
    /// Whether what went in and what came out are of the model's kind.
    fn check(&self, model: &ModelSpec, key: &str) -> Result {
        let is_query = key == "query_reference";
        let takes_image = model.kind == Kind::Image || (model.kind == Kind::Multimodal && !is_query);
        if self.text.is_some() == takes_image || self.image.is_some() != takes_image {
            let expected = if takes_image { "an image" } else { "a text" };
            return Err(format!("{} models are given {expected}", model.kind));
        }
        if is_query && matches!(model.kind, Kind::Image | Kind::CrossEncoder) {
            return Err(format!("{} models embed no queries", model.kind));
        }
        let dim = model.dim.unwrap_or(usize::MAX);
        let (values, indices, rows) = (self.values.len(), self.indices.len(), self.rows.len());
        let (fits, expected) = match model.kind {
            // A hybrid model's figures are of its dense embedding.
            Kind::Dense | Kind::Hybrid | Kind::Image => {
                ((1..=dim).contains(&values) && indices + rows == 0, "values, at most dim")
            }
            Kind::Sparse => (values > 0 && values == indices && rows == 0, "as many indices as values"),
            Kind::LateInteraction | Kind::Multimodal => {
                let fit = self.rows.iter().all(|row| (1..=dim).contains(&row.len()));
                (rows > 0 && fit && values + indices == 0, "rows, none longer than dim")
            }
            Kind::CrossEncoder => {
                (values > 0 && values == self.documents.len() && indices + rows == 0, "a value per document")
            }
        };
        if !fits || (model.kind != Kind::CrossEncoder && !self.documents.is_empty()) {
            return Err(format!("{} models give {expected}", model.kind));
        }
        let numbers = self.values.iter().chain(self.rows.iter().flatten()).chain([&self.tolerance]);
        if numbers.into_iter().any(|number| !number.is_finite()) || self.tolerance <= 0.0 {
            return Err("a number is not finite, or the tolerance not positive".into());
        }
        Ok(())
    }
}
