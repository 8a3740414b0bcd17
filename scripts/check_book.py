"""Check the built book: python scripts/check_book.py [folder], by default _build/html.

Every link, resource and anchor exists, nothing is loaded from the network, no page is heavy, no id occurs twice,
headings step down one level at a time, every picture has a text alternative. One line a problem; exit status 1 if any.
"""
from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

LIMIT = 1_000_000  # bytes of one page; the shared plotly.min.js is a file of its own
LOADED = {'script': ['src'], 'img': ['src', 'srcset'], 'source': ['src', 'srcset'], 'iframe': ['src'],
          'video': ['src', 'poster'], 'audio': ['src'], 'track': ['src'], 'embed': ['src'], 'object': ['data'],
          'input': ['src']}
LOADING_LINKS = {'stylesheet', 'icon', 'preload', 'modulepreload', 'prefetch', 'preconnect', 'dns-prefetch', 'manifest'}
PROGRAM = {None, '', 'text/javascript', 'application/javascript', 'module'}  # script types a browser runs
URL_IN_CSS = re.compile(r'''url\(\s*['"]?([^'")]+)['"]?\s*\)|@import\s+['"]([^'"]+)''')
HEADINGS = ['h1', 'h2', 'h3', 'h4', 'h5', 'h6']


@lru_cache(maxsize=None)
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text('utf-8'), 'html.parser')


@lru_cache(maxsize=None)
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
    styles = [tag['style'] for tag in page.find_all(style=True)] + [tag.get_text() for tag in page.find_all('style')]
    yield from (address for style in styles for address in css_urls(style))


def linked(page: BeautifulSoup) -> Iterator[str]:
    """Addresses a reader may follow, and those the page names without loading them."""
    yield from (tag['href'] for tag in page.find_all(['a', 'area'], href=True))
    yield from (link['href'] for link in page.find_all('link', href=True)
                if not LOADING_LINKS & set(link.get('rel', [])))


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
    yield from (f'picture without alt: {str(img)[:80]}' for img in page.find_all('img') if img.get('alt') is None)
    text = page.find('article') or page
    levels = [int(heading.name[1]) for heading in text.find_all(HEADINGS)]
    if levels.count(1) != 1 or levels[0] != 1:
        yield f'the headings must begin with the only h1, not {levels[:8]}'
    yield from (f'heading h{lower} follows h{upper}' for upper, lower in zip(levels, levels[1:]) if lower > upper + 1)


def runs_remote_code(script: Tag) -> bool:
    return script.get('type') in PROGRAM and bool(re.search(r'''["'`]https?://''', script.get_text()))


def problems(path: Path) -> Iterator[str]:
    """What is wrong with one page, a line each."""
    page = soup(path)
    if (size := path.stat().st_size) > LIMIT:
        yield f'{size:,} bytes, more than {LIMIT:,}'
    for address in loaded(page):
        if remote(address):
            yield f'loads {address} from the network'
        elif why := missing(address, path):
            yield f'loads {address}: {why}'
    yield from (f'links to {address}: {why}' for address in linked(page) if (why := missing(address, path)))
    yield from (f'a script names an address on the network: {script.get_text()[:80]}'
                for script in page.find_all('script') if runs_remote_code(script))
    yield from structure(page)


def sheet_problems(sheet: Path) -> Iterator[str]:
    for address in css_urls(sheet.read_text('utf-8')):
        if remote(address):
            yield f'loads {address} from the network'
        elif not address.startswith('data:') and (why := missing(address, sheet)):
            yield f'loads {address}: {why}'


def sheets(page: Path) -> set[Path]:
    found = [link['href'] for link in soup(page).find_all('link', href=True) if 'stylesheet' in link.get('rel', [])]
    paths = [(page.parent / unquote(urlsplit(address).path)).resolve() for address in found if not remote(address)]
    return {path for path in paths if path.is_file()}


def main(folder: Path) -> int:
    """Check every page below `folder` and every style sheet a page loads; return the number of problems."""
    pages = sorted(path for path in folder.resolve().rglob('*.html') if '_static' not in path.parts)
    if not pages:
        print(f'{folder} holds no page: run jupyter-book build book/ first')
        return 1
    found = [(path, problem) for path in pages for problem in problems(path)]
    for sheet in sorted(set().union(*map(sheets, pages))):
        found += [(sheet, problem) for problem in sheet_problems(sheet)]
    for path, problem in found:
        print(f'{path.relative_to(folder.resolve())}: {problem}')
    count = sum(1 for page in pages for which in (loaded, linked) for _ in which(soup(page)))
    print(f'{len(pages)} pages, {count} links checked')
    return len(found)


if __name__ == '__main__':
    sys.exit(bool(main(Path(sys.argv[1] if len(sys.argv) > 1 else '_build/html'))))
