"""How the package is built: imports between rooms run downward, and names say what they hold."""

from __future__ import annotations

import ast
from pathlib import Path

from helpers import ROOT

PACKAGE = ROOT / 'pt4al'
# from the ground up; what is no room is a module on top
FLOORS = (
    *('errors', 'rng', 'progress', 'files'),
    *('data', 'stats', 'training', 'tasks', 'query', 'experiments'),
    *('claims', 'figures', 'report', 'studies', 'own'),
    *('shards', 'testing', 'cli'),
)
RIDDLES = {
    *('told', 'said', 'says', 'seen', 'asked', 'asks', 'given', 'kept', 'found', 'own', 'some'),
    'whole',
}


def imported(path: Path) -> set[str]:
    """Rooms that a module imports, wherever in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == 'pt4al':
            names += [f'pt4al.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or '')
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split('.')[1] for name in names if name.startswith('pt4al.')} & set(FLOORS)


def named(path: Path) -> set[str]:
    """Names that a module gives: variables, parameters, functions and classes."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
    return names


def test_imports_run_downward():
    upward = set()
    for path in PACKAGE.rglob('*.py'):
        place = path.relative_to(PACKAGE)
        room = place.parts[0].removesuffix('.py')
        if room in FLOORS:
            below = FLOORS[: FLOORS.index(room) + 1]
            upward |= {(place.as_posix(), other) for other in imported(path) - set(below)}
    assert not upward


def test_names_are_no_riddles():
    paths = PACKAGE.rglob('*.py')
    riddles = {path.name: names for path in paths if (names := named(path) & RIDDLES)}
    assert not riddles


def test_the_pins_with_digests_are_the_pins():
    def pins(name: str) -> list[str]:
        lines = (ROOT / name).read_text().splitlines()
        return [line.rstrip('\\ ') for line in lines if line[:1] not in ('#', ' ')]

    assert pins('requirements-hashed.txt') == pins('requirements.txt')
    entries = (ROOT / 'requirements-hashed.txt').read_text().replace('\\\n', '').splitlines()[2:]
    assert all('--hash=sha256:' in entry for entry in entries)
