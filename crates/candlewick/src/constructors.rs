//! The constructors that the types for models of texts have in common.

/// Writes them: `constructors!(TYPE, MODEL, KIND, "which files of a folder are read")`. The type has one field, an `Arc` of
/// the model.
macro_rules! constructors {
    ($facade:ident, $model:ty, $kind:expr, $files:literal) => {
        impl $facade {
            /// Loads a model by its id or an alias, fetching its files if they are not cached.
            ///
            /// # Errors
            ///
            /// When the id is unknown, or of a model of another kind, or that cannot be loaded yet; when the files cannot
            /// be had, or something in them is broken or not supported.
            pub fn load(id: &str) -> candlewick_models::Result<Self> {
                Self::load_with(id, candlewick_models::LoadOptions::default())
            }

            /// [`load`](Self::load) with options.
            ///
            /// # Errors
            ///
            /// As `load`, and when an option asks for more than the model has.
            pub fn load_with(
                id: &str,
                options: candlewick_models::LoadOptions,
            ) -> candlewick_models::Result<Self> {
                Ok(Self { model: std::sync::Arc::new(<$model>::load(id, options)?) })
            }

            #[doc = concat!("Loads a folder that holds ", $files)]
            ///
            /// # Errors
            ///
            /// When a file is missing, or something in one is broken or not supported.
            pub fn from_folder(folder: impl AsRef<std::path::Path>) -> candlewick_models::Result<Self> {
                Self::from_folder_with(folder, candlewick_models::LoadOptions::default())
            }

            /// [`from_folder`](Self::from_folder) with options.
            ///
            /// # Errors
            ///
            /// As `from_folder`, and when an option asks for more than the model has.
            pub fn from_folder_with(
                folder: impl AsRef<std::path::Path>,
                options: candlewick_models::LoadOptions,
            ) -> candlewick_models::Result<Self> {
                let model = <$model>::from_folder(folder.as_ref(), options)?;
                Ok(Self { model: std::sync::Arc::new(model) })
            }

            /// The models of the built-in registry that can be loaded by id, in its order.
            pub fn supported_models() -> Vec<&'static candlewick_models::ModelSpec> {
                crate::constructors::loadable($kind)
            }
        }
    };
}

pub(crate) use constructors;

use candlewick_models::{Kind, ModelSpec, Registry, State};

pub(crate) fn loadable(kind: Kind) -> Vec<&'static ModelSpec> {
    let is_loadable = |spec: &&ModelSpec| spec.kind == kind && spec.state() == State::Loadable;
    Registry::built_in().models().iter().filter(is_loadable).collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        HybridTextEmbedding, LateInteractionTextEmbedding, SparseTextEmbedding, TextCrossEncoder,
        TextEmbedding,
    };

    #[test]
    fn models_are_shareable_between_threads() {
        fn check<T: Clone + Send + Sync + 'static>() {}
        check::<TextEmbedding>();
        check::<SparseTextEmbedding>();
        check::<LateInteractionTextEmbedding>();
        check::<HybridTextEmbedding>();
        check::<TextCrossEncoder>();
    }
}
