"""The coverage table: what is stored, what it took, what is not run."""

from __future__ import annotations

from helpers import put
from study_coverage import coverage

from pt4al.studies import plan

STUDY = """cells:
  - entry: two seeds
    kind: active
    dataset: cifar10-mini
    strategy: random
    seed: 0..1
  - entry: segmentation
    kind: segmentation
    dataset: 'camvid:32'
    width: 8
"""


def test_every_entry_says_what_is_stored_and_what_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'results'))
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    (tmp_path / 'few.yaml').write_text(STUDY)
    asked = plan.read(tmp_path / 'few.yaml')
    put({'cycles': {'cycle': [1]}}, 'active', dataset='cifar10-mini', strategy='random', seed=1)
    two, frames = coverage(asked)
    assert (two['entry'], two['stored'], two['cells']) == ('two seeds', 1, 2)
    assert (frames['stored'], frames['cells'], frames['left']) == (0, 2, None)


def test_the_study_of_the_sources_can_be_read_without_its_images(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    asked = plan.read(plan.find('sources'))
    assert {cell.spec.kind for cell in asked.cells} >= {'segmentation', 'active', 'representation'}
