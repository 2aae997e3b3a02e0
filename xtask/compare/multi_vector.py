"""NumPy's MaxSim and fastembed's Muvera, for `cargo xtask multi-vector`: `python multi_vector.py JOB.json`.

Says `{"ready": true}`, then answers each line of standard input, the name of a contestant, by the seconds that it took
and its results: of MaxSim all scores, of Muvera the first document's encoding.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from fastembed.postprocess import Muvera


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    dim, length, encoded = job["dim"], job["document_vectors"], job["encoded_documents"]
    query = np.fromfile(job["query_file"], dtype="<f4").reshape(-1, dim)
    block = np.fromfile(job["documents_file"], dtype="<f4").reshape(-1, length, dim)
    # In memory of their own, as documents are.
    documents = np.tile(block, (job["repeats"], 1, 1))
    muvera = Muvera(dim)

    def one_product() -> np.ndarray:
        products = documents.reshape(-1, dim) @ query.T
        return products.reshape(len(documents), length, len(query)).max(axis=1).sum(axis=1)

    def by_document() -> np.ndarray:
        return np.array([(query @ document.T).max(axis=1).sum() for document in documents])

    def by_32_documents() -> np.ndarray:
        scores = np.empty(len(documents), dtype=np.float32)
        for start in range(0, len(documents), 32):
            part = documents[start : start + 32]
            products = (part.reshape(-1, dim) @ query.T).reshape(len(part), length, len(query))
            scores[start : start + 32] = products.max(axis=1).sum(axis=1)
        return scores

    def encode() -> np.ndarray:
        return [muvera.process_document(document) for document in documents[:encoded]][0]

    contestants = {
        "max_sim, one product": one_product,
        "max_sim, by document": by_document,
        "max_sim, by 32 documents": by_32_documents,
        "muvera": encode,
    }
    say({"ready": True})
    for line in sys.stdin:
        started = time.perf_counter()
        results = contestants[line.rstrip("\n")]()
        seconds = time.perf_counter() - started
        say({"seconds": seconds, "results": np.asarray(results, dtype=np.float64).tolist()})


def say(message: dict) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
