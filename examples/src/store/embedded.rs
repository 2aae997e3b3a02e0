//! Qdrant in this process: `qdrant-edge`, with a folder of its own and no server.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use qdrant_edge::{
    CountRequest, Distance, EdgeConfigBuilder, EdgeShard, EdgeSparseVectorParamsBuilder,
    EdgeVectorParamsBuilder, Fusion, Modifier, NamedQuery, PointInsertOperations, PointOperations,
    PointStruct, Prefetch, QueryEnum, QueryRequest, ScoredPoint, ScoringQuery, UpdateOperation, Vector,
    VectorInternal, Vectors, WithPayloadInterface, WithVector,
};

use super::{CANDIDATES, DENSE, Hit, Layout, Point, Query, SPARSE, Store, passage, payload};
use crate::fusion::QDRANT_RRF_K;

/// A collection in a folder.
#[derive(Debug)]
pub struct EmbeddedStore {
    shard: EdgeShard,
}

impl EmbeddedStore {
    /// Makes a new collection; what the folder held before is deleted, if it was a collection.
    ///
    /// # Errors
    ///
    /// When the folder holds something else, or cannot be written.
    pub fn create(folder: &Path, layout: Layout) -> Result<Self> {
        let is_empty =
            !folder.exists() || folder.read_dir().is_ok_and(|mut entries| entries.next().is_none());
        if !is_empty {
            ensure!(is_collection(folder), "{} holds something that is no collection", folder.display());
            std::fs::remove_dir_all(folder)
                .with_context(|| format!("could not delete {}", folder.display()))?;
        }
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        let mut sparse = EdgeSparseVectorParamsBuilder::new();
        if layout.idf {
            sparse = sparse.modifier(Modifier::Idf);
        }
        let config = EdgeConfigBuilder::new()
            .vector(DENSE, EdgeVectorParamsBuilder::new(layout.dim, Distance::Cosine).build())
            .sparse_vector(SPARSE, sparse.build())
            .build();
        let shard =
            EdgeShard::new(folder, config).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Self { shard })
    }

    /// Opens a collection.
    ///
    /// # Errors
    ///
    /// When there is none, or it is broken.
    pub fn open(folder: &Path) -> Result<Self> {
        ensure!(is_collection(folder), "{} is no collection; index something first", folder.display());
        let shard =
            EdgeShard::load(folder, None).with_context(|| format!("could not open {}", folder.display()))?;
        Ok(Self { shard })
    }
}

impl Store for EmbeddedStore {
    fn upsert(&self, points: Vec<Point>) -> Result<()> {
        let point = |point: Point| {
            let sparse = Vector::new_sparse(point.sparse.indices, point.sparse.values)?;
            let vectors = Vectors::new_named([(DENSE, Vector::new_dense(point.dense)), (SPARSE, sparse)]);
            Ok(PointStruct::new(point.id, vectors, payload(point.passage)).into())
        };
        let points = points.into_iter().map(point).collect::<Result<Vec<_>>>()?;
        let points = PointOperations::UpsertPoints(PointInsertOperations::PointsList(points));
        Ok(self.shard.update(UpdateOperation::PointOperation(points))?)
    }

    fn finish(&self) -> Result<()> {
        self.shard.optimize()?;
        self.shard.flush();
        Ok(())
    }

    fn count(&self) -> Result<usize> {
        Ok(self.shard.count(CountRequest { filter: None, exact: true })?)
    }

    fn search(&self, query: Query, limit: usize) -> Result<Vec<Hit>> {
        let mut legs = Vec::new();
        if let Some(dense) = query.dense {
            legs.push(nearest(DENSE, Vector::new_dense(dense)));
        }
        if let Some(sparse) = query.sparse {
            legs.push(nearest(SPARSE, Vector::new_sparse(sparse.indices, sparse.values)?));
        }
        let (prefetches, query) = match legs.len() {
            0 => return Ok(Vec::new()),
            1 => (Vec::new(), legs.remove(0)),
            _ => {
                let limit = CANDIDATES.max(limit);
                let prefetches = legs.into_iter().map(|leg| prefetch(leg, limit)).collect();
                (prefetches, ScoringQuery::Fusion(Fusion::Rrf { k: QDRANT_RRF_K as usize, weights: None }))
            }
        };
        let request = QueryRequest {
            prefetches,
            query: Some(query),
            filter: None,
            score_threshold: None,
            limit,
            offset: 0,
            params: None,
            with_vector: WithVector::Bool(false),
            with_payload: WithPayloadInterface::Bool(true),
        };
        Ok(self.shard.query(request)?.into_iter().map(hit).collect())
    }
}

fn nearest(name: &str, vector: Vector) -> ScoringQuery {
    let query = VectorInternal::from(vector);
    ScoringQuery::Vector(QueryEnum::Nearest(NamedQuery { query, using: Some(name.to_owned()) }))
}

fn prefetch(query: ScoringQuery, limit: usize) -> Prefetch {
    let (prefetches, query) = (Vec::new(), Some(query));
    Prefetch { prefetches, query, limit, params: None, filter: None, score_threshold: None }
}

fn hit(point: ScoredPoint) -> Hit {
    let field = |key: &str| Some(point.payload.as_ref()?.0.get(key)?.as_str()?.to_owned());
    Hit { score: point.score, passage: passage(field) }
}

/// Whether a folder is one that [`EmbeddedStore::create`] made.
fn is_collection(folder: &Path) -> bool {
    folder.join("edge_config.json").is_file()
}
