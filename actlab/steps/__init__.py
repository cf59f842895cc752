"""Rows of a split merged over time: columns of whole batches, epochs, the oddest batch of a column.

Takes a split of a run, `run["train"]`, or a selection of it, and gives a dataset of the same form, lazy
where the counts are. Only loaded coordinates are looked at beforehand.
"""

from actlab.steps.merging import by_column, by_epoch
from actlab.steps.outliers import oddest

__all__ = ["by_column", "by_epoch", "oddest"]
