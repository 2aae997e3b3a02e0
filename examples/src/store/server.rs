//! Qdrant as a server, over gRPC: `qdrant-client`.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use qdrant_client::qdrant::{
    CountPointsBuilder, CreateCollectionBuilder, Distance, Modifier, PointStruct, PrefetchQueryBuilder,
    Query as QdrantQuery, QueryPointsBuilder, RrfBuilder, ScoredPoint, SparseVectorParamsBuilder,
    SparseVectorsConfigBuilder, UpsertPointsBuilder, Vector, VectorInput, VectorParamsBuilder,
    VectorsConfigBuilder,
};
use qdrant_client::{Payload, Qdrant};
use tokio::runtime::Runtime;

use super::{CANDIDATES, DENSE, Hit, Layout, Point, Query, SPARSE, Store, passage, payload};
use crate::fusion::QDRANT_RRF_K;

/// A collection of a server.
pub struct ServerStore {
    client: Qdrant,
    collection: String,
    runtime: Runtime,
}

impl std::fmt::Debug for ServerStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServerStore").field("collection", &self.collection).finish_non_exhaustive()
    }
}

impl ServerStore {
    /// Makes a new collection; one of the same name is deleted. `url` is that of gRPC: `http://localhost:6334`.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached, or refuses.
    pub fn create(url: &str, collection: &str, layout: Layout) -> Result<Self> {
        let store = Self::connect(url, collection)?;
        let mut vectors = VectorsConfigBuilder::default();
        vectors.add_named_vector_params(DENSE, VectorParamsBuilder::new(layout.dim as u64, Distance::Cosine));
        let mut sparse = SparseVectorParamsBuilder::default();
        if layout.idf {
            sparse = sparse.modifier(Modifier::Idf);
        }
        let mut sparse_vectors = SparseVectorsConfigBuilder::default();
        sparse_vectors.add_named_vector_params(SPARSE, sparse);
        let request = CreateCollectionBuilder::new(collection)
            .vectors_config(vectors)
            .sparse_vectors_config(sparse_vectors);
        store.runtime.block_on(async {
            if store.client.collection_exists(collection).await? {
                store.client.delete_collection(collection).await?;
            }
            store.client.create_collection(request).await
        })?;
        Ok(store)
    }

    /// Opens a collection.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached, or has no such collection.
    pub fn open(url: &str, collection: &str) -> Result<Self> {
        let store = Self::connect(url, collection)?;
        let exists = store.runtime.block_on(store.client.collection_exists(collection))?;
        ensure!(exists, "{url} has no collection {collection}; index something first");
        Ok(store)
    }

    fn connect(url: &str, collection: &str) -> Result<Self> {
        let runtime = Runtime::new().context("could not start threads")?;
        // The client looks for the server's version as it is made, which takes a runtime.
        let client = runtime.block_on(async { Qdrant::from_url(url).build() })?;
        let store = Self { client, collection: collection.to_owned(), runtime };
        let health = store.runtime.block_on(store.client.health_check());
        health.with_context(|| format!("no Qdrant answers at {url}"))?;
        Ok(store)
    }
}

impl Store for ServerStore {
    fn upsert(&self, points: Vec<Point>) -> Result<()> {
        let point = |point: Point| {
            let sparse = Vector::new_sparse(point.sparse.indices, point.sparse.values);
            let vectors = HashMap::from([
                (DENSE.to_owned(), Vector::new_dense(point.dense)),
                (SPARSE.to_owned(), sparse),
            ]);
            Ok(PointStruct::new(point.id, vectors, Payload::try_from(payload(point.passage))?))
        };
        let points = points.into_iter().map(point).collect::<Result<Vec<_>>>()?;
        let request = UpsertPointsBuilder::new(&self.collection, points).wait(true);
        self.runtime.block_on(self.client.upsert_points(request))?;
        Ok(())
    }

    /// A server does so by itself.
    fn finish(&self) -> Result<()> {
        Ok(())
    }

    fn count(&self) -> Result<usize> {
        let request = CountPointsBuilder::new(&self.collection).exact(true);
        let response = self.runtime.block_on(self.client.count(request))?;
        Ok(response.result.context("the server did not count")?.count as usize)
    }

    fn search(&self, query: Query, limit: usize) -> Result<Vec<Hit>> {
        let mut legs = Vec::new();
        if let Some(dense) = query.dense {
            legs.push((DENSE, QdrantQuery::new_nearest(VectorInput::new_dense(dense))));
        }
        if let Some(sparse) = query.sparse {
            let vector = VectorInput::new_sparse(sparse.indices, sparse.values);
            legs.push((SPARSE, QdrantQuery::new_nearest(vector)));
        }
        let request = QueryPointsBuilder::new(&self.collection).limit(limit as u64).with_payload(true);
        let request = match legs.len() {
            0 => return Ok(Vec::new()),
            1 => {
                let (name, query) = legs.remove(0);
                request.using(name).query(query)
            }
            _ => {
                let candidates = CANDIDATES.max(limit) as u64;
                let prefetch = |(name, query)| {
                    PrefetchQueryBuilder::default().using(name).query(query).limit(candidates)
                };
                let request = legs.into_iter().map(prefetch).fold(request, QueryPointsBuilder::add_prefetch);
                request.query(QdrantQuery::new_rrf(RrfBuilder::with_k(QDRANT_RRF_K)))
            }
        };
        let response = self.runtime.block_on(self.client.query(request))?;
        Ok(response.result.into_iter().map(hit).collect())
    }
}

fn hit(point: ScoredPoint) -> Hit {
    let field = |key: &str| Some(point.payload.get(key)?.as_str()?.to_owned());
    Hit { score: point.score, passage: passage(field) }
}
