"""Check the built book: python scripts/check_book.py [folder] [--axe], by default _build/html.

Every link, resource and anchor exists, nothing is loaded from the network, no page is heavy, no id
occurs twice, headings step down one level at a time, every picture has a text alternative, every
element is closed where it must be. Nor do pages contradict each other or themselves: no number of a
name that is shared between pages differs, no claim leads to a page without its data set or to one
that has not been run, and no interval is impossible. One line a problem; exit status 1 if any.

With --axe a browser opens every page, and axe-core, which npm or pip brings, looks for what bars
readers, and at the colours of the dark theme too; where there is no chromium or no axe-core, a line
says that this was skipped.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

# bytes of a page with what it loads of ours; what pages share, plotly.js and the theme, is apart
LIMIT = 1_000_000
OURS = re.compile(r'(report|explorer)\.(js|css)$|\.(png|jpe?g|gif|webp)$')
LOADED = {
    **{'script': ['src'], 'iframe': ['src'], 'audio': ['src'], 'track': ['src'], 'embed': ['src']},
    **{'img': ['src', 'srcset'], 'source': ['src', 'srcset'], 'video': ['src', 'poster']},
    **{'object': ['data'], 'input': ['src']},
}
LOADING_LINKS = {
    *('stylesheet', 'icon', 'preload', 'modulepreload', 'prefetch', 'preconnect'),
    *('dns-prefetch', 'manifest'),
}
# script types a browser runs
PROGRAM = {None, '', 'text/javascript', 'application/javascript', 'module'}
URL_IN_CSS = re.compile(r"""url\(\s*['"]?([^'")]+)['"]?\s*\)|@import\s+['"]([^'"]+)""")
# What brings axe-core, as what, and how the script is taken out of it: npm, or without npm a wheel
# with an older one.
WHEEL = 'pip download axe-playwright-python==0.1.4 --no-deps --quiet'
AXE = [
    (
        ['npm', 'pack', 'axe-core@4.10.3', '--silent'],
        '*.tgz',
        lambda packed: tarfile.open(packed).extractfile('package/axe.min.js').read(),
    ),
    (
        [sys.executable, '-m', *WHEEL.split()],
        '*.whl',
        lambda packed: zipfile.ZipFile(packed).read('axe_playwright_python/axe.min.js'),
    ),
]
AXE_SHA256 = {
    '.tgz': '0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292',
    '.whl': '74c0993ac92c2ede522c56bf2cdda42216b22af53c4d94a684767fd42883c7fb',
}
CHROMIUM = [
    *('--no-sandbox', '--disable-gpu', '--enable-unsafe-swiftshader'),
    '--disable-background-networking',
]
RUN_AXE = """([exclude, options]) => axe.run({exclude}, options).then(r => r.violations.map(
    v => `${v.id}, ${v.nodes.length} times: ${v.help}: ${v.nodes[0].html.slice(0, 100)}`))"""
# it is about the theme's own sidebar, which is no landmark
RULES = {'rules': {'region': {'enabled': False}}}
COLOURS = {'runOnly': ['color-contrast']}
LIKE_OTHERS = ['.report-table tbody tr:nth-child(n+3)']  # what looks like the rows above it
# and what every page has
LIKE_THE_FIRST = ['.bd-sidebar-primary', '.bd-header', '.bd-footer']
STILL = '*, ::before, ::after { transition: none !important; animation: none !important; }'
# '0.44 [0.43, 0.45]', as report.fmt_interval writes it, with ordinary or non-breaking spaces
NUMBER = r'[-\u2212+]?\d[\d,]*(?:\.\d+)?'
INTERVAL = re.compile(rf'({NUMBER})( ?%)? \[({NUMBER}), ({NUMBER})\]')
DATA_SETS = ['Imbalanced CIFAR-10', 'Caltech-101', 'CIFAR-100', 'ImageNet']
# a share can be no less than 0 % and no more than 100 %; a difference or a correlation can
SHARE = re.compile(r'%|per cent')
OTHER = re.compile(r'point|minus|differ|change|gain|gap|rho|correlation', re.I)
# how sure, not a share
LEVEL = re.compile(r'\d+(\.\d+)? ?% (\w+ )?(t )?(interval|bootstrap)', re.I)
SHARED = re.compile(r'claim[ -]')  # names of numbers that mean the same on every page
NOT_RUN = re.compile(r'not yet run', re.I)
HEADINGS = ['h1', 'h2', 'h3', 'h4', 'h5', 'h6']
VOID = {
    *('area', 'base', 'br', 'col', 'embed', 'hr', 'img', 'input', 'link', 'meta', 'source'),
    *('track', 'wbr'),
}
ENDS_ITSELF = {
    *('p', 'li', 'dt', 'dd', 'tr', 'td', 'th', 'thead', 'tbody', 'tfoot', 'option', 'optgroup'),
    *('colgroup', 'html', 'head', 'body'),
}
ENDS_P = {
    *('address', 'article', 'aside', 'blockquote', 'details', 'div', 'dl', 'fieldset'),
    *('figcaption', 'figure', 'footer', 'form', 'header', 'hr', 'main', 'nav', 'ol', 'p', 'pre'),
    *('section', 'table', 'ul', *HEADINGS),
}


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text('utf-8'), 'html.parser')


@cache
def anchors(page: Path) -> set[str]:
    return {tag[key] for key in ('id', 'name') for tag in soup(page).find_all(attrs={key: True})}


def css_urls(text: str) -> list[str]:
    return [address for pair in URL_IN_CSS.findall(text) for address in pair if address]


def loaded(page: BeautifulSoup) -> Iterator[str]:
    """Addresses a browser fetches by itself when it opens the page."""
    for tag in page.find_all(LOADED):
        for key in LOADED[tag.name]:
            parts = tag.get(key, '').split(',') if key == 'srcset' else [tag.get(key, '')]
            yield from (part.split()[0] for part in parts if part.strip())
    for link in page.find_all('link', href=True):
        if LOADING_LINKS & set(link.get('rel', [])):
            yield link['href']
    styles = [tag['style'] for tag in page.find_all(style=True)] + [
        tag.get_text() for tag in page.find_all('style')
    ]
    yield from (address for style in styles for address in css_urls(style))


def linked(page: BeautifulSoup) -> Iterator[str]:
    """Addresses a reader may follow, and those the page names without loading them."""
    yield from (tag['href'] for tag in page.find_all(['a', 'area'], href=True))
    yield from (
        link['href']
        for link in page.find_all('link', href=True)
        if not LOADING_LINKS & set(link.get('rel', []))
    )


def missing(address: str, source: Path) -> str:
    """Say what is missing where `address`, found in the file `source`, leads; '' if nothing is."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return ''
    target = (source.parent / unquote(parts.path)).resolve() if parts.path else source
    if target.is_dir():
        target /= 'index.html'
    if not target.is_file():
        return 'no such file'
    fragment = unquote(parts.fragment)
    if fragment and target.suffix == '.html' and fragment not in anchors(target):
        return f'{target.name} has no such anchor'
    return ''


def remote(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ('', 'data', 'blob')


def structure(page: BeautifulSoup) -> Iterator[str]:
    for name, count in Counter(tag['id'] for tag in page.find_all(id=True)).items():
        if count > 1:
            yield f'id {name!r} occurs {count} times'
    yield from (
        f'picture without alt: {str(img)[:80]}'
        for img in page.find_all('img')
        if img.get('alt') is None
    )
    text = page.find('article') or page
    levels = [int(heading.name[1]) for heading in text.find_all(HEADINGS)]
    if levels.count(1) != 1 or levels[0] != 1:
        yield f'the headings must begin with the only h1, not {levels[:8]}'
    yield from (
        f'heading h{lower} follows h{upper}'
        for upper, lower in zip(levels, levels[1:])
        if lower > upper + 1
    )


class Balance(HTMLParser):
    """Collects in `wrong` which elements a page leaves open, and which end tags close none."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag in ENDS_P and self.open[-1:] == ['p']:
            self.open.pop()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        if tag not in VOID and not {'svg', 'math'} & {tag, *self.open}:
            self.wrong.append(f'<{tag}/> does not close <{tag}>, at line {self.getpos()[0]}')

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.open:
            self.wrong.append(f'</{tag}> closes nothing, at line {self.getpos()[0]}')
            return
        while (last := self.open.pop()) != tag:
            if last not in ENDS_ITSELF:
                self.wrong.append(
                    f'<{last}> is not closed before </{tag}>, at line {self.getpos()[0]}'
                )

    def close(self) -> None:
        super().close()
        self.wrong += [f'<{tag}> is never closed' for tag in self.open if tag not in ENDS_ITSELF]


def unbalanced(path: Path) -> list[str]:
    parser = Balance()
    parser.feed(path.read_text('utf-8'))
    parser.close()
    return parser.wrong


def explored(page: BeautifulSoup, path: Path) -> Iterator[str]:
    """Files that the explorer of a page may ask for, where it has one."""
    for script in page.find_all('script', class_='explorer-index'):
        root = '../' * (len(path.relative_to(book(path)).parts) - 1) + '_static'
        for one in json.loads(script.get_text())['datasets']:
            columns = (column for side in ('pretext', 'main', 'picks') for column in one[side])
            for content in (one, *columns):
                yield f'{root}/explorer/{content["file"]}.js'
            if one['sprites']:
                for sheet in range(-(-one['images'] // 1000)):
                    yield f'{root}/sprites/{one["sprites"]}/{sheet}.jpg'


def book(path: Path) -> Path:
    """The folder of the book that a page is in."""
    return next((folder for folder in path.parents if (folder / '_static').is_dir()), path.parent)


def weight(page: BeautifulSoup, path: Path) -> int:
    """Bytes of a page and of what it loads, without the scripts and styles that come with plotly
    and the theme.
    """
    near = [parts.path for parts in map(urlsplit, loaded(page)) if not parts.scheme]
    files = {(path.parent / unquote(where)).resolve() for where in near}
    return path.stat().st_size + sum(
        file.stat().st_size for file in files if file.is_file() and OURS.search(file.name)
    )


def problems(path: Path) -> Iterator[str]:
    """What is wrong with one page, a line each."""
    page = soup(path)
    if (size := weight(page, path)) > LIMIT:
        yield f'{size:,} bytes, more than {LIMIT:,}'
    yield from unloaded(loaded(page), path)
    for what, addresses in (('explores', explored(page, path)), ('links to', linked(page))):
        for address in addresses:
            if why := missing(address, path):
                yield f'{what} {address}: {why}'
    for script in page.find_all('script'):
        text = script.get_text()
        if script.get('type') in PROGRAM and re.search(r"""["'`]https?://""", text):
            yield f'a script names an address on the network: {text[:80]}'
    yield from structure(page)
    yield from unbalanced(path)
    yield from dict.fromkeys([*intervals(page), *evidence(page, path)])


def unloaded(addresses: Iterable[str], source: Path) -> Iterator[str]:
    """What a page or a style sheet loads from the network or cannot load."""
    for address in addresses:
        if remote(address):
            yield f'loads {address} from the network'
        elif not address.startswith('data:') and (why := missing(address, source)):
            yield f'loads {address}: {why}'


# --- contradictions ---


def plain(tag: Tag) -> str:
    return ' '.join(tag.get_text(' ').replace('\u2212', '-').split())


def amount(text: str) -> float:
    return float(text.replace(',', '').replace('\u2212', '-'))


def impossible(text: str, share: bool = False) -> Iterator[str]:
    """Intervals that do not hold their number, or that leave 0 to 100 % where it is a share."""
    for parts in INTERVAL.finditer(text):
        value, low, high = (amount(parts[k]) for k in (1, 3, 4))
        if not low <= value <= high:
            yield f'the interval {parts[0]} does not hold its number'
        if (share or parts[2]) and (low < 0 or high > 100):
            yield f'the interval {parts[0]} leaves 0 to 100 %'


def cells(table: Tag) -> Iterator[tuple[str, Tag]]:
    """Every cell of a table's body with the words over it and beside it: head, first cell."""
    heads = [plain(head) for head in table.select('thead th')]
    for row in table.select('tbody tr'):
        inside = row.find_all(['td', 'th'], recursive=False)
        for k, cell in enumerate(inside):
            yield f'{heads[k] if k < len(heads) else ""} {plain(inside[0])}', cell


def intervals(page: BeautifulSoup) -> Iterator[str]:
    text = page.find('article') or page
    for table in text.select('table.report-table'):
        about = LEVEL.sub('', plain(table.caption)) if table.caption else ''
        for words, cell in cells(table):
            words = LEVEL.sub('', words)
            head = words if SHARE.search(words) or OTHER.search(words) else f'{about} {words}'
            share = bool(SHARE.search(head)) and not OTHER.search(head)
            yield from impossible(plain(cell), share)
    for paragraph in text.find_all(['p', 'li', 'figcaption']):
        yield from impossible(plain(paragraph))


def claimed(page: BeautifulSoup, path: Path) -> Iterator[tuple[str, Path]]:
    """Words of the cell and the page it leads to, of every link in a table about claims."""
    for table in (page.find('article') or page).select('table.report-table'):
        if not any('claim' in plain(head).lower() for head in table.select('thead th')):
            continue
        about = plain(table.caption) if table.caption else ''
        for words, cell in cells(table):
            for link in cell.find_all('a', href=True):
                parts = urlsplit(link['href'])
                target = (path.parent / unquote(parts.path)).resolve()
                if not parts.scheme and target.suffix == '.html' and target.is_file():
                    yield f'{about} {words} {plain(cell)}', target


def evidence(page: BeautifulSoup, path: Path) -> Iterator[str]:
    for words, target in claimed(page, path):
        text = plain(soup(target).find('article') or soup(target)).lower()
        text = text.replace('caltech101', 'caltech-101')
        text = text.replace('imbalanced-cifar', 'imbalanced cifar')
        for name in DATA_SETS:
            if name in words and name.lower() not in text:
                yield f'a claim about {name} leads to {target.name}, which does not name it'
        if NOT_RUN.search(text):
            yield f'a claim leads to {target.name}, which says that something is not yet run'


def disagreements(folder: Path) -> Iterator[str]:
    """Numbers of one shared name that differ between pages, from what the chapters glued."""
    held: dict[str, dict[str, set[str]]] = {}
    root = folder.parent / 'jupyter_execute'
    for file in sorted(root.rglob('*.glue.json')):
        for name, output in json.loads(file.read_text('utf-8')).items():
            if SHARED.match(name):
                text = str(output.get('data', {}).get('text/plain', ''))
                page = file.relative_to(root).as_posix().removesuffix('.glue.json')
                held.setdefault(name, {}).setdefault(text, set()).add(page)
    for name, texts in held.items():
        if len(texts) > 1:
            where = '; '.join(f'{text} on {", ".join(sorted(on))}' for text, on in texts.items())
            yield f'{name!r} differs: {where}'


def sheets(page: Path) -> set[Path]:
    """The style sheets that a page loads."""
    links = soup(page).select('link[rel~=stylesheet][href]')
    local = [link['href'] for link in links if not remote(link['href'])]
    paths = [(page.parent / unquote(urlsplit(address).path)).resolve() for address in local]
    return {path for path in paths if path.is_file()}


def axe_source() -> str:
    """The script axe-core; `RuntimeError` where it cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        for command, name, take in AXE:
            try:
                subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=True)
            except (OSError, subprocess.SubprocessError):
                continue
            packed = next(Path(folder).glob(name))
            if hashlib.sha256(packed.read_bytes()).hexdigest() != AXE_SHA256[packed.suffix]:
                raise RuntimeError(f'{packed.name} is not what was published')
            return take(packed).decode()
    raise RuntimeError('neither npm nor pip can bring axe-core')


def barriers(pages: list[Path]) -> Iterator[tuple[Path, str]]:
    """What axe-core finds on every page, light and dark, once its figures in sight are drawn."""
    chromium = shutil.which('chromium')
    try:
        from playwright.sync_api import sync_playwright

        script = axe_source()
    except (ImportError, RuntimeError) as lack:
        return print(f'accessibility skipped: {lack}')
    if not chromium:
        return print('accessibility skipped: there is no chromium')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM)
        page, apart = browser.new_page(color_scheme='light'), []
        for path in pages:
            page.emulate_media(color_scheme='light')
            page.goto(path.as_uri())
            page.add_style_tag(content=STILL)
            page.evaluate(script)
            yield from ((path, f'light: {problem}') for problem in run_axe(page, RULES, apart))
            # the theme follows; nothing but colours changes
            page.emulate_media(color_scheme='dark')
            yield from ((path, f'dark: {problem}') for problem in run_axe(page, COLOURS, apart))
            apart = LIKE_THE_FIRST
        browser.close()


def run_axe(page: Any, options: dict[str, Any], apart: list[str]) -> list[str]:
    """What axe-core finds on an open page, once the explorer and the figures in sight are drawn,
    but for `apart`.
    """
    page.wait_for_timeout(300)
    page.wait_for_selector('body:not(:has(.explorer[aria-busy="true"]))', timeout=60_000)
    return page.evaluate(RUN_AXE, [[[name] for name in LIKE_OTHERS + apart], options])


def main(folder: Path, axe: bool = False) -> int:
    """Check every page below `folder` and every style sheet a page loads; return the number of
    problems.
    """
    folder = folder.resolve()
    pages = sorted(path for path in folder.rglob('*.html') if '_static' not in path.parts)
    if not pages:
        print(f'{folder} holds no page: run jupyter-book build book/ first')
        return 1
    faults = [(path, problem) for path in pages for problem in problems(path)]
    for sheet in sorted(set().union(*map(sheets, pages))):
        faults += [(sheet, why) for why in unloaded(css_urls(sheet.read_text('utf-8')), sheet)]
    faults += [(folder / 'index.html', problem) for problem in disagreements(folder)]
    if axe:
        faults += barriers(pages)
    for path, problem in faults:
        print(f'{path.relative_to(folder)}: {problem}')
    count = sum(1 for page in pages for which in (loaded, linked) for _ in which(soup(page)))
    print(f'{len(pages)} pages, {count} links checked')
    return len(faults)


if __name__ == '__main__':
    words = [word for word in sys.argv[1:] if word != '--axe']
    sys.exit(bool(main(Path(words[0] if words else '_build/html'), '--axe' in sys.argv)))
