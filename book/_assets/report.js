// Draws the live figures of a page over their stills. A figure is drawn when it comes near the window, and one that
// needs WebGL is let go when it leaves, since browsers allow only a few WebGL contexts. Where drawing is not possible
// (no script, no WebGL) and on paper, the still stays. Nothing is fetched but sprite sheets that lie beside this file.
(function () {
  'use strict';
  const TYPES = { u2: Uint16Array, u4: Uint32Array, i2: Int16Array };
  const THUMB = 96;  // pixels a tile is shown at, as in report.css
  const FINGER = matchMedia('(pointer: coarse)').matches;  // then a drag scrolls the page, and there is no toolbar
  const CONFIG = { responsive: true, displaylogo: false,
    // a closed list: plotly's own has a button that uploads the chart
    modeBarButtons: [['toImage'], ['zoom2d', 'pan2d', 'zoomIn2d', 'zoomOut2d', 'resetScale2d']] };

  function typed(spec) {
    const bytes = Uint8Array.from(atob(spec.bdata), c => c.charCodeAt(0));
    return new TYPES[spec.dtype](bytes.buffer);
  }

  // The other side of `pack` in pt4al/report.py: rows of [index, loss, loss, ...].
  function unpack(packed) {
    const index = typed(packed.index), codes = typed(packed.codes), k = packed.columns;
    const loss = c => c && Math.sign(c) * 10 ** (Math.abs(c) / 32767 * packed.decades + packed.smallest);
    return Array.from(index, (i, row) => [i, ...Array.from(codes.subarray(row * k, row * k + k), loss)]);
  }

  function hasWebGL() {
    const gl = document.createElement('canvas').getContext('webgl');
    gl?.getExtension('WEBGL_lose_context')?.loseContext();
    return Boolean(gl);
  }

  function pageFont() {
    const { color, fontFamily } = getComputedStyle(document.body);
    return { color, family: fontFamily };
  }

  // On a phone a long legend takes rows, so the figure grows by them, and a long name of an axis is broken.
  function read(figure) {
    const content = JSON.parse(figure.querySelector('.report-data').textContent), { data, layout } = content;
    const names = layout.showlegend === false ? 0 : new Set(data.map(trace => trace.name)).size;
    if (innerWidth >= 500) return content;
    layout.height += 16 * Math.max(0, names - 4);
    const { title } = layout.xaxis ?? {};
    if (title?.text) Object.assign(title, { font: { size: 12 }, text: title.text.replace(/^(?=.{29})(.{1,28}) /, '$1<br>') });
    return content;
  }

  // Names of classes are escaped for plotly, which takes them for HTML.
  function text(escaped) {
    return new DOMParser().parseFromString(escaped, 'text/html').documentElement.textContent;
  }

  function showPoint(panel, point) {
    const [index, main, pretext] = point.customdata, set = panel.dataset;
    const line = (name, loss, rank) => `${name} loss ${loss.toPrecision(3)}, rank ${rank.toLocaleString('en')}`;
    panel.querySelector('p').textContent = [`${text(point.data.name)}, image ${index.toLocaleString('en')}`,
      line('main-task', main, point.x), line('pretext', pretext, point.y)].join('\n');
    if (!set.sprites) return;
    const sheet = Math.floor(index / set.perSheet), k = index % set.perSheet, across = Number(set.columns);
    const root = document.documentElement.dataset.content_root || './';
    const { style } = panel.querySelector('.report-tile');
    style.backgroundImage = `url("${root}_static/sprites/${set.sprites}/${sheet}.jpg")`;
    style.backgroundSize = `${across * THUMB}px auto`;
    style.backgroundPosition = `${-(k % across) * THUMB}px ${-Math.floor(k / across) * THUMB}px`;
  }

  async function draw(figure) {
    if (figure.drawn) return;
    figure.drawn = true;
    figure.classList.add('report-drawn');
    const box = figure.liveBox, { data, layout } = read(figure);
    data.forEach(trace => { if (trace.customdata?.codes) trace.customdata = unpack(trace.customdata); });
    layout.font = pageFont();
    if (FINGER) layout.dragmode = false;
    // the toolbar would lie over the names of upright lines
    const bar = FINGER || layout.annotations?.length ? false : 'hover';
    await Plotly.newPlot(box, data, layout, { ...CONFIG, displayModeBar: bar });
    const panel = figure.querySelector('.report-panel');
    if (!panel || !figure.drawn) return;
    panel.hidden = false;
    box.on('plotly_hover', event => showPoint(panel, event.points[0]));
  }

  // Beside the link to what is drawn: the results that it was made of.
  function addSources(figure) {
    const box = figure.querySelector('.report-sources');
    if (!box || !document.getElementById('provenance')) return;
    box.append(' · ', Object.assign(document.createElement('a'), { textContent: 'results', href: '#provenance' }));
  }

  // Columns of numbers that are written as text stand right, too.
  function alignNumbers(table) {
    const rows = [...table.tBodies[0].rows], number = /^([≥≤]?\s*[−+-]?[\d.,]+\s*%?|–)$/;
    [...table.tHead.rows[0].cells].forEach((head, k) => {
      const texts = rows.map(row => row.cells[k]?.textContent.trim() ?? '');
      if (!texts.every(text => number.test(text)) || texts.every(text => text === '–')) return;
      [head, ...rows.map(row => row.cells[k])].forEach(cell => cell.classList.replace('report-l', 'report-r'));
    });
  }

  function release(figure) {
    if (!figure.drawn || !figure.needsGL) return;
    figure.drawn = false;
    Plotly.purge(figure.liveBox);  // the empty box keeps its height, so nothing on the page moves
  }

  let webGL;

  // Gives the figure a box to draw in; false if this browser cannot draw it.
  function prepare(figure) {
    const { data, layout } = read(figure);
    figure.needsGL = data.some(trace => trace.type === 'scattergl');
    if (figure.needsGL && !(webGL ??= hasWebGL())) return false;
    figure.liveBox = document.createElement('div');
    figure.liveBox.className = 'report-live';
    figure.liveBox.style.height = `${layout.height}px`;
    figure.liveBox.setAttribute('role', 'group');  // with buttons in it
    figure.liveBox.setAttribute('aria-label', figure.querySelector('.report-still').alt);
    figure.querySelector('.report-title').after(figure.liveBox);
    return true;
  }

  function start() {
    document.querySelectorAll('.report-figure').forEach(addSources);
    document.querySelectorAll('table.report-table:has(thead)').forEach(alignNumbers);
    if (typeof Plotly === 'undefined') return;
    const figures = [...document.querySelectorAll('.report-figure:has(.report-data)')].filter(prepare);
    const watch = new IntersectionObserver(
      entries => entries.forEach(e => (e.isIntersecting ? draw : release)(e.target)), { rootMargin: '50% 0px' });
    figures.forEach(figure => watch.observe(figure));
    const follow = () => figures.filter(f => f.drawn).forEach(f => Plotly.relayout(f.liveBox, { font: pageFont() }));
    new MutationObserver(follow).observe(document.documentElement, { attributeFilter: ['data-theme'] });
  }

  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start); else start();
})();
