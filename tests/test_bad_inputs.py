"""No bad input makes a traceback, hangs, is accepted in silence or writes elsewhere."""

from __future__ import annotations

import bad_inputs
import pytest


@pytest.mark.long
def test_a_sample_of_bad_inputs_is_refused_in_one_line():
    counts, wrong = bad_inputs.main(every=40)
    assert not wrong and sum(counts.values()) > 25


@pytest.mark.slow
def test_all_bad_inputs_are_refused_in_one_line():
    counts, wrong = bad_inputs.main()
    assert not wrong and sum(counts.values()) >= 1000
