"""Exact retrieval: the best of many items for a context, by one inner product per item.

For a set of item features the score of `(context, item)` splits up. What the features of an item say among themselves is a
number of the item, what those of a context say among themselves a number of the context, and all pairs across are the inner
product of two vectors (`vectors`). `item_matrix(…) @ context_vector(…).T` are the scores, so every index for inner products
finds the best items, exactly if it is exact itself:

```python
matrix = keras_rafm.retrieval.item_matrix(model, items)
index = faiss.IndexFlatIP(matrix.shape[1])
index.add(matrix)
scores, rows = index.search(keras_rafm.retrieval.context_vector(model, contexts), 100)
```

ScaNN takes the same arrays: `scann.scann_ops_pybind.builder(matrix, 100, "dot_product")`. `numpy.save` keeps them.
`export_retrieval` writes a SavedModel that searches by itself, exactly and without another library.
"""

from keras_rafm.retrieval.export import export_retrieval
from keras_rafm.retrieval.vectors import context_vector, item_matrix

__all__ = ["context_vector", "export_retrieval", "item_matrix"]
