"""Two-column networks with spatial sparsity, and the dense ones that they are compared with.

Source: Wu et al., "Real-time Semantic Image Segmentation via Spatial Sparsity", arXiv:1712.00213.
"""

from cascadert.export.models.two_column.costs import counted_by_paper
from cascadert.export.models.two_column.dense import DenseColumns, dense_columns
from cascadert.export.models.two_column.sparse import MODEL_A, TwoColumn, TwoColumnShape, two_column

__all__ = [
    "MODEL_A",
    "DenseColumns",
    "TwoColumn",
    "TwoColumnShape",
    "counted_by_paper",
    "dense_columns",
    "two_column",
]
