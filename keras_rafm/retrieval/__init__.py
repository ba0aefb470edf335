"""Exact retrieval: find the best of many items for a context, with one inner product per item.

The score of a context with an item is a sum of three parts: the score of the item's features alone, that of the context's
features alone, and the interactions between both, which are the inner product of two vectors (see `vectors`). So
`item_matrix(…) @ context_vector(…).T` are the scores, and any index for inner products finds the best items. The result is
exact if the index is exact:

```python
matrix = keras_rafm.retrieval.item_matrix(model, items)
index = faiss.IndexFlatIP(matrix.shape[1])
index.add(matrix)
scores, rows = index.search(keras_rafm.retrieval.context_vector(model, contexts), 100)
```

ScaNN takes the same arrays: `scann.scann_ops_pybind.builder(matrix, 100, "dot_product")`. `export_retrieval` writes a
SavedModel that searches by itself, exactly and without another library.
"""

from keras_rafm.retrieval.export import export_retrieval
from keras_rafm.retrieval.vectors import context_vector, item_matrix

__all__ = ["context_vector", "export_retrieval", "item_matrix"]
