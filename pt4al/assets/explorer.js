// The explorer: every image by two ranks, the pictures behind the points, and what strategies picked. The page holds an
// index; columns of losses, labels and picks are scripts beside it that call pt4alExplorer(name, content), because a
// page opened from disk may not fetch. All text from data enters the page as text, never as markup.
(function () {
  'use strict';
  const TYPES = { u2: Uint16Array, u4: Uint32Array, i2: Int16Array };
  const FINGER = matchMedia('(pointer: coarse)').matches;   // then a drag scrolls the page
  const WALL = 60, BARS = 20, BINS = 50, THUMB = 48, HOVER = 96, LARGE = 192;
  const ACCENT = '#d55e00';
  const CORNERS = {                                          // x0, x1, y0, y1: main across, pretext upwards
    'hard for the pretext task, easy for the classifier': [0, 0.2, 0.8, 1],
    'easy for the pretext task, hard for the classifier': [0.8, 1, 0, 0.2],
    'hard for both': [0.8, 1, 0.8, 1], 'easy for both': [0, 0.2, 0, 0.2] };
  const inline = window.pt4alInline ?? { files: {}, sheets: {} };

  // -- small things --------------------------------------------------------------------------------------------------

  function el(name, properties, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(properties ?? {})) {
      if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
      else if (key === 'className' || key === 'textContent' || key === 'value' || key === 'hidden') node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  function typed(spec) {
    const bytes = Uint8Array.from(atob(spec.bdata), c => c.charCodeAt(0));
    return new TYPES[spec.dtype](bytes.buffer);
  }

  const count = n => n.toLocaleString('en');
  const images = n => `${count(n)} image${n === 1 ? '' : 's'}`;
  const short = loss => (loss === 0 ? '0' : Math.abs(loss) < 1e-3 || Math.abs(loss) >= 1e4 ? loss.toExponential(2)
    : loss.toPrecision(3));
  const rho = value => (Number.isFinite(value) ? value.toFixed(3) : 'not defined');

  // -- files ---------------------------------------------------------------------------------------------------------

  let fields = 0;
  const waiting = new Map(), promised = new Map();
  const root = () => document.documentElement.dataset.content_root ?? './';

  window.pt4alExplorer = (name, content) => waiting.get(name)?.(content);

  function load(name) {
    if (!promised.has(name)) {
      promised.set(name, new Promise((resolve, reject) => {
        if (inline.files[name]) return resolve(inline.files[name]);
        waiting.set(name, resolve);
        const src = `${root()}_static/explorer/${name}.js`;
        const failed = () => { promised.delete(name); reject(new Error(`${src} cannot be read`)); };
        document.head.append(el('script', { src, onerror: failed }));
      }));
    }
    return promised.get(name);
  }

  // The other side of `ranks` and of `coded` in the package.
  function column(content) {
    if (!content.read) {
      const below = typed(content.below), codes = typed(content.codes),
        none = below instanceof Uint16Array ? 65535 : 4294967295;
      const loss = Float64Array.from(codes, (c, i) => (below[i] === none ? NaN
        : c && Math.sign(c) * 10 ** (Math.abs(c) / 32767 * content.decades + content.smallest)));
      content.read = { below, loss };
    }
    return content.read;
  }

  // -- numbers -------------------------------------------------------------------------------------------------------

  // Average ranks 1..m of the chosen rows, from how many of all images lie below each; linear, since those are counts.
  function averageRanks(below, rows) {
    const held = new Uint32Array(below.length + 1);
    for (const i of rows) held[below[i]] += 1;
    const rank = new Float64Array(below.length + 1);
    for (let value = 0, before = 0; value < held.length; before += held[value], value += 1) {
      rank[value] = before + (held[value] + 1) / 2;
    }
    return Float64Array.from(rows, i => rank[below[i]]);
  }

  function spearman(x, y, rows) {
    if (rows.length < 3) return NaN;
    const a = averageRanks(x, rows), b = averageRanks(y, rows), mean = (rows.length + 1) / 2;
    let ab = 0, aa = 0, bb = 0;
    for (let k = 0; k < a.length; k += 1) {
      ab += (a[k] - mean) * (b[k] - mean); aa += (a[k] - mean) ** 2; bb += (b[k] - mean) ** 2;
    }
    return ab / Math.sqrt(aa * bb);
  }

  function within(x, y, corners) {                            // is a point in a polygon, by crossings
    let inside = false;
    for (let i = 0, j = corners.length - 1; i < corners.length; j = i, i += 1) {
      const [xi, yi] = corners[i], [xj, yj] = corners[j];
      if ((yi > y) !== (yj > y) && x < (xj - xi) * (y - yi) / (yj - yi) + xi) inside = !inside;
    }
    return inside;
  }

  // Batch of every row, 1 the hardest, cut as numpy's array_split does; rows whose losses tie fall by their number.
  function batches(below, rows, parts) {
    const order = Uint32Array.from(rows).sort((i, j) => below[j] - below[i] || i - j),
      of = new Uint16Array(below.length);
    const small = Math.floor(order.length / parts), larger = order.length % parts;
    let start = 0;
    for (let part = 0; part < parts; part += 1) {
      const end = start + small + (part < larger ? 1 : 0);
      for (; start < end; start += 1) of[order[start]] = part + 1;
    }
    return of;
  }

  // -- the state, as the address says it -----------------------------------------------------------------------------

  const defaults = () => ({ data: '', pretext: '', main: '', view: 'points', off: [], picks: '', batch: 0, pin: -1,
    sel: null });

  function written(state, version) {
    const out = new URLSearchParams({ v: version });
    for (const key of ['data', 'pretext', 'main', 'picks']) if (state[key]) out.set(key, state[key]);
    if (state.view !== 'points') out.set('view', state.view);
    if (state.off.length) out.set('off', state.off.join('.'));
    if (state.batch) out.set('batch', state.batch);
    if (state.pin >= 0) out.set('pin', state.pin);
    if (state.sel) out.set('sel', `${state.sel.kind}:${state.sel.at.map(v => +v.toPrecision(4)).join(',')}`);
    return out.toString().replaceAll('%3A', ':').replaceAll('%2C', ',');
  }

  function selection(text) {
    const [kind, values] = (text ?? '').split(':'), at = (values ?? '').split(',').map(Number);
    const long = { box: n => n === 4, lasso: n => n >= 6 && n % 2 === 0, main: n => n === 2,
      pretext: n => n === 2 }[kind];
    return long?.(at.length) && at.every(Number.isFinite) ? { kind, at } : null;
  }

  // What of an address can be had; the second part says what cannot.
  function read(hash, index) {
    const state = defaults(), said = new URLSearchParams(hash.replace(/^#/, '')), lacks = [];
    const whole = (key, low) => { const n = Number(said.get(key)); return Number.isInteger(n) && n >= low ? n : null; };
    const asked = said.has('v') && said.get('v') === String(index.version);
    if (said.has('v') && !asked) {
      lacks.push('This address was made for another version of this page: what you see are its defaults.');
    }
    const find = (entries, key, by) => {
      const found = asked && said.has(key) ? entries.find(e => e[by] === said.get(key)) : undefined;
      if (asked && said.has(key) && !found) {
        lacks.push(`This report has no ${key} “${said.get(key)}”: shown is the default.`);
      }
      return found;
    };
    const set = find(index.datasets, 'data', 'name') ?? index.datasets[0];
    state.data = set.name;
    state.pretext = (find(set.pretext, 'pretext', 'file') ?? set.pretext[0]).file;
    state.main = (find(set.main, 'main', 'file') ?? set.main[0]).file;
    if (!asked) return [state, lacks];
    state.picks = find(set.picks, 'picks', 'file')?.file ?? '';
    if (said.get('view') === 'density') state.view = 'density';
    if (said.get('off')) state.off = said.get('off').split('.').map(Number).filter(c => Number.isInteger(c) && c >= 0);
    state.batch = whole('batch', 0) ?? 0;
    state.pin = said.has('pin') ? whole('pin', 0) ?? -1 : -1;
    state.sel = selection(said.get('sel'));
    if (said.has('sel') && !state.sel) lacks.push('The selection in the address cannot be read.');
    return [state, lacks];
  }

  // -- one explorer --------------------------------------------------------------------------------------------------

  function explorer(host) {
    const index = JSON.parse(host.querySelector('.explorer-index').textContent);
    const ui = {};
    let state, now, address = '', turn = 0, busy, ticking;

    const dataset = () => index.datasets.find(d => d.name === state.data);
    const chosen = side => dataset()[side].find(c => c.file === state[side]);

    // ---- controls ----

    function select(label, onchange) {
      const box = el('select', { id: `explorer-${fields += 1}`, onchange: () => onchange(box.value) });
      return [box, el('div', { className: 'explorer-field' }, el('label', { textContent: label, for: box.id }), box)];
    }

    function options(box, entries, value) {
      box.replaceChildren(...entries.map(([text, key]) => el('option', { value: key, textContent: text })));
      box.value = value;
    }

    // Two menus a side: a group (task, definition of the loss, strategy), and the run in it.
    function menus(side, labels, none) {
      const first = (entries, group) => entries.find(c => c.group === group)?.file ?? '';
      const [group, groupField] = select(labels[0], value => change({ [side]: first(dataset()[side], value),
        batch: 0 }, side));
      const [run, runField] = select(labels[1], value => change({ [side]: value }, side));
      const fill = () => {
        const entries = dataset()[side], groups = [...new Set(entries.map(c => c.group))], at = chosen(side);
        options(group, [...(none ? [[none, '']] : []), ...groups.map(name => [name, name])], at?.group ?? '');
        options(run, entries.filter(c => c.group === at?.group).map(c => [c.run, c.file]), at?.file ?? '');
        runField.hidden = !at;
      };
      return [fill, groupField, runField];
    }

    function radios(legend, name, choices, onchange) {
      const inputs = Object.entries(choices).map(([value, text]) => {
        const input = el('input', { type: 'radio', name, value, onchange: () => onchange(value) });
        return [input, el('label', {}, input, ` ${text}`)];
      });
      const set = el('fieldset', { className: 'explorer-radios' }, el('legend', { textContent: legend }),
        ...inputs.map(i => i[1]));
      return [value => inputs.forEach(([input]) => { input.checked = input.value === value; }), set];
    }

    const button = (text, onclick, more) => el('button', { type: 'button', textContent: text, onclick, ...more });

    function build() {
      const [data, dataField] = select('Data set', value => change({ ...defaults(), data: value, view: state.view },
        'data'));
      const [fillPretext, ...pretext] = menus('pretext', ['Pretext task', 'Its run']);
      const [fillMain, ...main] = menus('main', ['Main-task loss', 'Its run']);
      const [fillPicks, ...picks] = menus('picks', ['Picks of', 'Its run'], 'no strategy');
      const [setView, view] = radios('Show', 'explorer-view', { points: 'points', density: 'density' },
        v => change({ view: v }));
      const [setDrag, drag] = radios('Drag to', 'explorer-drag', { select: 'select a box', lasso: 'select by lasso',
        pan: 'move',
        zoom: 'zoom', ...(FINGER ? { false: 'scroll the page' } : {}) },
          v => { ui.drag = v === 'false' ? false : v; redraw(); });
      ui.drag = FINGER ? false : 'select';
      setDrag(String(ui.drag));
      const ends = ['main from', 'main to', 'pretext from', 'pretext to'].map(text => el('input', { type: 'number',
        min: 0, max: 1,
        step: 0.01, 'aria-label': `${text}, normalised rank` }));
      const [from, to, low, high] = ends;
      const corners = el('select', { onchange: () => corners.value && change({ sel: { kind: 'box',
        at: CORNERS[corners.value] } }),
        'aria-label': 'Select a corner' }, el('option', { value: '', textContent: 'Select a corner …' }),
      ...Object.keys(CORNERS).map(text => el('option', { value: text, textContent: text })));
      const byNumber = el('form', { className: 'explorer-box', onsubmit: event => {
        event.preventDefault();
        change({ sel: { kind: 'box', at: ends.map((f, i) => (f.value === '' ? i % 2 : Number(f.value))) } });
      } }, 'main ', from, '–', to, ' pretext ', low, '–', high, el('button', { textContent: 'Select' }));
      const fillBox = () => {
        ends.forEach((f, k) => { f.value = state.sel?.kind === 'box' ? +state.sel.at[k].toFixed(3) : ''; });
        corners.value = Object.keys(CORNERS).find(text => String(CORNERS[text]) === String(state.sel?.at)) ?? '';
      };
      const fill = () => { data.value = state.data; fillPretext(); fillMain(); fillPicks(); fillBox(); };
      Object.assign(ui, { setView, fill });
      options(data, index.datasets.map(d => [`${d.name} (${images(d.images)})`, d.name]), '');

      ui.note = el('p', { className: 'explorer-note', role: 'status', hidden: true });
      ui.facts = el('p', { className: 'explorer-facts', role: 'status' });
      ui.plot = el('div', { className: 'explorer-plot', role: 'group' });
      ui.histograms = el('div', { className: 'explorer-histograms', role: 'group' });
      ui.slider = el('input', { id: `explorer-${fields += 1}`, type: 'range', min: 0, step: 1, value: 0,
        oninput: () => change({ batch: Number(ui.slider.value) }) });
      ui.batch = el('output', { textContent: 'all batches' });
      ui.play = button('Play', () => (ticking ? stop() : play()));
      ui.picked = el('p', { className: 'explorer-small', role: 'status' });
      ui.hover = panel('explorer-hover', 'Point at an image to see it, click it to keep it.');
      ui.pinned = el('section', { className: 'explorer-pinned', 'aria-label': 'The image that is kept',
        'aria-live': 'polite' });
      const number = el('input', { type: 'number', min: 0, step: 1, 'aria-label': 'Number of an image' });
      const keep = el('form', { className: 'explorer-box', onsubmit: event => {
        event.preventDefault();
        if (number.value !== '') change({ pin: Number(number.value) });
      } }, 'image ', number, el('button', { textContent: 'Keep' }));
      ui.selected = el('section', { className: 'explorer-selected', 'aria-label': 'Selection' });
      host.append(
        ui.note,
        el('div', { className: 'explorer-row' }, dataField, ...pretext, ...main),
        el('div', { className: 'explorer-row' }, view, drag, corners, byNumber),
        el('div', { className: 'explorer-main' },
          el('div', { className: 'explorer-left' }, ui.plot, ui.facts,
            el('div', { className: 'explorer-row explorer-replay' }, ...picks,
              el('div', { className: 'explorer-field explorer-slide' }, el('span', {},
                el('label', { textContent: 'Batch of the split', for: ui.slider.id }), ': ', ui.batch), ui.slider),
              ui.play), ui.picked, ui.histograms),
          el('div', { className: 'explorer-right' }, ui.hover, keep, ui.pinned, classList())),
        ui.selected);
    }

    function panel(className, text) {
      return el('div', { className: `explorer-panel ${className}` }, tile(-1, HOVER), el('p', { textContent: text }));
    }

    function classList() {
      ui.search = el('input', { type: 'search', placeholder: 'search', 'aria-label': 'Search a class',
        oninput: found });
      ui.classes = el('ul', { className: 'explorer-classes', tabindex: 0, 'aria-label': 'Classes shown' });
      const all = (text, keep) => button(text, () => change({ off: now.classes.map((_,
        c) => c).filter(c => !keep(c)) }));
      return el('fieldset', { className: 'explorer-filter' }, el('legend', { textContent: 'Classes' }), ui.search,
        el('div', { className: 'explorer-buttons' }, all('All', () => true), all('None', () => false),
          all('Only those found', matches)),
        ui.classes);
    }

    const matches = c => now.classes[c].toLowerCase().includes(ui.search.value.trim().toLowerCase());
    function found() { [...ui.classes.children].forEach((item, c) => { item.hidden = !matches(c); }); }

    function fillClasses() {
      ui.classes.replaceChildren(...now.classes.map((name, c) => {
        const input = el('input', { type: 'checkbox', onchange: () => change({
          off: input.checked ? state.off.filter(o => o !== c) : [...state.off, c].sort((a, b) => a - b) }) });
        const dot = el('span', { className: 'explorer-dot', 'aria-hidden': 'true' });
        dot.style.background = index.colours[c % index.colours.length];
        return el('li', {}, el('label', {}, input, dot, el('span', { textContent: name }),
          el('span', { className: 'explorer-count', textContent: count(now.counts[c]) })));
      }));
      found();
    }

    // ---- pictures ----

    // A square of `size` pixels that shows an image, or the part of it that begins at (left, top), both from 0 to 1.
    function tile(i, size, { part = 1, left = 0, top = 0 } = {}) {
      const node = el('div', { className: 'explorer-tile' });
      node.style.width = node.style.height = `${size * part}px`;
      const folder = i >= 0 && dataset().sprites;
      if (!folder) return node;
      const sheet = Math.floor(i / index.perSheet), k = i % index.perSheet, held = inline.sheets[folder];
      const url = held ? `data:image/jpeg;base64,${held[sheet]}` : `${root()}_static/sprites/${folder}/${sheet}.jpg`;
      node.style.backgroundImage = `url("${url}")`;
      node.style.backgroundSize = `${index.across * size}px auto`;
      node.style.backgroundPosition =
        `${-((k % index.across) + left) * size}px ${-(Math.floor(k / index.across) + top) * size}px`;
      return node;
    }

    const name = i => now.classes[now.labels[i]] ?? 'no class';

    function lines(i) {
      const line = (what, side, ranks) => (Number.isNaN(ranks[i]) ? `${what}: no loss that can be ranked`
        : `${what} loss ${short(side.loss[i])}, rank ${count(Math.round(2 * ranks[i] * now.n) / 2)} of ${count(now.n)}`);
      return [`${name(i)}, image ${count(i)}`, line('main-task', now.main, now.x), line('pretext', now.pretext,
        now.y)].join('\n');
    }

    function hover(i) {
      ui.hover.replaceChildren(tile(i, HOVER), el('p', { textContent: lines(i) }));
    }

    // The image in the ways in which the chosen task changes it.
    function ways(i) {
      const { turns, grey, tiles, holes } = chosen('pretext').views, small = 52, rows = [];
      const row = (text, nodes) => rows.push(el('figure', {}, el('div', { className: 'explorer-ways' }, ...nodes),
        el('figcaption', { textContent: text })));
      if (turns) {
        row('turned by 0°, 90°, 180°, 270°', [0, 90, 180, 270].map(angle => {
          const node = tile(i, small);
          node.style.transform = `rotate(${-angle}deg)`;
          return node;
        }));
      }
      if (grey) {
        const bare = tile(i, small);
        bare.style.filter = 'grayscale(1)';
        row('grey, as it is shown, and in colour', [bare, tile(i, small)]);
      }
      if (tiles) {
        const grid = el('div', { className: 'explorer-tiles' }), cells = [...Array(tiles).keys()], side = 3 / 4 / tiles;
        grid.style.gridTemplateColumns = `repeat(${tiles}, max-content)`;
        cells.forEach(v => cells.forEach(u => grid.append(tile(i, LARGE / 1.5, { part: side,
          left: (u + 1 / 8) / tiles, top: (v + 1 / 8) / tiles }))));
        row(`its ${tiles ** 2} tiles, with the gaps that are cut out between them`, [grid]);
      }
      if (holes) {
        const cells = holes === 1 ? [[25, 25]] : [[0, 0], [50, 0], [0, 50], [50, 50]];
        row('with a part hidden that is to be painted', cells.map(([left, top]) => {
          const node = tile(i, small), hole = el('div', { className: 'explorer-hole' });
          Object.assign(hole.style, { left: `${left}%`, top: `${top}%` });
          node.append(hole);
          return node;
        }));
      }
      return rows;
    }

    function showPinned() {
      const i = state.pin;
      if (i < 0) return ui.pinned.replaceChildren();
      if (i >= now.labels.length) {
        const textContent = `There is no image ${count(i)}: the last is ${count(now.labels.length - 1)}.`;
        return ui.pinned.replaceChildren(el('p', { textContent }));
      }
      const seen = dataset().sprites ? ways(i) : [];
      const why = dataset().sprites ? seen.length ? `As ${chosen('pretext').group} sees it:`
        : `${chosen('pretext').group} draws its views at random; they are not shown here.`
        : 'This page holds no pictures of this data set.';
      ui.pinned.replaceChildren(el('div', { className: 'explorer-panel' }, tile(i, LARGE), el('p',
        { textContent: lines(i) })),
        el('p', { className: 'explorer-small', textContent: why }), ...seen, button('Let go',
          () => change({ pin: -1 })));
    }

    // ---- what is drawn ----

    // Everything that follows from the chosen columns.
    function frame(set, pretext, main) {
      const labels = set.labels.bdata ? (set.labels = typed(set.labels)) : set.labels, all = labels.length, rows = [];
      for (let i = 0; i < all; i += 1) if (!Number.isNaN(main.loss[i] + pretext.loss[i])) rows.push(i);
      const spread = below => {
        const of = new Float32Array(all).fill(NaN), ranks = averageRanks(below, rows);
        rows.forEach((i, k) => { of[i] = ranks[k] / rows.length; });
        return of;
      };
      const counts = new Uint32Array(set.classes.length);
      rows.forEach(i => { counts[labels[i]] += 1; });
      return { labels, classes: set.classes, counts, pretext, main, rows, n: rows.length, lost: all - rows.length,
        x: spread(main.below), y: spread(pretext.below) };
    }

    function member(sel) {
      if (sel.kind === 'box') {
        const [x0, x1, y0, y1] = sel.at;
        return i => now.x[i] >= x0 && now.x[i] <= x1 && now.y[i] >= y0 && now.y[i] <= y1;
      }
      if (sel.kind === 'lasso') {
        const corners = [];
        for (let k = 0; k < sel.at.length; k += 2) corners.push([sel.at[k], sel.at[k + 1]]);
        return i => within(now.x[i], now.y[i], corners);
      }
      const { loss } = now[sel.kind];
      return i => loss[i] >= sel.at[0] && loss[i] <= sel.at[1];
    }

    function update() {
      const off = new Set(state.off), parts = chosen('picks')?.batches ?? 10;
      now.shown = off.size ? now.rows.filter(i => !off.has(now.labels[i])) : now.rows;
      now.parts = Math.max(1, Math.min(parts, now.n));
      state.batch = Math.min(state.batch, now.parts);
      if (now.split !== now.parts) now.batchOf = batches(now.pretext.below, now.rows, now.split = now.parts);
      now.sel = state.sel ? now.shown.filter(member(state.sel)) : [];
      const sizes = chosen('picks')?.sizes ?? [], end = k => sizes.slice(0, k).reduce((a, b) => a + b, 0);
      now.picked = now.picks ? Array.from(state.batch ? now.picks.slice(end(state.batch - 1),
        end(state.batch)) : now.picks) : [];
    }

    function theme() {
      const { color, fontFamily } = getComputedStyle(host), grid = 'rgba(128,128,128,0.25)';
      const axis = { gridcolor: grid, linecolor: grid, zeroline: false, tickcolor: grid, ticks: 'outside',
        automargin: true };
      return { axis, layout: { font: { color, family: fontFamily, size: 13 }, paper_bgcolor: 'rgba(0,0,0,0)',
        plot_bgcolor: 'rgba(0,0,0,0)',
        showlegend: false, hovermode: 'closest', dragmode: ui.drag,
          uirevision: `${state.data} ${state.pretext} ${state.main}` } };
    }

    const gl = webGL();
    const CONFIG = { responsive: true, displaylogo: false, displayModeBar: FINGER ? false : 'hover',
      modeBarButtons: [['toImage'], ['zoomIn2d', 'zoomOut2d',
        'resetScale2d']] };   // a closed list: plotly's own uploads

    function points(rows, more) {
      return { type: 'scattergl', mode: 'markers', x: Float32Array.from(rows, i => now.x[i]),
        y: Float32Array.from(rows, i => now.y[i]),
        hoverinfo: 'none', marker: { color: Array.from(rows, i => now.labels[i] % index.colours.length), cmin: -0.5,
          cmax: index.colours.length - 0.5, colorscale: index.colours.flatMap((c, k) => [[k / index.colours.length, c],
            [(k + 1) / index.colours.length, c]]), size: now.n > 20000 ? 3 : now.n > 5000 ? 4 : 6, opacity: 0.55 },
              ...more };
    }

    function traces() {
      const density = state.view === 'density' || !gl, drawn = [];
      if (density) {
        const cells = now.n > 20000 ? 50 : now.n > 1000 ? 25 : 10, at = v => Math.min(cells - 1, Math.floor(v * cells));
        const z = Array.from({ length: cells }, () => new Array(cells).fill(null)), [x0, dx] = [0.5 / cells, 1 / cells];
        const of = state.batch ? now.shown.filter(i => now.batchOf[i] === state.batch) : now.shown;
        of.forEach(i => { z[at(now.y[i])][at(now.x[i])] += 1; });
        drawn.push({ type: 'heatmap', z, x0, dx, y0: x0, dy: dx, colorscale: 'Viridis',
          colorbar: { title: { text: 'images' }, thickness: 12 }, hovertemplate: '%{z:,d} images<extra></extra>' });
      } else {
        const picked = state.sel ? { selectedpoints: positions(now.shown, now.sel),
          selected: { marker: { opacity: 0.9 } }, unselected: { marker: { opacity: 0.08 } } } : {};
        const all = points(now.shown, picked);
        if (state.batch || now.picked.length) all.marker.opacity = 0.12;
        drawn.push(all);
        if (state.batch) drawn.push(points(now.shown.filter(i => now.batchOf[i] === state.batch),
          { hoverinfo: 'skip' }));
      }
      const ring = (rows, colour, size, width) => drawn.push({ type: 'scatter', mode: 'markers', hoverinfo: 'skip',
        x: rows.map(i => now.x[i]), y: rows.map(i => now.y[i]),
        marker: { symbol: 'circle-open', size, color: colour, line: { width } } });
      if (now.picked.length) {
        const many = now.picked.length > 300;
        ring(now.picked.slice(0, 2000), chosen('picks').colour, many ? 6 : 8, many ? 1 : 1.5);
      }
      if (state.pin >= 0 && state.pin < now.labels.length) ring([state.pin], ACCENT, 18, 3);
      return drawn;
    }

    function positions(all, part) {
      const wanted = new Set(part), at = [];
      all.forEach((i, k) => { if (wanted.has(i)) at.push(k); });
      return at;
    }

    function outline() {
      const { kind, at } = state.sel ?? {}, line = { color: ACCENT, width: 1.5, dash: 'dot' };
      if (kind === 'box') return [{ type: 'rect', x0: at[0], x1: at[1], y0: at[2], y1: at[3], line }];
      if (kind !== 'lasso') return [];
      return [{ type: 'path', path: at.map((v, k) => (k % 2 ? `,${v}` : `${k ? 'L' : 'M'}${v}`)).join('') + 'Z',
        line }];
    }

    async function drawPlot() {
      const { axis, layout } = theme(), side = text => ({ ...axis, title: { text, standoff: 8 }, range: [-0.01,
        1.01] });
      const narrow = host.clientWidth < 500;
      await Plotly.react(ui.plot, traces(), { ...layout, shapes: outline(), selections: [],
        selectionrevision: turn, margin: { l: 8, r: 8, t: 28, b: 8 },
        xaxis: side(narrow ? 'main-task loss, rank' : 'main-task loss, normalised rank'),
        yaxis: side(narrow ? 'pretext loss, rank' : 'pretext loss, normalised rank') }, CONFIG);
      ui.plot.setAttribute('aria-label', `Scatter plot. ${ui.facts.textContent}`);
      if (ui.plot.watched) return;
      ui.plot.watched = true;
      const at = event => now.shown[event.points.find(point => point.data.type === 'scattergl')?.pointNumber];
      ui.plot.on('plotly_hover', event => { const i = at(event); if (i !== undefined) hover(i); });
      ui.plot.on('plotly_click', event => { const i = at(event); if (i !== undefined) change({ pin: i }); });
      ui.plot.on('plotly_selected', event => {
        const { range, lassoPoints } = event ?? {};
        if (range?.x) change({ sel: { kind: 'box', at: [...sorted(range.x), ...sorted(range.y)] } });
        if (lassoPoints?.x) change({ sel: { kind: 'lasso', at: lassoPoints.x.flatMap((v, k) => [v,
          lassoPoints.y[k]]) } });
      });
      ui.plot.on('plotly_deselect', () => change({ sel: null }));
    }

    const sorted = pair => [...pair].sort((a, b) => a - b);

    // ---- histograms of both losses, of all that is shown and of the selection ----

    function bins(side) {
      const { loss } = now[side], some = now.shown.map(i => loss[i]);
      const positive = some.reduce((a, v) => (v > 0 ? Math.min(a, v) : a), Infinity);
      const log = Number.isFinite(positive) && some.every(v => v >= 0);   // losses of zero stand in the lowest bin
      const scale = log ? v => Math.log10(Math.max(v, positive)) : v => v;
      const low = some.reduce((a, v) => Math.min(a, scale(v)), Infinity), high = some.reduce((a, v) => Math.max(a,
        scale(v)), -Infinity);
      const width = (high - low || 1) / BINS, of = rows => {
        const held = new Array(BINS).fill(0);
        rows.forEach(i => { held[Math.min(BINS - 1, Math.floor((scale(loss[i]) - low) / width))] += 1; });
        return held;
      };
      return { log, of, low, at: Array.from({ length: BINS }, (_, k) => low + (k + 0.5) * width), width };
    }

    async function drawHistograms() {
      const { axis, layout } = theme(), drawn = [], axes = {};
      now.bins = { main: bins('main'), pretext: bins('pretext') };
      Object.entries(now.bins).forEach(([side, { log, of, at, width }], k) => {
        const end = k ? '2' : '', label = k ? 'pretext loss' : 'main-task loss';
        axes[`xaxis${end}`] = { ...axis, title: { text: label, standoff: 8 }, domain: k ? [0.56, 1] : [0, 0.46],
          anchor: `y${end}`,
          ...(log ? { tickprefix: '10<sup>', ticksuffix: '</sup>', dtick: Math.max(1,
            Math.ceil(width * BINS / 5)) } : {}) };
        axes[`yaxis${end}`] = { ...axis, anchor: `x${end}`, fixedrange: true, rangemode: 'tozero' };
        const bars = (rows, color) => drawn.push({ type: 'bar', x: at, y: of(rows), width: at.map(() => width),
          xaxis: `x${end}`,
          yaxis: `y${end}`, marker: { color }, hovertemplate: '%{y:,d} images<extra></extra>' });
        bars(now.shown, '#8a8a8a');
        if (state.sel) bars(now.sel, ACCENT);
        else if (now.picked.length) bars(now.picked.filter(i => !Number.isNaN(now.x[i])), ACCENT);
      });
      await Plotly.react(ui.histograms, drawn, { ...layout, ...axes, barmode: 'overlay', bargap: 0, selections: [],
        selectionrevision: turn, margin: { l: 8, r: 8, t: 8, b: 8 },
        dragmode: FINGER ? false : 'select', selectdirection: 'h', hovermode: 'x' }, { ...CONFIG,
          displayModeBar: false });
      ui.histograms.setAttribute('aria-label', `Histograms of both losses of ${images(now.shown.length)}`
        + `${state.sel ? `, and of the ${count(now.sel.length)} selected` : ''}.`);
      if (ui.histograms.watched) return;
      ui.histograms.watched = true;
      ui.histograms.on('plotly_selected', event => {
        const side = event?.range?.x ? 'main' : event?.range?.x2 ? 'pretext' : '';
        if (!side) return;
        const ends = sorted(event.range.x ?? event.range.x2);
        const { log, low } = now.bins[side];
        change({ sel: { kind: side, at: log ? [ends[0] <= low ? 0 : 10 ** ends[0], 10 ** ends[1]] : ends } });
      });
      ui.histograms.on('plotly_deselect', () => change({ sel: null }));
    }

    // ---- words ----

    function showFacts() {
      const lost = now.lost ? ` ${images(now.lost)} without a finite loss on both sides left out.` : '';
      const among = rows => spearman(now.main.below, now.pretext.below, rows), whole = among(now.rows);
      const part = now.shown.length < now.n
        ? ` Classes shown: ${images(now.shown.length)}, rho ${rho(among(now.shown))}.` : '';
      const why = Number.isNaN(whole) ? now.n < 3 ? ' (fewer than three images)' : ' (all losses of a side tie)' : '';
      ui.facts.textContent = `${images(now.n)}, Spearman rho ${rho(whole)}${why}.${part}${lost}`;
    }

    function showBatch() {
      const { batch } = state, strategy = chosen('picks');
      ui.slider.max = now.parts;
      ui.slider.value = batch;
      const end = batch === 1 ? ', hardest' : batch === now.parts ? ', easiest' : '';
      const text = batch ? `${batch} of ${now.parts}${end}` : 'all';
      ui.batch.textContent = text;
      ui.slider.setAttribute('aria-valuetext', text);
      ui.picked.textContent = strategy ? wordsOnPicks(strategy, batch) : '';
    }

    function wordsOnPicks({ group, sizes, sorted: by }, batch) {
      if (batch > sizes.length) return `This run stopped after cycle ${sizes.length}.`;
      const here = `${chosen('pretext').group}, ${chosen('pretext').run}`;
      const outside = now.picked.filter(i => now.batchOf[i] !== batch).length;
      const among = batch && by === here ? `, ${count(outside)} of them outside batch ${batch}` : '';
      const other = by && by !== here ? ` It sorted the pool by ${by}, not by the run shown here.` : '';
      const when = batch ? `cycle ${batch}` : 'all cycles';
      return `${group} picked ${images(now.picked.length)} in ${when} (rings)${among}.${other}`;
    }

    function bar(share) {
      const node = el('div', { className: 'explorer-bar' });
      node.style.width = `${Math.round(100 * share)}%`;
      return node;
    }

    function histogram() {
      const held = new Map();
      now.sel.forEach(i => held.set(now.labels[i], (held.get(now.labels[i]) ?? 0) + 1));
      const rows = [...held].sort((a, b) => b[1] - a[1]), top = rows.length ? rows[0][1] : 1;
      const body = rows.slice(0, BARS).map(([c, n]) => el('tr', {}, el('th', { scope: 'row',
        textContent: now.classes[c] }),
        el('td', { textContent: count(n) }), el('td', { textContent: `${+(100 * n / now.counts[c]).toPrecision(2)} %` }),
          el('td', {}, bar(n / top))));
      const heads = ['class', 'selected', 'of its images', ''].map(textContent => el('th', { scope: 'col',
        textContent }));
      heads[3].setAttribute('aria-hidden', 'true');
      const more = rows.length > BARS ? [el('p', { className: 'explorer-small',
        textContent: `and ${count(rows.length - BARS)} more classes` })] : [];
      return [el('table', { className: 'explorer-table' }, el('caption', { textContent: 'Classes of the selection' }),
        el('thead', {}, el('tr', {}, ...heads)), el('tbody', {}, ...body)), ...more];
    }

    function wall() {
      const hardest = Array.from(now.sel).sort((i, j) => now.y[j] - now.y[i] || i - j), box = el('div',
        { className: 'explorer-wall' });
      const more = button('', () => add());
      let held = 0;
      function add() {
        for (const i of hardest.slice(held, held + WALL)) {
          const node = button('', () => change({ pin: i }), { 'aria-label': lines(i), title: lines(i) });
          node.append(tile(i, THUMB));
          box.append(node);
        }
        held = Math.min(held + WALL, hardest.length);
        more.hidden = held === hardest.length;
        more.textContent = `Show more (${count(held)} of ${count(hardest.length)} shown)`;
      }
      add();
      return [box, more];
    }

    function showSelected() {
      if (!state.sel) return ui.selected.replaceChildren();
      const value = spearman(now.main.below, now.pretext.below, now.sel);
      ui.selected.replaceChildren(
        el('p', { className: 'explorer-head', role: 'status',
          textContent: `Selected: ${images(now.sel.length)}, Spearman rho ${rho(value)} among them.` }),
        el('div', { className: 'explorer-buttons' }, button('Save as CSV', save), button('Let go of the selection',
          () => change({ sel: null }))),
        ...(now.sel.length ? [el('div', { className: 'explorer-split' }, el('div', {}, ...wall()), el('div', {},
          ...histogram()))] : []));
    }

    // ---- export ----

    function csv() {
      const cell = text => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
      const rows = now.sel.map(i => [i, cell(name(i)), now.main.loss[i].toPrecision(4),
        now.pretext.loss[i].toPrecision(4),
        now.x[i].toFixed(6), now.y[i].toFixed(6)].join(','));
      return ['index,class,main_loss,pretext_loss,main_rank,pretext_rank', ...rows].join('\n') + '\n';
    }

    function save() {
      const url = URL.createObjectURL(new Blob([csv()], { type: 'text/csv' }));
      const name = state.data.replace(/[^a-z0-9]+/gi, '-');
      el('a', { href: url, download: `${name}-${now.sel.length}-images.csv` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    }

    // ---- time ----

    function play() {
      ui.play.textContent = 'Stop';
      ticking = setInterval(() => change({ batch: state.batch % now.parts + 1 }), 1200);
    }

    function stop() {
      clearInterval(ticking);
      ticking = 0;
      ui.play.textContent = 'Play';
    }

    // ---- one change after the other ----

    function change(what, side) {
      Object.assign(state, what);
      if (side === 'data') {
        const { data, view } = state;
        [state] = read(written({ ...defaults(), data, view }, index.version), index);
      }
      ui.note.hidden = true;
      return redraw();
    }

    async function redraw() {
      const mine = turn += 1;
      host.setAttribute('aria-busy', 'true');
      try {
        const set = dataset(), [labels, pretext, main, picks] = await Promise.all([load(set.file), load(state.pretext),
          load(state.main), state.picks ? load(state.picks) : null]);
        if (mine !== turn) return;                             // the reader has gone on meanwhile
        const key = `${state.data} ${state.pretext} ${state.main}`;
        if (now?.key !== key) {
          const before = now?.classes;
          now = { ...frame(labels, column(pretext), column(main)), key };
          if (now.classes !== before) fillClasses();
        }
        now.picks = picks && (picks.index.bdata ? (picks.index = typed(picks.index)) : picks.index);
        update();
        show();
        await Promise.all([drawPlot(), drawHistograms()]);
      } catch (error) {
        say([`${error.message}. Build the book again, or choose something else.`]);
      }
      if (mine === turn) host.setAttribute('aria-busy', 'false');
    }

    function show() {
      ui.fill();
      ui.setView(state.view);
      const off = new Set(state.off);
      [...ui.classes.querySelectorAll('input')].forEach((input, c) => { input.checked = !off.has(c); });
      showFacts(); showBatch(); showPinned(); showSelected();
      if (inline === window.pt4alInline) return;               // a notebook's output has no address of its own
      address = `#${written(state, index.version)}`;
      const before = location.hash;                            // if it changes meanwhile, the reader has gone elsewhere
      clearTimeout(busy);
      busy = setTimeout(() => { if (location.hash === before) location.replace(address); }, 150);
    }

    function say(lacks) {
      ui.note.textContent = lacks.join(' ');
      ui.note.hidden = !lacks.length;
    }

    function open(hash) {
      const [found, lacks] = read(hash, index);
      state = found;
      if (!gl) lacks.push('This browser has no WebGL: you see the density, and find single images by their number.');
      say(lacks);
      return redraw();
    }

    state = read('', index)[0];
    build();
    host.hidden = false;
    open(location.hash);
    window.addEventListener('hashchange', event => {
      const { hash } = new URL(event.newURL);
      if (hash !== address && hash.startsWith('#v=')) open(hash);
    });
    new MutationObserver(() => now && redraw()).observe(document.documentElement, { attributeFilter: ['data-theme'] });
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => now && redraw());
  }

  function webGL() {
    const context = document.createElement('canvas').getContext('webgl');
    context?.getExtension('WEBGL_lose_context')?.loseContext();
    return Boolean(context);
  }

  function start() {
    if (typeof Plotly !== 'undefined') document.querySelectorAll('.explorer').forEach(explorer);
  }

  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start); else start();
})();
