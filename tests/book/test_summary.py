"""What is said outside of the book is what the results say."""

from __future__ import annotations

from pathlib import Path

import behind
import summary

from pt4al import claims
from pt4al.experiments import store

ROOT = next(p for p in Path(__file__).resolve().parents if (p / 'pyproject.toml').exists())


def test_the_readme_gives_the_answer_of_the_first_page():
    lines = (line.removeprefix('> ') for line in (ROOT / 'README.md').read_text().splitlines())
    words = summary.headline(claims.overview())
    assert f'{words["answer"]}. {words["after"]}.' in ' '.join(lines)


def test_one_network_measured_all_picks_that_are_compared():
    # trained again on another machine it differs, by more than the intervals
    places = {}
    for result in store.find('diagnosis'):
        s, chip = result.spec, result.provenance['chip']
        places.setdefault((s.dataset, s.active.width, s.encoder), set()).add(chip)
    assert all(len(chips) == 1 for chips in places.values())


def test_nothing_that_the_page_on_reasons_prints_is_missing():
    words = behind.in_words()
    assert behind.sampler_gap('cifar10').startswith('Over ')
    assert 'not tested' not in words.values() and '' not in words.values()
