"""Statistics on plain arrays: correlations of losses, comparisons of runs. Knows no result."""

from pt4al.stats.comparisons import Difference, difference, holm, units
from pt4al.stats.correlation import (
    BetweenWithin,
    Estimate,
    aubc,
    between_within,
    by_class,
    ceiling,
    class_divergence,
    disattenuated,
    equivalence,
    few_classes,
    mean_interval,
    normalised_entropy,
    normalised_ranks,
    paired_difference,
    partial_rank_correlation,
    random_entropy_interval,
    rank_correlation,
    reliability,
    spearman,
)

__all__ = [name for name, value in dict(globals()).items() if callable(value)]
