"""Every figure of the report, interactive and as a still picture."""

from pt4al.figures.drawing import CLASS_COLOURS, METHOD_COLOURS, OTHER_COLOURS, Figure
from pt4al.figures.losses import (
    class_balance,
    learning_curves,
    loss_histogram,
    loss_rank_scatter,
    picture_grid,
    rank_forest,
    turns,
)

__all__ = [name for name, value in dict(globals()).items() if callable(value)]
