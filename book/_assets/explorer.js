// The explorer: every image by two ranks, the pictures behind the points, and what strategies picked. The page holds an
// index; columns of losses, labels and picks are scripts beside it that call pt4alExplorer(name, content), because a
// page opened from disk may not fetch. All text from data enters the page as text, never as markup.
(function () {
  'use strict';
  const TYPES = { u2: Uint16Array, u4: Uint32Array, i2: Int16Array };
  const FINGER = matchMedia('(pointer: coarse)').matches;   // then a drag scrolls the page
  const WALL = 60, BARS = 20, BINS = 50, RINGS = 2000, DRAWN = 5000, THUMB = 48, SMALL = 52, HOVER = 96, LARGE = 192;
  const ACCENT = '#d55e00';
  const CORNERS = {                                          // x0, x1, y0, y1: main across, pretext upwards
    'hard for the pretext task, easy for the classifier': [0, 0.2, 0.8, 1],
    'easy for the pretext task, hard for the classifier': [0.8, 1, 0, 0.2],
    'hard for both': [0.8, 1, 0.8, 1],
    'easy for both': [0, 0.2, 0, 0.2],
  };
  // Where a reader may begin: a view, what it needs, and a sentence. `picks` names a strategy, `sel` a box of ranks.
  const OPENINGS = [
    { text: 'Hard to rotate, easy to classify', sel: [0, 0.2, 0.8, 1],
      says: 'The pretext task fails where the classifier is sure: balls, frogs from above, planes without a horizon.' },
    { text: 'Easy to rotate, hard to classify', sel: [0.8, 1, 0, 0.2],
      says: 'Upright is plain to see, but the class is not: these are what a pretext loss makes PT4AL label last.' },
    { text: 'What the text sort puts first', picks: 'pt4al_released', batch: 1,
      says: 'The released code sorts losses as text, so tiny losses such as 9.1e-05 count as large; rings mark its first query.' },
    { text: 'PT4AL’s first query against random', picks: 'pt4al', batch: 1,
      says: 'Rings mark PT4AL’s first query, all in batch 1. Choose “random” under “Picks of” to compare.' },
    { text: 'Hard for both', sel: [0.95, 1, 0.95, 1],
      says: 'Both losses are among the largest twentieth: ambiguous and mislabelled images gather in this corner.' },
  ];

  // -- small things --------------------------------------------------------------------------------------------------

  // el('div.panel', { hidden: true }, 'text', node): the class is explorer-panel.
  function el(kind, properties, ...children) {
    const [name, ...classes] = kind.split('.'), node = document.createElement(name);
    node.classList.add(...classes.map(part => `explorer-${part}`));
    for (const [key, value] of Object.entries(properties ?? {})) {
      if (key === 'style') Object.assign(node.style, value);
      else if (key in node) node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children);
    return node;
  }

  const button = (text, onclick, more) => el('button', { type: 'button', onclick, ...more }, text);
  const small = text => el('p.small', {}, text);

  const count = n => n.toLocaleString('en');
  const images = n => `${count(n)} image${n === 1 ? '' : 's'}`;
  const rho = value => (Number.isFinite(value) ? value.toFixed(3) : 'not defined');
  const ascending = values => [...values].sort((a, b) => a - b);
  const range = n => [...Array(n).keys()];
  // Of many rows evenly spaced ones: more points than these hide each other.
  const few = rows => (rows.length <= DRAWN ? rows : range(DRAWN).map(k => rows[Math.floor(k * rows.length / DRAWN)]));

  function short(loss) {
    if (loss === 0) return '0';
    return Math.abs(loss) < 1e-3 || Math.abs(loss) >= 1e4 ? loss.toExponential(2) : loss.toPrecision(3);
  }

  // -- files ---------------------------------------------------------------------------------------------------------

  const waiting = new Map(), promised = new Map();
  const root = () => document.documentElement.dataset.content_root ?? './';
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const typed = ({ dtype, bdata }) => new TYPES[dtype](bytes(bdata).buffer);

  window.pt4alExplorer = (name, content) => waiting.get(name)?.(content);

  function load(name, read) {
    if (!promised.has(name)) {
      promised.set(name, new Promise((resolve, reject) => {
        waiting.set(name, resolve);
        const src = `${root()}_static/explorer/${name}.js`;
        const onerror = () => { promised.delete(name); reject(new Error(`${src} cannot be read`)); };
        document.head.append(el('script', { src, onerror }));
      }).then(read));
    }
    return promised.get(name);
  }

  const readSet = ({ labels, classes }) => ({ labels: typed(labels), classes });
  const readPicks = ({ index }) => typed(index);

  // The other side of `ranks` and of `coded` in the package.
  function readColumn({ below, codes, decades, smallest }) {
    const ranks = typed(below), none = 2 ** (8 * ranks.BYTES_PER_ELEMENT) - 1;
    const loss = Float64Array.from(typed(codes), (c, i) => {
      if (ranks[i] === none) return NaN;
      return c && Math.sign(c) * 10 ** (Math.abs(c) / 32767 * decades + smallest);
    });
    return { below: ranks, loss };
  }

  const sheet = (folder, number) => `${root()}_static/sprites/${folder}/${number}.jpg`;

  // -- numbers -------------------------------------------------------------------------------------------------------

  // Average ranks 1..m of the chosen rows, from how many of all images lie below each; linear, since those are counts.
  function averageRanks(below, rows) {
    const held = new Uint32Array(below.length + 1), rank = new Float64Array(below.length + 1);
    for (const i of rows) held[below[i]] += 1;
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
      ab += (a[k] - mean) * (b[k] - mean);
      aa += (a[k] - mean) ** 2;
      bb += (b[k] - mean) ** 2;
    }
    return ab / Math.sqrt(aa * bb);
  }

  // Batch of every row, 1 the hardest, cut as numpy's array_split does; rows whose losses tie fall by their number.
  function batches(below, rows, parts) {
    const order = Uint32Array.from(rows).sort((i, j) => below[j] - below[i] || i - j);
    const of = new Uint16Array(below.length), least = Math.floor(order.length / parts), larger = order.length % parts;
    for (let part = 0, start = 0; part < parts; part += 1) {
      const end = start + least + (part < larger ? 1 : 0);
      for (; start < end; start += 1) of[order[start]] = part + 1;
    }
    return of;
  }

  // Everything that follows from the chosen columns; x and y are normalised ranks among the rows with both losses.
  function frame({ labels, classes }, pretext, main, beside) {
    const rows = range(labels.length).filter(i => !Number.isNaN(main.loss[i] + pretext.loss[i]));
    const counts = new Uint32Array(classes.length);
    rows.forEach(i => { counts[labels[i]] += 1; });
    const spread = ({ below, loss }) => {
      const of = new Float32Array(labels.length).fill(NaN), ranked = rows.filter(i => !Number.isNaN(loss[i]));
      const ranks = averageRanks(below, ranked);
      ranked.forEach((i, k) => { of[i] = ranks[k] / ranked.length; });
      return of;
    };
    return { labels, classes, counts, pretext, main, beside, rows, n: rows.length, lost: labels.length - rows.length,
      x: spread(main), y: spread(pretext), other: beside && spread(beside) };
  }

  // Whether a row is in a selection: a box or a lasso among the ranks, a box in the plot beside, or a range of a loss.
  function member({ kind, at }, { x, y, other, main, pretext }) {
    if (kind === 'beside') {
      return i => other && x[i] >= at[0] && x[i] <= at[1] && other[i] >= at[2] && other[i] <= at[3];
    }
    if (kind === 'box') return i => x[i] >= at[0] && x[i] <= at[1] && y[i] >= at[2] && y[i] <= at[3];
    if (kind === 'lasso') return i => within(x[i], y[i], at);
    const { loss } = { main, pretext }[kind];
    return i => loss[i] >= at[0] && loss[i] <= at[1];
  }

  function within(x, y, at) {                                 // is a point in a polygon x, y, x, y, ..., by crossings
    let inside = false;
    for (let i = 0, j = at.length - 2; i < at.length; j = i, i += 2) {
      const [xi, yi, xj, yj] = [at[i], at[i + 1], at[j], at[j + 1]];
      if ((yi > y) !== (yj > y) && x < (xj - xi) * (y - yi) / (yj - yi) + xi) inside = !inside;
    }
    return inside;
  }

  // Bars for a loss, on a logarithmic scale where none is negative; losses of zero stand in the lowest bar.
  function bins(loss, rows) {
    let low = Infinity, high = -Infinity, least = Infinity;
    for (const i of rows) {
      low = Math.min(low, loss[i]);
      high = Math.max(high, loss[i]);
      if (loss[i] > 0) least = Math.min(least, loss[i]);
    }
    if (low > high) [low, high] = [0, 1];                     // of no rows
    const log = low >= 0 && Number.isFinite(least), scale = log ? v => Math.log10(Math.max(v, least)) : v => v;
    [low, high] = [scale(low), scale(high)];
    const width = (high - low || 1) / BINS, at = range(BINS).map(k => low + (k + 0.5) * width);
    const held = some => {
      const bars = new Array(BINS).fill(0);
      for (const i of some) bars[Math.min(BINS - 1, Math.floor((scale(loss[i]) - low) / width))] += 1;
      return bars;
    };
    return { log, low, width, at, held };
  }

  // -- the state, as the address says it -----------------------------------------------------------------------------

  const defaults = () => (
    { data: '', pretext: '', beside: '', main: '', view: 'points', off: [], picks: '', batch: 0, pin: -1, sel: null });

  function written(state, version) {
    const out = new URLSearchParams({ v: version });
    for (const key of ['data', 'pretext', 'beside', 'main', 'picks']) if (state[key]) out.set(key, state[key]);
    if (state.view !== 'points') out.set('view', state.view);
    if (state.off.length) out.set('off', state.off.join('.'));
    if (state.batch) out.set('batch', state.batch);
    if (state.pin >= 0) out.set('pin', state.pin);
    if (state.sel) out.set('sel', `${state.sel.kind}:${state.sel.at.map(v => +v.toPrecision(4)).join(',')}`);
    return out.toString().replaceAll('%3A', ':').replaceAll('%2C', ',');
  }

  function selection(text) {
    const [kind, values] = text.split(':'), at = (values ?? '').split(',').map(Number), n = at.length;
    const fits = { box: n === 4, beside: n === 4, lasso: n >= 6 && n % 2 === 0, main: n === 2, pretext: n === 2 }[kind];
    return fits && at.every(Number.isFinite) ? { kind, at } : null;
  }

  // What of an address can be had; the second part says what cannot.
  function read(hash, index) {
    const said = new URLSearchParams(hash.replace(/^#/, '')), lacks = [], state = defaults();
    const known = said.get('v') === String(index.version), has = key => known && said.has(key);
    if (said.has('v') && !known) {
      lacks.push('This address was made for another version of this page: what you see are its defaults.');
    }
    const find = (entries, key, by) => {
      const found = has(key) ? entries.find(entry => entry[by] === said.get(key)) : undefined;
      if (has(key) && !found) lacks.push(`This report has no ${key} “${said.get(key)}”: shown is the default.`);
      return found;
    };
    const whole = text => text !== '' && Number.isInteger(Number(text)) && Number(text) >= 0;
    const number = (key, none) => (has(key) && whole(said.get(key)) ? Number(said.get(key)) : none);
    const set = find(index.datasets, 'data', 'name') ?? index.datasets[0];
    state.data = set.name;
    state.pretext = (find(set.pretext, 'pretext', 'file') ?? set.pretext[0]).file;
    state.beside = find(set.pretext, 'beside', 'file')?.file ?? '';
    state.main = (find(set.main, 'main', 'file') ?? set.main[0]).file;
    state.picks = find(set.picks, 'picks', 'file')?.file ?? '';
    if (has('view') && said.get('view') === 'density') state.view = 'density';
    if (has('off')) state.off = said.get('off').split('.').filter(whole).map(Number);
    state.batch = number('batch', 0);
    state.pin = number('pin', -1);
    if (has('sel')) state.sel = selection(said.get('sel'));
    if (has('sel') && !state.sel) lacks.push('The selection in the address cannot be read.');
    return [state, lacks];
  }

  // -- pictures as a task sees them ----------------------------------------------------------------------------------

  // `picture(size, part)` makes a square that shows the image or a part of it.
  const WAYS = {
    turns: picture => ['turned by 0°, 90°, 180°, 270°', [0, 90, 180, 270].map(angle => {
      const node = picture(SMALL);
      node.style.transform = `rotate(${-angle}deg)`;
      return node;
    })],
    grey: picture => {
      const bare = picture(SMALL);
      bare.style.filter = 'grayscale(1)';
      return ['grey, as it is shown, and in colour', [bare, picture(SMALL)]];
    },
    tiles: (picture, grid) => {
      const cells = range(grid), begin = k => (k + 1 / 8) / grid, size = LARGE / 1.5;
      const nodes = cells.flatMap(v => cells.map(u => picture(size, 3 / 4 / grid, begin(u), begin(v))));
      const style = { gridTemplateColumns: `repeat(${grid}, max-content)` };
      const text = `its ${grid ** 2} tiles, with the gaps that are cut out between them`;
      return [text, [el('div.tiles', { style }, ...nodes)]];
    },
    holes: (picture, along) => {
      const places = along === 1 ? [[25, 25]] : [[0, 0], [50, 0], [0, 50], [50, 50]];
      return ['with a part hidden that is to be painted', places.map(([left, top]) => {
        const node = picture(SMALL);
        node.append(el('div.hole', { style: { left: `${left}%`, top: `${top}%` } }));
        return node;
      })];
    },
  };

  function ways(views, picture) {
    return Object.keys(WAYS).filter(way => views[way]).map(way => {
      const [text, nodes] = WAYS[way](picture, views[way]);
      return el('figure', {}, el('div.ways', {}, ...nodes), el('figcaption', {}, text));
    });
  }

  // -- one explorer --------------------------------------------------------------------------------------------------

  let fields = 0;
  const id = () => `explorer-${fields += 1}`;
  const gl = webGL();
  const CONFIG = { responsive: true, displaylogo: false, displayModeBar: FINGER ? false : 'hover',
    modeBarButtons: [['toImage'], ['zoomIn2d', 'zoomOut2d', 'resetScale2d']] };   // a closed list: plotly's own uploads

  function explorer(host) {
    const index = JSON.parse(host.querySelector('.explorer-index').textContent), ui = {};
    let state, now, drag = FINGER ? 'false' : 'select', turn = 0, busy, ticking;

    const dataset = () => index.datasets.find(d => d.name === state.data);
    const columns = side => dataset()[side === 'beside' ? 'pretext' : side];
    const chosen = side => columns(side).find(c => c.file === state[side]);
    const select = (kind, at) => change({ sel: at ? { kind, at } : null });

    // ---- controls; `ui.fill` holds what brings each up to date ----

    function menu(label, onchange) {
      const box = el('select', { id: id(), onchange: () => onchange(box.value) });
      const fill = (entries, value) => {
        box.replaceChildren(...entries.map(([text, key]) => el('option', { value: key }, text)));
        box.value = value;
      };
      return [fill, el('div.field', {}, el('label', { htmlFor: box.id }, label), box)];
    }

    // Two menus a side: a group (task, definition of the loss, strategy), and the run in it.
    function menus(side, label, none = []) {
      const first = group => columns(side).find(c => c.group === group)?.file ?? '';
      const [fillGroups, groups] = menu(label, group => change({ [side]: first(group), batch: 0 }));
      const [fillRuns, runs] = menu(`Run of ${label[0].toLowerCase()}${label.slice(1)}`, file => change({ [side]: file }));
      ui.fill.push(() => {
        const entries = columns(side), at = chosen(side), names = [...new Set(entries.map(c => c.group))];
        fillGroups([...none, ...names.map(name => [name, name])], at?.group ?? '');
        fillRuns(entries.filter(c => c.group === at?.group).map(c => [c.run, c.file]), at?.file ?? '');
        runs.hidden = !at;
      });
      return [groups, runs];
    }

    function radios(legend, what, choices, value, onchange) {
      const inputs = Object.keys(choices).map(key => el('input', { type: 'radio', name: `explorer-${what}`, value: key,
        onchange: () => onchange(key) }));
      ui.fill.push(() => inputs.forEach(input => { input.checked = input.value === value(); }));
      return el('fieldset.radios', {}, el('legend', {}, legend),
        ...inputs.map(input => el('label', {}, input, ` ${choices[input.value]}`)));
    }

    function form(act, ...parts) {
      return el('form.box', { onsubmit: event => { event.preventDefault(); act(); } }, ...parts);
    }

    function chooseRuns() {
      const anew = data => read(written({ ...defaults(), data, view: state.view }, index.version), index)[0];
      const [fill, data] = menu('Data set', name => change(anew(name)));
      ui.fill.push(() => fill(index.datasets.map(d => [`${d.title} (${count(d.images)})`, d.name]), state.data));
      return [data, ...menus('pretext', 'Pretext task'), ...menus('beside', 'Second pretext task', [['none', '']]),
        ...menus('main', 'Main-task loss'), epochs(),
        radios('Show', 'view', { points: 'points', density: 'density' }, () => state.view, view => change({ view }))];
    }

    // The main-task loss as it was after each logged epoch, where a run that was watched is stored.
    function epochs() {
      const logged = () => dataset().main.filter(c => c.epoch).sort((a, b) => a.epoch - b.epoch), out = el('output');
      const slider = el('input', { id: id(), type: 'range', min: 0, step: 1,
        oninput: () => change({ main: logged()[slider.value].file }) });
      const field = el('div.field', {}, el('span', {}, el('label', { htmlFor: slider.id }, 'After epoch'), ': ', out),
        slider);
      ui.fill.push(() => {
        const all = logged(), at = all.findIndex(c => c.file === state.main);
        field.hidden = !all.length;
        Object.assign(slider, { max: all.length - 1, value: at < 0 ? all.length - 1 : at });
        out.textContent = at < 0 ? 'all training' : all[at].epoch;
        slider.setAttribute('aria-valuetext', out.textContent);
      });
      return field;
    }

    function chooseView() {
      const drags = { select: 'select a box', lasso: 'select by lasso', pan: 'move', zoom: 'zoom',
        ...(FINGER ? { false: 'scroll the page' } : {}) };
      const ends = ['main from', 'main to', 'pretext from', 'pretext to'].map(text => el('input', { type: 'number',
        min: 0, max: 1, step: 0.01, 'aria-label': `${text}, normalised rank` }));
      const numbers = () => ends.map((end, k) => (end.value === '' ? k % 2 : Number(end.value)));
      const corner = el('select', { id: id(),
        onchange: () => corner.value && select('box', CORNERS[corner.value]) },
      ...['', ...Object.keys(CORNERS)].map(value => el('option', { value }, value || 'choose …')));
      ui.fill.push(() => {
        const { kind, at } = state.sel ?? {};
        ends.forEach((end, k) => { end.value = kind === 'box' ? +at[k].toFixed(3) : ''; });
        corner.value = Object.keys(CORNERS).find(text => String(CORNERS[text]) === String(at)) ?? '';
      });
      return [
        radios('Drag to', 'drag', drags, () => drag, value => { drag = value; redraw(); }),
        el('div.field', {}, el('label', { htmlFor: corner.id }, 'Quadrant'), corner),
        el('details', {}, el('summary', {}, 'Select by rank'), form(() => select('box', numbers()),
          el('span', {}, 'main-task ', ends[0], '–', ends[1]), el('span', {}, 'pretext ', ends[2], '–', ends[3]),
          el('button', {}, 'Select'))),
      ];
    }

    // A part of the rail that folds, so that all of it is in sight on a screen 900 pixels high.
    const group = (name, open, ...parts) => el('details.group', { open }, el('summary', {}, name), ...parts);

    function replay() {
      ui.slider = el('input', { id: id(), type: 'range', min: 0, step: 1, value: 0,
        oninput: () => change({ batch: Number(ui.slider.value) }) });
      ui.batch = el('output');
      ui.play = button('Play', () => (ticking ? stop() : play()));
      const label = el('label', { htmlFor: ui.slider.id }, 'Batch of the split');
      return [...menus('picks', 'Picks of', [['no strategy', '']]),
        el('div.field.slide', {}, el('span', {}, label, ': ', ui.batch),
          el('div.buttons', {}, ui.slider, ui.play))];
    }

    function keep() {
      const number = el('input', { type: 'number', min: 0, step: 1, 'aria-label': 'Number of an image' });
      return form(() => number.value !== '' && change({ pin: Number(number.value) }), 'image ', number,
        el('button', {}, 'Pin image'));
    }

    function classFilter() {
      const all = (text, keep) => button(text, () => change({ off: range(now.classes.length).filter(c => !keep(c)) }));
      ui.search = el('input', { type: 'search', placeholder: 'search', 'aria-label': 'Search a class',
        oninput: found });
      ui.classes = el('ul.classes', { tabIndex: 0, 'aria-label': 'Classes shown' });
      return [ui.search, el('div.buttons', {}, all('All', () => true), all('None', () => false),
        all('Show only matches', matches)), ui.classes];
    }

    // A first query by a rule, or the selection: how even and how wide it is, and which recorded one is nearest to it.
    const RULES = {
      'the hardest': (order, k) => order.slice(0, k),
      'every so many of the hardest batch': (order, k) => {
        const batch = order.filter(i => now.batchOf[i] === 1), step = Math.max(1, Math.floor(batch.length / k));
        return batch.filter((_, at) => at % step === 0).slice(0, k);
      },
      'evenly from all batches': (order, k) => range(k).map(at => order[Math.floor((at + 0.5) * order.length / k)]),
      'the selection': () => now.sel,
    };

    function coldStart() {
      const rule = el('select', { id: id(), onchange: tell }, ...Object.keys(RULES).map(text => el('option', {}, text)));
      const size = el('input', { type: 'number', min: 2, step: 1, value: 1000, 'aria-label': 'Labels', onchange: tell });
      ui.cold = el('p.small', { role: 'status' });
      async function tell() {
        if (!now) return;
        const order = [...now.rows].sort((i, j) => now.y[j] - now.y[i] || i - j), about = now;
        const query = RULES[rule.value](order, Math.min(Math.max(2, Math.floor(size.value)), order.length));
        const entries = dataset().picks, all = await Promise.all(entries.map(c => load(c.file, readPicks)));
        if (about === now) ui.cold.textContent = query.length < 2 ? 'Select two images or more.' : verdict(query, entries, all);
      }
      return el('details.cold', { ontoggle: tell }, el('summary', {}, 'Cold start: a first query of your own'),
        el('div.box', {}, size, ' labels: ', el('label', { htmlFor: rule.id }, 'of'), rule, button('Look', tell)), ui.cold);
    }

    // Class shares, their entropy over its largest value, and the mean pretext rank of a query.
    function profile(query) {
      const share = new Float64Array(now.classes.length), ranked = query.filter(i => !Number.isNaN(now.y[i]));
      query.forEach(i => { share[now.labels[i]] += 1 / query.length; });
      const even = -share.reduce((sum, p) => sum + (p && p * Math.log(p)), 0) / Math.log(share.length);
      return { share, even, rank: ranked.reduce((sum, i) => sum + now.y[i], 0) / (ranked.length || 1) };
    }

    function verdict(query, entries, all) {
      const mine = profile(query), held = mine.share.filter(p => p > 0).length;
      const cut = new Set(query.map(i => now.batchOf[i])).size;
      const far = ({ sizes }, picks) => {
        const { share, rank } = profile(Array.from(picks.slice(0, sizes[0])));
        const moved = share.reduce((sum, p, c) => sum + Math.abs(p - mine.share[c]), 0) / 2;
        return moved + Math.abs(rank - mine.rank) + Math.abs(Math.log(sizes[0] / query.length));
      };
      const away = entries.map((entry, k) => far(entry, all[k])), k = away.indexOf(Math.min(...away));
      const own = `${count(query.length)} labels: class entropy ${mine.even.toFixed(3)} of 1, ${held} of ${now.classes.length} `
        + `classes, ${cut} of ${now.parts} batches. `;
      if (k < 0) return `${own}No first query is recorded on this data set.`;
      const { group, run, sizes, accuracy } = entries[k], { even } = profile(Array.from(all[k].slice(0, sizes[0])));
      return `${own}This query has not been trained on. The nearest that has, by class shares, mean rank and size: ${group}, `
        + `${run}, ${count(sizes[0])} labels, class entropy ${even.toFixed(3)}, test accuracy ${accuracy} %.`;
    }

    const matches = c => now.classes[c].toLowerCase().includes(ui.search.value.trim().toLowerCase());
    function found() { [...ui.classes.children].forEach((item, c) => { item.hidden = !matches(c); }); }

    function fillClasses() {
      const toggle = (c, on) => change({ off: ascending(on ? state.off.filter(o => o !== c) : [...state.off, c]) });
      ui.classes.replaceChildren(...now.classes.map((name, c) => {
        const input = el('input', { type: 'checkbox', onchange: () => toggle(c, input.checked) });
        const background = index.colours[c % index.colours.length];
        return el('li', {}, el('label', {}, input, el('span.dot', { style: { background } }),
          el('span', {}, name), el('span.count', {}, count(now.counts[c]))));
      }));
      const few = now.classes.length <= index.colours.length;  // else classes share colours
      ui.legend.replaceChildren(...(few ? now.classes.map((name, c) => el('span', {},
        el('span.dot', { style: { background: index.colours[c] } }), ` ${name}`))
        : ['Colours: classes, several of each colour; “Classes” lists them.']));
      found();
    }

    function openings() {
      ui.story = el('p.story', { role: 'status' });
      const offered = OPENINGS.map(({ text, sel, picks, batch = 0, says }) => {
        const first = () => dataset().picks.find(c => c.group === picks)?.file ?? '';
        const open = button(text, () => {
          ui.story.textContent = says;
          ui.replay.open ||= Boolean(picks);
          change({ off: [], batch, picks: first(), view: 'points', sel: sel ? { kind: 'box', at: sel } : null });
        });
        ui.fill.push(() => { open.disabled = Boolean(picks) && !first(); });
        return open;
      });
      return el('section.openings', { 'aria-label': 'Opening views' }, el('div.buttons', {}, ...offered), ui.story);
    }

    function build() {
      ui.fill = [];
      ui.note = el('p.note', { role: 'status', hidden: true });
      ui.plot = el('div.plot', { role: 'group' });
      ui.beside = el('div.plot', { role: 'group', hidden: true });
      ui.facts = el('p.facts', { role: 'status' });
      ui.picked = el('p.small', { role: 'status' });
      ui.legend = el('p.legend', {});
      ui.histograms = el('div.histograms', { role: 'group' });
      ui.hover = el('div.panel.hover', {}, tile(-1, HOVER),
        el('p', {}, 'Point at an image to see it, click it to pin it.'));
      ui.pinned = el('section.pinned', { 'aria-label': 'Pinned image', 'aria-live': 'polite' });
      ui.selected = el('section.selected', { 'aria-label': 'Selection' });
      ui.bring = el('p.bring', { hidden: true });
      ui.replay = group('Batches and picks', true, ...replay());
      host.append(openings(), ui.note, el('div.main', {},
        el('div.rail', {}, ...chooseRuns(), group('Selection', false, ...chooseView()), ui.replay,
          group('Classes', false, ...classFilter())),
        el('div.left', {}, el('div.plots', {}, ui.plot, ui.beside, ui.legend), ui.facts, ui.picked,
          small('Images by the size of their losses; drag to select a range.'), ui.histograms),
        el('div.right', {}, ui.bring, ui.hover, keep(), coldStart(), ui.pinned, ui.selected)));
    }

    // ---- one image ----

    // A square of `size` pixels that shows an image, or the part of it that begins at (left, top), both from 0 to 1.
    function tile(i, size, part = 1, left = 0, top = 0) {
      const side = `${size * part}px`, node = el('div.tile', { style: { width: side, height: side } });
      const folder = i >= 0 && dataset().sprites, k = i % index.perSheet;
      if (!folder) return node;
      const [x, y] = [k % index.across + left, Math.floor(k / index.across) + top];
      Object.assign(node.style, { backgroundImage: `url("${sheet(folder, Math.floor(i / index.perSheet))}")`,
        backgroundSize: `${index.across * size}px auto`, backgroundPosition: `${-x * size}px ${-y * size}px` });
      return node;
    }

    const name = i => now.classes[now.labels[i]] ?? 'no class';

    function words(i) {
      const line = (what, { loss }, ranks) => (Number.isNaN(ranks[i]) ? `${what}: no loss that can be ranked`
        : `${what} loss ${short(loss[i])}, rank ${count(Math.round(2 * ranks[i] * now.n) / 2)} of ${count(now.n)}`);
      return [`${name(i)}, image ${count(i)}`, line('main-task', now.main, now.x),
        line('pretext', now.pretext, now.y)].join('\n');
    }

    const shown = (i, size) => [tile(i, size), el('p', {}, words(i))];

    function showPinned() {
      const i = state.pin, last = now.labels.length - 1, { group, views } = chosen('pretext');
      if (i < 0) return ui.pinned.replaceChildren();
      if (i > last) return ui.pinned.replaceChildren(`There is no image ${count(i)}: the last is ${count(last)}.`);
      const seen = dataset().sprites ? ways(views, (...part) => tile(i, ...part)) : [];
      const why = !dataset().sprites ? 'This page holds no pictures of this data set.'
        : seen.length ? `As ${group} sees it:` : `${group} draws its views at random; they are not shown here.`;
      ui.pinned.replaceChildren(el('div.panel', {}, ...shown(i, LARGE)), small(why), ...seen,
        button('Unpin', () => change({ pin: -1 })));
    }

    // ---- the plot ----

    function update() {
      const { batches: parts = 10, sizes = [] } = chosen('picks') ?? {}, off = new Set(state.off);
      now.shown = off.size ? now.rows.filter(i => !off.has(now.labels[i])) : now.rows;
      now.drawn = few(now.shown);
      now.parts = Math.max(1, Math.min(parts, now.n));
      state.batch = Math.min(state.batch, now.parts);
      if (now.split !== now.parts) now.batchOf = batches(now.pretext.below, now.rows, now.split = now.parts);
      now.sel = state.sel ? now.shown.filter(member(state.sel, now)) : [];
      const end = cycle => sizes.slice(0, cycle).reduce((a, b) => a + b, 0);
      now.picked = Array.from(now.picks ?? []).slice(...(state.batch ? [end(state.batch - 1), end(state.batch)] : []));
    }

    function theme() {
      const { color, fontFamily: family } = getComputedStyle(host), clear = 'rgba(0,0,0,0)';
      const line = 'rgba(128,128,128,0.25)';
      return {
        axis: (text, more) => ({ gridcolor: line, linecolor: line, tickcolor: line, ticks: 'outside', zeroline: false,
          title: { text, standoff: 6 }, ...more }),
        layout: { font: { color, family, size: 13 }, paper_bgcolor: clear, plot_bgcolor: clear, showlegend: false,
          selections: [], selectionrevision: turn, uirevision: `${state.data} ${state.pretext} ${state.main}` },
      };
    }

    function points(rows, y, { opacity = 0.55, ...more }) {
      const { colours } = index, step = 1 / colours.length, size = now.drawn.length > 2500 ? 4 : 6;
      return { type: 'scattergl', mode: 'markers', hoverinfo: 'none', x: Float32Array.from(rows, i => now.x[i]),
        y: Float32Array.from(rows, i => y[i]), ...more,
        marker: { size, opacity, color: Uint8Array.from(rows, i => now.labels[i] % colours.length), cmin: -0.5,
          cmax: colours.length - 0.5, colorscale: colours.flatMap((c, k) => [[k * step, c], [(k + 1) * step, c]]) } };
    }

    function rings(rows, y, color, size, width) {
      return { type: 'scatter', mode: 'markers', hoverinfo: 'skip',
        x: rows.map(i => now.x[i]), y: rows.map(i => y[i]),
        marker: { symbol: 'circle-open', size, color, line: { width } } };
    }

    function density(rows, y) {
      const cells = now.n > 20000 ? 50 : now.n > 1000 ? 25 : 10, at = v => Math.min(cells - 1, Math.floor(v * cells));
      const z = range(cells).map(() => new Array(cells).fill(null)), first = 0.5 / cells, step = 1 / cells;
      for (const i of rows) if (!Number.isNaN(y[i])) z[at(y[i])][at(now.x[i])] += 1;
      return { type: 'heatmap', z, x0: first, dx: step, y0: first, dy: step, colorscale: 'Viridis',
        colorbar: { title: { text: 'images' }, thickness: 12 }, hovertemplate: '%{z:,d} images<extra></extra>' };
    }

    function scatter(inBatch, y) {
      const marked = new Set(now.sel), selectedpoints = [];
      now.drawn.forEach((i, k) => { if (marked.has(i)) selectedpoints.push(k); });
      const all = points(now.drawn, y, { opacity: state.batch || now.picked.length ? 0.12 : 0.55,
        ...(state.sel ? { selectedpoints, selected: { marker: { opacity: 0.9 } },
          unselected: { marker: { opacity: 0.08 } } } : {}) });
      return state.batch ? [all, points(few(inBatch), y, { hoverinfo: 'skip' })] : [all];
    }

    function traces(y) {
      const inBatch = state.batch ? now.shown.filter(i => now.batchOf[i] === state.batch) : now.shown;
      const drawn = state.view === 'density' || !gl ? [density(inBatch, y)] : scatter(inBatch, y);
      if (now.picked.length) {
        const look = now.picked.length > 300 ? [6, 1] : [8, 1.5];
        drawn.push(rings(now.picked.slice(0, RINGS), y, chosen('picks').colour, ...look));
      }
      if (state.pin >= 0 && state.pin < now.labels.length) drawn.push(rings([state.pin], y, ACCENT, 18, 3));
      return drawn;
    }

    function outline(box) {
      const { kind, at } = state.sel ?? {}, line = { color: ACCENT, width: 1.5, dash: 'dot' };
      if (kind === box) return [{ type: 'rect', x0: at[0], x1: at[1], y0: at[2], y1: at[3], line }];
      if (kind !== 'lasso' || box !== 'box') return [];
      return [{ type: 'path', path: `M${at.join(',').replace(/([^,]+,[^,]+),/g, '$1L')}Z`, line }];
    }

    async function draw(div, drawn, layout, config, events) {
      await Plotly.react(div, drawn, layout, config);
      if (div.watched) return;
      div.watched = true;
      for (const [event, act] of Object.entries({ deselect: () => select(), ...events })) {
        div.on(`plotly_${event}`, act);
      }
    }

    function drawPlot() {
      const { axis, layout } = theme(), unit = host.clientWidth < 500 || now.other ? 'rank' : 'normalised rank';
      const side = loss => axis(`${loss} loss, ${unit}`, { range: [-0.01, 1.01] });
      const point = act => ({ points: all }) => {
        const i = now.drawn[all.find(one => one.data.type === 'scattergl')?.pointNumber];
        if (i !== undefined) act(i);
      };
      const one = (div, y, box, loss, lasso) => draw(div, traces(y), { ...layout, xaxis: side('main-task'),
        yaxis: side(loss), shapes: outline(box), margin: { l: 54, r: 8, t: 28, b: 46 },
        dragmode: drag === 'false' ? false : drag, hovermode: 'closest',
      }, CONFIG, {
        hover: point(i => ui.hover.replaceChildren(...shown(i, HOVER))),
        click: point(i => change({ pin: i })),
        selected: event => {
          const { range: at, lassoPoints: path } = event ?? {};
          if (at?.x) select(box, [...ascending(at.x), ...ascending(at.y)]);
          if (lasso && path?.x) select('lasso', path.x.flatMap((x, k) => [x, path.y[k]]));
        } });
      ui.plot.setAttribute('aria-label', `Scatter plot. ${ui.facts.textContent}`);
      const alone = ui.beside.hidden, { group } = chosen('beside') ?? {};
      ui.beside.hidden = !now.other;
      const drawn = one(ui.plot, now.y, 'box', group ? chosen('pretext').group : 'pretext', true)
        .then(() => alone !== ui.beside.hidden && Plotly.Plots.resize(ui.plot));
      if (!now.other) return drawn;
      ui.beside.setAttribute('aria-label', `Scatter plot of the same images by ${group} loss.`);
      return drawn.then(() => one(ui.beside, now.other, 'beside', group, false));
    }

    // ---- histograms of both losses, of all that is shown and of the selection ----

    function drawHistograms() {
      const { axis, layout } = theme(), { main, pretext, shown: rows } = now;
      const of = { main: bins(main.loss, rows), pretext: bins(pretext.loss, rows) };
      const part = state.sel ? now.sel : now.picked.filter(i => !Number.isNaN(now.x[i]));
      const across = ({ log, width }, k, text, domain) => axis(text, { anchor: `y${k}`, domain, ...(log ? {
        tickprefix: '10<sup>', ticksuffix: '</sup>', dtick: Math.max(1, Math.ceil(width * BINS / 5)) } : {}) });
      const upwards = k => axis('', { anchor: `x${k}`, fixedrange: true, rangemode: 'tozero', tickformat: '~s' });
      const bars = ({ at, width, held }, k, some, color) => ({ type: 'bar', x: at, y: held(some), width, xaxis: `x${k}`,
        yaxis: `y${k}`, marker: { color }, hovertemplate: '%{y:,d} images<extra></extra>' });
      const both = (one, k) => [bars(one, k, rows, '#8a8a8a'),
        ...(state.sel || part.length ? [bars(one, k, part, ACCENT)] : [])];
      ui.histograms.setAttribute('aria-label', `Histograms of both losses of ${images(rows.length)}`
        + `${state.sel ? `, and of the ${count(now.sel.length)} selected` : ''}.`);
      ui.bins = of;
      return draw(ui.histograms, [...both(of.main, ''), ...both(of.pretext, '2')], { ...layout,
        xaxis: across(of.main, '', 'main-task loss', [0, 0.44]), yaxis: upwards(''),
        xaxis2: across(of.pretext, '2', 'pretext loss', [0.56, 1]), yaxis2: upwards('2'),
        margin: { l: 44, r: 8, t: 8, b: 46 }, barmode: 'overlay', bargap: 0, hovermode: 'x',
        dragmode: FINGER ? false : 'select', selectdirection: 'h',
      }, { ...CONFIG, displayModeBar: false }, { selected: selectLosses });
    }

    function selectLosses(event) {
      const { x, x2 } = event?.range ?? {}, side = x ? 'main' : 'pretext';
      if (!x && !x2) return;
      const { log, low } = ui.bins[side], [from, to] = ascending(x ?? x2);
      select(side, log ? [from <= low ? 0 : 10 ** from, 10 ** to] : [from, to]);
    }

    // ---- words ----

    function showFacts() {
      const among = rows => rho(spearman(now.main.below, now.pretext.below, rows)), whole = among(now.rows);
      const reason = now.n < 3 ? ' (fewer than three images)' : ' (all losses of a side tie)';
      const why = whole === 'not defined' ? reason : '';
      const part = now.shown.length === now.n ? ''
        : ` Classes shown: ${images(now.shown.length)}, rho ${among(now.shown)}.`;
      const lost = now.lost ? ` ${images(now.lost)} without a finite loss on both sides left out.` : '';
      const some = state.view === 'density' || now.drawn.length === now.shown.length ? '' : ` (${count(now.drawn.length)} drawn)`;
      ui.facts.textContent = `${images(now.n)}${some}, Spearman rho ${whole}${why}.${part}${lost}`;
    }

    function showBatch() {
      const { batch } = state, end = batch === 1 ? ', hardest' : batch === now.parts ? ', easiest' : '';
      const text = batch ? `${batch} of ${now.parts}${end}` : 'all';
      Object.assign(ui.slider, { max: now.parts, value: batch });
      ui.slider.setAttribute('aria-valuetext', text);
      ui.batch.textContent = text;
      ui.picked.textContent = state.picks ? wordsOnPicks(chosen('picks'), batch) : '';
    }

    function wordsOnPicks({ group, sizes, sorted }, batch) {
      if (batch > sizes.length) return `This run stopped after cycle ${sizes.length}.`;
      const here = sorted === `${chosen('pretext').group}, ${chosen('pretext').run}`;
      const outside = now.picked.filter(i => now.batchOf[i] !== batch).length;
      const among = batch && here ? `, ${count(outside)} of them outside batch ${batch}` : '';
      const other = sorted && !here ? ` It sorted the pool by ${sorted}, not by the run shown here.` : '';
      const few = now.picked.length > RINGS ? `; rings mark the first ${count(RINGS)}` : ' (rings)';
      const when = batch ? `cycle ${batch}` : 'all cycles';
      return `${group} picked ${images(now.picked.length)} in ${when}${few}${among}.${other}`;
    }

    // ---- the selection ----

    function classTable() {
      const held = new Map();
      now.sel.forEach(i => held.set(now.labels[i], (held.get(now.labels[i]) ?? 0) + 1));
      const rows = [...held].sort((a, b) => b[1] - a[1]), more = rows.length - BARS;
      const cells = ([c, n]) => el('tr', {}, el('th', { scope: 'row' }, now.classes[c]), el('td', {}, count(n)),
        el('td', {}, `${+(100 * n / now.counts[c]).toPrecision(2)} %`),
        el('td', {}, el('div.bar', { style: { width: `${Math.round(100 * n / rows[0][1])}%` } })));
      const heads = ['class', 'selected', 'of its images'].map(text => el('th', { scope: 'col' }, text));
      const table = el('table.table', {}, el('caption', {}, 'Classes of the selection'),
        el('thead', {}, el('tr', {}, ...heads, el('td'))), el('tbody', {}, ...rows.slice(0, BARS).map(cells)));
      return more > 0 ? [table, small(`and ${count(more)} more classes`)] : [table];
    }

    function wall() {
      const hardest = [...now.sel].sort((i, j) => now.y[j] - now.y[i] || i - j);
      const box = el('div.wall'), more = button('', add);
      function add() {
        const held = box.children.length, next = hardest.slice(held, held + WALL);
        box.append(...next.map(i => {
          const node = button('', () => change({ pin: i }), { 'aria-label': words(i), title: words(i) });
          node.append(tile(i, THUMB));
          return node;
        }));
        more.hidden = box.children.length === hardest.length;
        more.textContent = `Show more (${count(box.children.length)} of ${count(hardest.length)} shown)`;
      }
      add();
      return [box, more];
    }

    function showSelected() {
      if (!state.sel) return ui.selected.replaceChildren();
      const value = rho(spearman(now.main.below, now.pretext.below, now.sel));
      ui.selected.replaceChildren(
        el('p.head', { role: 'status' }, `Selected: ${images(now.sel.length)}, Spearman rho ${value} among them.`),
        el('div.buttons', {}, button('Save as CSV', save), button('Clear selection', () => select())));
      if (now.sel.length) {
        ui.selected.append(...wall(), ...classTable());
      }
    }

    function csv() {
      // a spreadsheet would run a name that begins like a formula, or a part that it cuts off
      const plain = text => text.replace(/(^|[;\t\r\n])(?=[ "]*[=+\-@\t\r\n])/g, "$1'");
      const quoted = text => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
      const rows = now.sel.map(i => [i, quoted(plain(name(i))), now.main.loss[i].toPrecision(4),
        now.pretext.loss[i].toPrecision(4), now.x[i].toFixed(6), now.y[i].toFixed(6)]);
      return [['index,class,main_loss,pretext_loss,main_rank,pretext_rank'], ...rows].join('\n') + '\n';
    }

    function save() {
      const href = URL.createObjectURL(new Blob([csv()], { type: 'text/csv' }));
      el('a', { href, download: `${state.data.replace(/[^a-z0-9]+/gi, '-')}-${now.sel.length}-images.csv` }).click();
      setTimeout(() => URL.revokeObjectURL(href), 60_000);
    }

    // ---- time ----

    function play() {
      ui.play.textContent = 'Stop';
      ticking = setInterval(() => change({ batch: state.batch % now.parts + 1 }), 1200);
    }

    function stop() {
      ui.play.textContent = 'Play';
      ticking = clearInterval(ticking);
    }

    // ---- one change after the other ----

    function change(what) {
      Object.assign(state, what);
      ui.note.hidden = true;
      return redraw();
    }

    async function redraw() {
      const mine = turn += 1;
      host.setAttribute('aria-busy', 'true');
      try {
        const loaded = await Promise.all([load(dataset().file, readSet), load(state.pretext, readColumn),
          load(state.main, readColumn), state.beside && load(state.beside, readColumn),
          state.picks && load(state.picks, readPicks)]);
        if (mine !== turn) return;                             // the reader has gone on meanwhile
        take(...loaded);
        show();
        await drawPlot();
        await new Promise(done => { setTimeout(done, 50); });  // the plot can be used while the histograms are to come
        if (mine === turn) await drawHistograms();
      } catch (error) {
        say([`${error.message}. Build the book again, or choose something else.`]);
      }
      if (mine === turn) host.setAttribute('aria-busy', 'false');
    }

    function take(set, pretext, main, beside, picks) {
      const before = now?.classes;
      if (now?.pretext !== pretext || now?.main !== main || now?.beside !== beside) {
        now = frame(set, pretext, main, beside);
        ui.cold.textContent = '';
      }
      if (now.classes !== before) fillClasses();
      now.picks = picks;
      update();
    }

    function show() {
      const off = new Set(state.off);
      ui.fill.forEach(fill => fill());
      ui.classes.querySelectorAll('input').forEach((input, c) => { input.checked = !off.has(c); });
      ui.bring.hidden = Boolean(dataset().sprites);
      ui.bring.textContent = `The images of ${dataset().title} were not on this machine when the page was built, so tiles are `
        + 'grey. Set PT4AL_DATA to the folder that holds them and build the book again.';
      showFacts();
      showBatch();
      showPinned();
      showSelected();
      const before = location.hash, address = `#${written(state, index.version)}`;
      clearTimeout(busy);                                      // without a hashchange, which would undo a later choice
      busy = setTimeout(() => { if (location.hash === before) history.replaceState(null, '', address); }, 150);
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
      if (hash.startsWith('#v=')) open(hash);
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
