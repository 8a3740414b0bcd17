"""Sphinx extension: everything a page of the report needs, from local files only.

- plotly.min.js comes from the installed plotly package and is loaded only by pages that hold a live
  figure, and the explorer's script only by its page;
- formulas become MathML when the book is built, so no page loads MathJax;
- figures and tables are numbered, page by page, and figures can be linked to;
- numbers in prose have real minus signs, and intervals do not break;
- the kernels that run the chapters find the package and know that they write for the book.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from html import escape
from itertools import count
from pathlib import Path

import plotly
from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

from pt4al import report

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
# What pt4al.report.show writes: a figure, and inside it the data of a live one.
FIGURE = re.compile(r'<figure class="report-figure" id="([^"]+)".*?<figcaption>', re.DOTALL)
LIVE = 'class="report-data"'
REPRODUCED = 'figures'  # the page whose captions begin with the reproduction's own numbers
# what book/_code/explorer.py writes
EXPLORER = 'class="explorer"'
# The theme's fold-out arrows of the sidebar have no words.
NAME_ARROWS = """document.addEventListener('DOMContentLoaded', () => {
  for (const arrow of document.querySelectorAll('.bd-sidebar li > details > summary')) {
    const page = arrow.closest('li').querySelector('a').textContent.trim();
    arrow.setAttribute('aria-label', `Sections of ${page}`);
  }
});"""
CITED = 'role="doc-biblioentry"'  # docutils gives citations roles that ARIA has withdrawn
CITATION_ROLES = re.compile(r' role="doc-biblioentry"| role="list"(?= class="citation-list")')
# text that is shown as it was typed
LITERAL = (nodes.raw, nodes.literal, nodes.math, nodes.math_block, nodes.FixedTextElement)
# how a kernel, which does not know its page, links to a file it has written
STATIC = 'href="{static}/'


def prepare(app: Sphinx) -> None:
    """Tell the kernels where the package and the built page's static folder are; copy plotly.js
    beside the pages.
    """
    path = [str(ROOT), str(ROOT / 'book' / '_code'), *filter(None, [os.environ.get('PYTHONPATH')])]
    os.environ.update(PT4AL_BOOK='1', PYTHONPATH=os.pathsep.join(path))
    if app.builder.format != 'html':
        return
    static = Path(app.outdir) / '_static'
    os.environ['PT4AL_STATIC'] = str(static)
    static.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(
        Path(plotly.__file__).parent / 'package_data' / 'plotly.min.js', static / 'plotly.min.js'
    )


def add_scripts(
    app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None
) -> None:
    """Load plotly.js only where a figure is live, and never the live-code scripts Jupyter Book adds
    from a CDN.
    """

    def thebe(script: object) -> bool:
        return (
            'thebe' in f'{getattr(script, "filename", script)} {getattr(script, "attributes", "")}'
        )

    context['script_files'][:] = [
        script for script in context.get('script_files', []) if not thebe(script)
    ]
    # the first paragraph of some length says what a page is about
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        if len(text := ' '.join(paragraph.astext().split())) > 80:
            about = escape(textwrap.shorten(text, 200, placeholder=' ...'))
            title = escape(str(context.get('title', '')))
            tags = [
                f'<meta name="description" content="{about}">',
                f'<meta property="og:title" content="{title}">',
                f'<meta property="og:description" content="{about}">',
                '<meta property="og:type" content="article">',
            ]
            context['metatags'] = context.get('metatags', '') + ''.join(tags)
            break
    body = context.get('body', '')
    if LIVE in body or EXPLORER in body:
        app.add_js_file('plotly.min.js', loading_method='defer')
    if LIVE in body:
        app.add_js_file('report.js', loading_method='defer', priority=900)
    if STATIC in body:
        body = body.replace(STATIC, f'href="{context["pathto"]("_static", 1)}/')
        context['body'] = body
    if CITED in body:
        context['body'] = CITATION_ROLES.sub('', context['body'])
    if EXPLORER in body:
        app.add_css_file('explorer.css')
        app.add_js_file('explorer.js', loading_method='defer', priority=900)


def number(app: Sphinx, doctree: nodes.document) -> None:
    """Number the figures and tables of a page, and make `[](#fig-name)` read as such a number.

    Figures that bear the numbers of the reproduction keep those. A name that is linked to must be
    the only one.
    """
    standard, page = app.env.get_domain('std'), app.env.docname
    figures, tables = count(1), count(1)

    def figure(opened: re.Match[str]) -> str:
        name, title = opened[1], f'Figure {next(figures)}'
        standard.anonlabels.setdefault(name, (page, name))
        standard.labels.setdefault(name, (page, name, title))
        return opened[0] if page == REPRODUCED else f'{opened[0]}<b>{title}.</b> '

    for raw in doctree.findall(nodes.raw):
        text = FIGURE.sub(figure, raw.astext())
        text = re.sub(
            '<caption>', lambda caption: f'{caption[0]}<b>Table {next(tables)}.</b> ', text
        )
        if text != raw.astext():
            raw.children = [nodes.Text(text)]


def typeset(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Real minus signs in prose, and intervals that do not break."""
    for text in list(doctree.findall(nodes.Text)):
        parent, better = text.parent, report.typeset(text)
        if better != text and parent and not isinstance(parent, LITERAL):
            parent.replace(text, nodes.Text(better))


def mathml(node: nodes.Element, block: bool) -> str:
    """The formula as MathML; one that docutils cannot read is a warning, an error under -W."""
    tex = re.sub(r'\\dots\b', r'\\ldots', node.astext())
    try:
        # docutils would print the star and the commands
        if re.search(r'\\operatorname(\*|\{[^}]*\\)', tex):
            raise ValueError(r'plain letters only in \operatorname{}; write \arg\min, \underset')
        return latex2mathml.tex2mathml(tex, as_block=block)
    except ValueError as error:
        log.warning('formula not understood (%s): %s', error, tex, location=node)
        return f'<code>{escape(tex)}</code>'


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(self.starttag(node, 'span', '', CLASS='math notranslate nohighlight'))
    self.body.append(mathml(node, False) + '</span>')
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, 'div', CLASS='math notranslate nohighlight'))
    if node['number']:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, 'Link to this equation')
        self.body.append('</span>')
    self.body.append(mathml(node, True) + '</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, object]:
    app.add_html_math_renderer('mathml', (visit_math, None), (visit_math_block, None))
    app.connect(
        'config-inited',
        lambda app, config: config.html_static_path.append(str(ROOT / 'book' / '_assets')),
    )
    app.connect('builder-inited', prepare)
    app.connect('html-page-context', add_scripts, priority=900)
    app.connect('doctree-read', number)
    app.connect('doctree-resolved', typeset)
    app.add_css_file('report.css')
    app.add_js_file(None, body=NAME_ARROWS)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
