"""Scale categories of scores (AesMamba §3.4.2) and how many training pictures fall into each.

The rules and their cuts belong to the attributes (`aescli.models.adaptation`).
Knows nothing about files or training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import ArrayLike

    from aescli.models.adaptation import AttributeConfig

UNKNOWN = -1


def scale_categories(scores: ArrayLike, attribute: AttributeConfig) -> np.ndarray:
    """Categories 0..C−1 (int64) of scores of any shape on the attribute's scale; −1 where a score is NaN.

    Raises ValueError for an attribute without a category task.
    """
    import numpy as np

    from aescli.data.labels import score_to_class

    if not attribute.cuts:
        raise ValueError(f"attribute {attribute.name!r} has no category task")
    scores = np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(scores)
    categories = np.full(scores.shape, UNKNOWN, dtype=np.int64)
    categories[known] = score_to_class(scores[known], attribute.cuts)
    return categories


def category_counts(scores: ArrayLike, attributes: Sequence[AttributeConfig]) -> dict[str, np.ndarray]:
    """How many of a training split's scores fall into each category: {attribute name: (C,) int64}.

    scores: (n, A) in the order of `attributes`, NaN where unknown. Attributes without a category task are left out.

    Raises ValueError for a table of another width.
    """
    import numpy as np

    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(attributes):
        raise ValueError(f"scores {table.shape} must be (n, {len(attributes)})")
    counts = {}
    for column, attribute in zip(table.T, attributes, strict=True):
        if attribute.cuts:
            categories = scale_categories(column, attribute)
            counts[attribute.name] = np.bincount(
                categories[categories != UNKNOWN], minlength=attribute.category_count
            )
    return counts
