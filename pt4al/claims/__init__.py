"""The papers' claims, the rules of their verdicts, and the runs that decide them."""

from pt4al.claims.curves import FITTED, Regime, lowest_labelled, pixels, recall, regimes
from pt4al.claims.verdicts import (
    DATASETS,
    GUESSING,
    ROWS,
    UNTESTED,
    Cell,
    Row,
    after_looks,
    compared,
    deciding,
    later_queries,
    loss_correlation,
    loss_pairs,
    loss_runs,
    more_labels,
    overview,
    published,
    smaller_batches,
    uncertainty_gap,
)

__all__ = [name for name, value in dict(globals()).items() if callable(value)]
