"""The package as a user installs it: the wheel, outside of the checkout, with its core dependencies
alone.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from helpers import ROOT, plant
from packaging.requirements import Requirement

import pt4al

pytestmark = [pytest.mark.wheel, pytest.mark.slow]
HIDE = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition('.')[0] not in {names!r}:
            return super().find_spec(name, path, target)

sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def canonical(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()


def needed(requirements: list[str]) -> set[str]:
    """Names of the distributions that these requirements bring, and what those require."""
    names, todo = set(), list(requirements)
    while todo:
        requirement = Requirement(todo.pop())
        name = canonical(requirement.name)
        extras = requirement.extras or {''}
        applies = requirement.marker is None or requirement.marker.evaluate({'extra': ''})
        if not applies or name in names:
            continue
        names.add(name)
        try:
            further = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        todo += [
            text
            for text in further
            if (marker := Requirement(text).marker) is None
            or any(marker.evaluate({'extra': extra}) for extra in extras)
        ]
    return names


def optional_modules(wheel: Path) -> set[str]:
    """Modules that are installed here and that the wheel's core dependencies do not bring."""
    (found,) = metadata.distributions(path=[str(wheel)])
    core = needed(found.requires)
    return {
        module
        for module, owners in metadata.packages_distributions().items()
        if not core & {canonical(owner) for owner in owners} and module != 'pt4al'
    }


@pytest.fixture(scope='module')
def installed(tmp_path_factory) -> Path:
    """The `bin` of an environment with the wheel, and of all else that is installed here the core
    dependencies.
    """
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    shutil.copytree(ROOT / 'pt4al', source / 'pt4al', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, '-I', '-m', 'pip', '--disable-pip-version-check', '--quiet']
    offline = ['--no-deps', '--no-build-isolation', '--no-index']
    subprocess.run([*pip, 'wheel', *offline, '-w', folder, source], check=True)
    (wheel,) = folder.glob('pt4al-*.whl')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder / 'venv'], check=True)
    python = folder / 'venv' / 'bin' / 'python'
    subprocess.run([*pip, '--python', python, 'install', '--no-deps', wheel], check=True)
    (site,) = (folder / 'venv').glob('lib/python*/site-packages')
    # as a plain path: .pth files there, such as that of this checkout, are not followed
    (site / 'here.pth').write_text(f'{sysconfig.get_path("purelib")}\n')
    hidden = optional_modules(site) | {'benchmarks'}
    assert {'IPython', 'papermill', 'pytest', 'playwright', 'jupytext'} <= hidden
    assert not {'torch', 'numpy', 'typer', 'yaml', 'plotly'} & hidden
    (site / 'sitecustomize.py').write_text(HIDE.format(names=hidden))
    return python.parent


@pytest.fixture
def outside(installed, tmp_path):
    """Run a command of the environment in an empty folder; returns its output."""

    def run(*words: str) -> str:
        env = {
            name: value
            for name, value in os.environ.items()
            if name not in ('PYTHONPATH', 'PT4AL_RESULTS', 'PT4AL_COMPUTE')
        }
        env |= {'PT4AL_THREADS': '1', 'OMP_NUM_THREADS': '1', 'XDG_CACHE_HOME': str(tmp_path / 'c')}
        done = subprocess.run(
            [installed / words[0], *words[1:]],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_version_is_that_of_the_package(outside):
    assert outside('pt4al', '--version') == f'pt4al {pt4al.__version__}\n'
    where = outside('python', '-c', 'import pt4al; print(pt4al.__file__)')
    assert 'site-packages' in where and str(ROOT) not in where


def test_the_claims_are_read_without_a_notebook(outside):
    assert 'not tested' in outside('pt4al', 'claims')


def test_the_studies_come_with_it(outside):
    assert outside('pt4al', 'study', 'plan', 'smoke').startswith('CIFAR-10-mini')


def test_photographs_are_ranked(outside, tmp_path):
    plant(tmp_path / 'photos', 20)
    words = ('--budget', '2', '--cycles', '5', '--epochs', '1', '--out', 'picks.csv')
    outside('pt4al', 'rank', 'photos', *words)
    assert len((tmp_path / 'picks.csv').read_text().splitlines()) == 21


def test_the_embedded_images_are_in_it(outside):
    code = 'from pt4al import data; print(len(data.arrays("cifar10-mini")[0].labels))'
    assert outside('python', '-c', code) == '4000\n'


def test_what_is_no_core_dependency_is_not_there(outside):
    code = 'import importlib.util as i; print([i.find_spec(n) for n in ("IPython", "pytest")])'
    assert outside('python', '-c', code) == '[None, None]\n'
