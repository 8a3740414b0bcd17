"""The study of small experiments can be read anywhere."""

from __future__ import annotations

from pt4al.studies import plan


def test_the_study_of_the_sources_can_be_read_without_its_images(tmp_path, monkeypatch):
    monkeypatch.setenv('PT4AL_DATA', str(tmp_path))
    asked = plan.read(plan.find('sources'))
    assert {cell.spec.kind for cell in asked.cells} >= {'segmentation', 'active', 'representation'}
