"""An index of embeddings, and the images in it that are most similar to a query."""

from pathlib import Path
from typing import NamedTuple

import torch
from pyarrow import ArrowException, parquet
from torch import Tensor

from franca.data.store.files.names import printable
from franca.errors import FrancaError
from franca.models import FrancaModel


class Match(NamedTuple):
    """An image of the index and its cosine similarity to a query."""

    path: str
    similarity: float


class Index:
    """Embeddings that `franca embed` has written, compared exactly by cosine similarity.

    Attributes:
        paths: Paths of the images.
        vectors: (N, D) float32, of length 1.
        digest: Digest of the model that computed them.
    """

    def __init__(self, paths: list[str], vectors: Tensor, digest: str) -> None:
        self.paths = paths
        self.vectors = torch.nn.functional.normalize(vectors.float(), dim=1)
        self.digest = digest

    def __len__(self) -> int:
        return len(self.paths)

    def check(self, model: FrancaModel, source: str) -> None:
        """Raise FrancaError if another model has computed the embeddings."""
        if model.digest != self.digest:
            raise FrancaError(
                f"the index was embedded by another model (digest {self.digest[:12]}) than {source} "
                f"({model.digest[:12]}); run `franca embed` again"
            )

    def search(self, queries: Tensor, count: int) -> list[list[Match]]:
        """Return the `count` most similar images of each query, the most similar first.

        Args:
            queries: (B, D') float32, with at least the D dimensions of the index; the first D are compared.
            count: Number of images; fewer if the index is smaller.
        """
        queries = queries[:, : self.vectors.shape[1]].float().to(self.vectors.device)
        similar = torch.nn.functional.normalize(queries, dim=1) @ self.vectors.T
        values, rows = similar.topk(min(count, len(self)), dim=1)
        return [
            [Match(self.paths[row], value) for row, value in zip(*pair, strict=True)]
            for pair in zip(rows.tolist(), values.tolist(), strict=True)
        ]


def read_index(path: Path) -> Index:
    """Read a Parquet file that `franca embed` has written.

    Raises:
        FrancaError: There is no such file, or it is another kind of file.
    """
    if not path.is_file():
        raise FrancaError(f"{printable(path)}: no such file; `franca embed` writes it")
    try:
        table = parquet.read_table(path, columns=["path", "embedding"])
    except (ArrowException, OSError, KeyError) as error:
        raise FrancaError(
            f"{printable(path)}: not a file of `franca embed` ({' '.join(str(error).split())[:200]}); write it again"
        ) from None
    digest = (table.schema.metadata or {}).get(b"franca.model_digest")
    if digest is None or not len(table):
        raise FrancaError(f"{printable(path)}: not a file of `franca embed`; write it again")
    width = table.schema.field("embedding").type.list_size
    values = table["embedding"].combine_chunks().flatten().to_numpy()
    vectors = torch.from_numpy(values.reshape(len(table), width).copy())
    return Index(table["path"].to_pylist(), vectors, digest.decode())
