//! Which tokens are added to a text, and which have vectors: what a registry row, ColBERT's artifact.metadata or PyLate's
//! config_sentence_transformers.json says.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use crate::checkpoint::Checkpoint;
use crate::folder::{Projection, layer_file, need_layer_file, read_layer, read_projection, special_token};
use crate::hybrid::{HybridOutputs, WantedEmbeddings};
use crate::json::read_json_if_there;
use crate::registry::{Kind, LateInteractionSpec, ModelSpec};
use crate::text::{Encoding, TextTokenizer};
use crate::{Error, Result, TextRole};

/// What says how texts are laid out.
#[derive(Debug)]
pub(super) enum Layout {
    Row(LateInteractionSpec),
    ColBert(ColBertMetadata),
    PyLate(PyLateConfig),
    /// BGE-M3: no markers, a layer in a file unless a graph has it, and no vector for the first token.
    BgeM3,
    /// Nothing: texts are as the tokenizer makes them.
    Plain,
}

/// ColBERT's artifact.metadata (`ColBERTConfig` in `colbert/infra/config`).
#[derive(Debug, Deserialize)]
pub(super) struct ColBertMetadata {
    #[serde(default = "query_token")]
    query_token_id: String,
    #[serde(default = "document_token")]
    doc_token_id: String,
    #[serde(default = "query_maxlen")]
    query_maxlen: usize,
    #[serde(default = "dim")]
    dim: usize,
    #[serde(default)]
    attend_to_mask_tokens: bool,
    #[serde(default = "yes")]
    mask_punctuation: bool,
}

/// What PyLate adds to config_sentence_transformers.json.
#[derive(Debug, Deserialize)]
pub(super) struct PyLateConfig {
    query_prefix: String,
    document_prefix: String,
    query_length: usize,
    document_length: usize,
    #[serde(default)]
    attend_to_expansion_tokens: bool,
    #[serde(default)]
    skiplist_words: Vec<String>,
    #[serde(default = "yes")]
    do_query_expansion: bool,
}

/// How many tokens the tokenizer may make of a text, the marker left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths {
    pub(super) query: usize,
    pub(super) document: usize,
}

/// How texts become the tokens that the encoder gets.
#[derive(Debug)]
pub(super) struct TokenLayout {
    lengths: Lengths,
    /// Of a query and of a document.
    markers: Option<(u32, u32)>,
    filling: Option<Filling>,
    /// Tokens of documents that have no vectors.
    skipped_ids: HashSet<u32>,
    none: HashSet<u32>,
}

/// What short queries are filled up with.
#[derive(Clone, Copy, Debug)]
struct Filling {
    token_id: u32,
    /// The marker included.
    length: usize,
    is_attended: bool,
}

impl Layout {
    /// What the row says, or else the folder.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or contradicts itself.
    pub(super) fn read(folder: &Path, spec: Option<&ModelSpec>) -> Result<Self> {
        if let Some(row) = spec.and_then(|spec| spec.late_interaction) {
            return Ok(Self::Row(row));
        }
        if spec.is_some_and(|spec| spec.kind == Kind::Hybrid) {
            return Ok(Self::BgeM3);
        }
        let path = folder.join("config_sentence_transformers.json");
        let config: Option<serde_json::Map<String, serde_json::Value>> = read_json_if_there(&path)?;
        if let Some(config) = config.filter(|config| config.contains_key("query_prefix")) {
            let config: PyLateConfig = serde_json::from_value(config.into())
                .map_err(|source| Error::ParseJson { path: path.clone(), source })?;
            for (key, length) in
                [("query_length", config.query_length), ("document_length", config.document_length)]
            {
                if length < 2 {
                    let problem = format!("{length} tokens hold no marker");
                    return Err(Error::UnsupportedConfig { path, key: key.into(), problem });
                }
            }
            return Ok(Self::PyLate(config));
        }
        if let Some(metadata) = read_json_if_there(&folder.join("artifact.metadata"))? {
            return Ok(Self::ColBert(metadata));
        }
        Ok(layer_file(folder, "colbert_linear").map_or(Self::Plain, |_| Self::BgeM3))
    }

    /// Which embeddings are taken of a graph that gives a hybrid model's; `None` where something else says what a model's
    /// vectors are.
    pub(super) fn wanted_embeddings(&self, spec: Option<&ModelSpec>) -> Option<WantedEmbeddings> {
        let are_needed = spec.is_some_and(|spec| spec.kind == Kind::Hybrid);
        let wanted = WantedEmbeddings { outputs: HybridOutputs::MULTI_VECTOR, are_needed };
        matches!(self, Self::BgeM3 | Self::Plain).then_some(wanted)
    }

    /// Whether vectors are normalised unless something else is said.
    pub(super) fn normalizes(&self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Whether the first token has no vector.
    pub(super) fn skips_first(&self) -> bool {
        matches!(self, Self::BgeM3)
    }

    /// Whether queries are filled up with tokens to which no token attends.
    pub(super) fn leaves_filling_unattended(&self) -> bool {
        match self {
            Self::Row(row) => row.query_length.is_some() && !row.attend_to_filling,
            Self::ColBert(metadata) => !metadata.attend_to_mask_tokens,
            Self::PyLate(config) => config.do_query_expansion && !config.attend_to_expansion_tokens,
            Self::BgeM3 | Self::Plain => false,
        }
    }

    /// How long texts may be, where the caller asked for `requested` tokens, and `max_length` are there.
    pub(super) fn lengths(&self, requested: Option<usize>, max_length: usize) -> Lengths {
        let both = |length| Lengths { query: length, document: length };
        match self {
            Self::Row(row) if row.marker_beyond_max_length => both(max_length),
            Self::Row(_) | Self::ColBert(_) => both(max_length.saturating_sub(1)),
            Self::PyLate(config) => Lengths {
                query: config.query_length.min(max_length) - 1,
                document: requested.unwrap_or(config.document_length).min(max_length).saturating_sub(1),
            },
            Self::BgeM3 | Self::Plain => both(max_length),
        }
    }

    /// The layers behind the encoder: modules, or the width of ColBERT's own.
    ///
    /// # Errors
    ///
    /// When a module has no place there or cannot be read.
    pub(super) fn projections(&self, checkpoint: &Checkpoint) -> Result<(Vec<Projection>, Option<usize>)> {
        let mut projections = Vec::new();
        match self {
            Self::ColBert(metadata) => return Ok((projections, Some(metadata.dim))),
            Self::BgeM3 if checkpoint.backbone.embeddings().is_some() => return Ok((projections, None)),
            Self::BgeM3 => {
                let path = need_layer_file(&checkpoint.folder, "colbert_linear")?;
                return Ok((vec![read_layer(&path, &checkpoint.name)?], None));
            }
            Self::Row(_) if checkpoint.folder_config.modules.is_none() => {
                return Ok((projections, checkpoint.spec.as_ref().and_then(|spec| spec.dim)));
            }
            _ => {}
        }
        for (index, module) in checkpoint.folder_config.modules.iter().flatten().enumerate() {
            match module.name() {
                "Transformer" if index == 0 => {}
                // Layers that a graph has in it.
                "Dense" if checkpoint.backbone.architecture().is_none() => {}
                "Dense" => projections.push(read_projection(&module.folder)?),
                // What a text's one vector is made by, where the folder is also of another kind.
                "Pooling" | "Normalize" if matches!(self, Self::Plain) => {}
                _ => return Err(module.unsupported(&checkpoint.folder, index)),
            }
        }
        Ok((projections, None))
    }

    /// The ids of the tokens that play a part.
    ///
    /// # Errors
    ///
    /// When the tokenizer does not have them.
    pub(super) fn tokens(
        &self,
        checkpoint: &Checkpoint,
        tokenizer: &TextTokenizer,
        lengths: Lengths,
    ) -> Result<TokenLayout> {
        let path = checkpoint.folder.join("tokenizer.json");
        let missing = |token: &str| Error::UnsupportedConfig {
            path: path.clone(),
            key: "vocab".into(),
            problem: format!("there is no token `{token}`"),
        };
        let id = |token: &str| tokenizer.token_id(token).ok_or_else(|| missing(token));
        let punctuation = || -> HashSet<u32> {
            let of_character = |character: char| tokenizer.first_id(character.encode_utf8(&mut [0; 4]));
            (' '..='~').filter(char::is_ascii_punctuation).filter_map(of_character).collect()
        };
        let filling = |length: usize, is_attended: bool| -> Result<Option<Filling>> {
            let token_id = mask_token(checkpoint, tokenizer)?.ok_or_else(|| missing("[MASK]"))?;
            Ok(Some(Filling { token_id, length, is_attended }))
        };
        let mut layout = TokenLayout {
            lengths,
            markers: None,
            filling: None,
            skipped_ids: HashSet::new(),
            none: HashSet::new(),
        };
        match self {
            Self::Row(row) => {
                layout.markers = Some((row.query_marker, row.document_marker));
                if let Some(length) = row.query_length {
                    layout.filling = filling(length, row.attend_to_filling)?;
                }
                if row.skip_punctuation {
                    layout.skipped_ids = punctuation();
                    layout.skipped_ids.insert(padding_id(checkpoint)?);
                }
            }
            Self::ColBert(metadata) => {
                layout.markers = Some((id(&metadata.query_token_id)?, id(&metadata.doc_token_id)?));
                layout.filling = filling(metadata.query_maxlen, metadata.attend_to_mask_tokens)?;
                if metadata.mask_punctuation {
                    layout.skipped_ids = punctuation();
                    layout.skipped_ids.insert(padding_id(checkpoint)?);
                }
            }
            Self::PyLate(config) => {
                layout.markers = Some((id(&config.query_prefix)?, id(&config.document_prefix)?));
                if config.do_query_expansion {
                    layout.filling = filling(config.query_length, config.attend_to_expansion_tokens)?;
                }
                layout.skipped_ids =
                    config.skiplist_words.iter().map(|word| id(word)).collect::<Result<_>>()?;
            }
            Self::BgeM3 | Self::Plain => {}
        }
        layout.check(checkpoint, &path)?;
        Ok(layout)
    }
}

impl TokenLayout {
    /// Markers come from files and rows, so they may be beyond the vocabulary.
    fn check(&self, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
        let Some(vocab_size) = checkpoint.backbone.vocab_size() else {
            return Ok(());
        };
        let markers = self.markers.iter().flat_map(|(query, document)| [*query, *document]);
        match markers
            .chain(self.filling.map(|filling| filling.token_id))
            .find(|id| *id as usize >= vocab_size)
        {
            None => Ok(()),
            Some(id) => Err(Error::UnsupportedConfig {
                path: path.to_owned(),
                key: "vocab".into(),
                problem: format!("the marker {id} is not among the encoder's {vocab_size} tokens"),
            }),
        }
    }

    /// Tokens that are read, special tokens and marker included.
    pub(super) fn max_length(&self, role: TextRole) -> usize {
        let length = if role == TextRole::Query { self.lengths.query } else { self.lengths.document };
        length.saturating_add(usize::from(self.markers.is_some()))
    }

    /// Tokens that have no vectors.
    pub(super) fn skipped_ids(&self, role: TextRole) -> &HashSet<u32> {
        if role == TextRole::Query { &self.none } else { &self.skipped_ids }
    }

    /// The tokens of a text, marked and filled up.
    ///
    /// # Errors
    ///
    /// When it cannot be tokenized.
    pub(super) fn encode(
        &self,
        tokenizer: &TextTokenizer,
        index: usize,
        text: &str,
        role: TextRole,
    ) -> Result<Encoding> {
        let is_query = role == TextRole::Query;
        let max_length = if is_query { self.lengths.query } else { self.lengths.document };
        let mut encoding = tokenizer.encode_within(index, text, max_length)?;
        let Some((query_marker, document_marker)) = self.markers else {
            return Ok(encoding);
        };
        let place = encoding.token_ids.len().min(1);
        encoding.token_ids.insert(place, if is_query { query_marker } else { document_marker });
        if let Some(type_ids) = &mut encoding.type_ids {
            type_ids.insert(place, 0);
        }
        let len = encoding.token_ids.len();
        if let Some(filling) = self.filling.filter(|filling| is_query && filling.length > len) {
            encoding.token_ids.resize(filling.length, filling.token_id);
            if let Some(type_ids) = &mut encoding.type_ids {
                type_ids.resize(filling.length, 0);
            }
            encoding.attended = (!filling.is_attended).then_some(len);
        }
        Ok(encoding)
    }
}

/// The mask token that tokenizer_config.json names, or what it is usually called.
fn mask_token(checkpoint: &Checkpoint, tokenizer: &TextTokenizer) -> Result<Option<u32>> {
    let named = special_token(&checkpoint.folder, "mask_token")?;
    let usual = ["[MASK]", "<mask>"].into_iter();
    Ok(named.as_deref().into_iter().chain(usual).find_map(|token| tokenizer.token_id(token)))
}

/// `pad_token_id` of config.json; 0 if it is not stated, as in fastembed.
fn padding_id(checkpoint: &Checkpoint) -> Result<u32> {
    #[derive(Default, Deserialize)]
    struct Config {
        pad_token_id: Option<u32>,
    }
    let config: Option<Config> = read_json_if_there(&checkpoint.folder.join("config.json"))?;
    Ok(config.unwrap_or_default().pad_token_id.unwrap_or(0))
}

fn query_token() -> String {
    "[unused0]".into()
}

fn document_token() -> String {
    "[unused1]".into()
}

fn query_maxlen() -> usize {
    32
}

fn dim() -> usize {
    128
}

fn yes() -> bool {
    true
}
