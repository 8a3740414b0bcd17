"""The papers' claims, the rules of their verdicts, and the runs that decide them."""

from pt4al.claims.curves import FITTED, Regime, lowest_labelled, recall, regimes
from pt4al.claims.verdicts import (
    DATASETS,
    ROWS,
    UNTESTED,
    Cell,
    Row,
    deciding,
    loss_runs,
    overview,
    published,
)

__all__ = [name for name, value in dict(globals()).items() if callable(value)]
