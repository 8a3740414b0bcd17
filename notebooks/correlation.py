# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does the pretext loss rank images like the main-task loss?
#
# The paper's first claim and its statistic: rho, the Spearman correlation of an image's pretext loss
# and its main-task loss, the loss of the classifier.

# %% tags=["parameters"]
dataset = 'cifar10-mini'  # one that `pt4al datasets` lists, or several after commas
task = 'rotation'  # the pretext task
seed = 0  # of both runs
width = None  # channels of the first stage; None takes the data set's default; 64 in the paper
pretext_epochs = None  # None takes the data set's default
main_epochs = None

# %%
import numpy as np
from IPython.display import display
from matplotlib.figure import Figure as Canvas

import pt4al
from pt4al import claims, figures, report, stats
from pt4al.figures import drawing

report.check_parameters(
    globals(), 'dataset', 'task', 'seed', 'width', pretext_epochs=1, main_epochs=1
)
specs = [
    (
        pt4al.spec(
            'pretext', dataset=name, task=task, seed=seed, width=width, epochs=pretext_epochs
        ),
        pt4al.spec('main', dataset=name, seed=seed, width=width, epochs=main_epochs),
    )
    for name in report.listed(dataset, 1)
]
runs, rhos, splits = [tuple(map(pt4al.get, pair)) for pair in specs], [], []
for pretext, main in runs:
    print(
        f'{main.spec.dataset}: {len(main.tables["images"]["label"]):,} images; '
        f'pretext result {pretext.key}, main result {main.key}'
    )

# %% [markdown]
# ## The correlation
#
# The main-task loss of an image is taken out-of-fold: by a classifier that did not train on it.

# %%
for pretext, main in runs:
    images, name = main.tables['images'], main.spec.dataset
    both = [
        stats.rank_correlation(pretext.tables['images']['loss'], images[column])
        for column in ('loss_out', 'loss_in')
    ]
    rhos.append(both[0])
    display(
        report.table(
            [
                {
                    'main-task loss': where,
                    'Spearman rho [95 % interval]': report.fmt_interval(e),
                    'images': f'{e.n:,}',
                    'interval': e.method,
                }
                for where, e in zip(('out-of-fold', 'in-sample'), both)
            ],
            f'Rank correlation of {task} loss and main-task loss on {name}.',
        )
    )

# %% [markdown]
# ## Every image, by both ranks
#
# Each point is an image: its rank by main-task loss (x) and by pretext loss (y). The stronger the
# correlation, the closer points lie to the diagonal. Point at one to see the image; click a class in
# the legend to hide it.

# %%
if len(runs) > 1:
    sheet = Canvas(figsize=(3.3 * len(runs), 3.7), dpi=130, layout='constrained')
    titles = [
        f'{main.spec.dataset}: rho {report.fmt_interval(rho)}' for (_, main), rho in zip(runs, rhos)
    ]
    for axes, title, (pretext, main) in zip(sheet.subplots(1, len(runs)), titles, runs):
        losses = main.tables['images']['loss_out'], pretext.tables['images']['loss']
        x, y = map(stats.normalised_ranks, losses)
        few = np.linspace(0, len(x) - 1, min(1000, len(x))).astype(int)
        axes.plot([0, 1], [0, 1], color=drawing.INK, linestyle='--', linewidth=0.8)
        axes.scatter(x[few], y[few], s=3, alpha=0.55, color=figures.CLASS_COLOURS[0])
        axes.set(xlabel='main-task loss, normalised rank', aspect='equal')
        axes.set(ylabel='pretext loss, normalised rank')
        axes.set_title(title, fontsize=9, loc='left')
    report.show(
        figures.Figure(None, drawing.png(sheet), f'Ranks of two losses: {"; ".join(titles)}.'),
        f'Ranks of {task} loss and out-of-fold main-task loss, 1,000 evenly spaced images of each data set; '
        f'one run a side, seed {seed}.',
        'squares',
    )

# %%
for k, (pretext, main) in enumerate(runs):
    images, name = main.tables['images'], main.spec.dataset
    count = len(images['label'])
    report.show(
        figures.loss_rank_scatter(
            images['loss_out'],
            pretext.tables['images']['loss'],
            images['label'],
            main.classes,
            range(count),
            f'{task} loss against main-task loss',
        ),
        f'Normalised ranks of {count:,} images of {name}: main-task loss out-of-fold (x), {task} loss (y); '
        f'one run a side, seed {seed}.',
        f'scatter-{k + 1}',
        sprites=name,
    )

# %% [markdown]
# ## Between and within classes
#
# The correlation over all images may only say that some classes are harder than others. The figure
# takes one class at a time; the table splits rho exactly into a part between and a part within classes.

# %%
for k, ((pretext, main), rho) in enumerate(zip(runs, rhos)):
    images, name = main.tables['images'], main.spec.dataset
    columns = pretext.tables['images']['loss'], images['loss_out'], images['label']
    inside = stats.by_class(*columns, main.classes)
    largest = sorted(inside, key=lambda one: -one[1])[:20] if len(inside) > 20 else inside
    report.show(
        figures.rank_forest(
            [('all images', rho.value, rho.low, rho.high)]
            + [(label, e.value, e.low, e.high) for label, n, e in largest],
            f'rho within each class, {task}',
        ),
        f'Spearman rho on {name}, all images and {len(largest)} of {len(inside)} classes, 95 % bootstrap intervals over images; '
        f'one run a side, seed {seed}.',
        f'by-class-{k + 1}',
    )
    parts = stats.between_within(*columns)
    splits.append(parts)
    display(
        report.table(
            [
                {'part': part, 'value': value}
                for part, value in (
                    ('pooled rho', parts.total),
                    ('of which between classes', parts.between),
                    ('of which within classes', parts.within),
                    ('mean rho within a class', parts.within_class_rho),
                    ('correlation of the class means', parts.class_mean_correlation),
                    ('share of pretext-rank variance explained by class', parts.eta_squared),
                )
            ],
            f'Rho on {name} between and within classes ({parts.classes} classes, {parts.n:,} images).',
        )
    )

# %% [markdown]
# ## Answer

# %%
for (_, main), rho, parts in zip(runs, rhos, splits):
    name = main.spec.dataset
    published = dict(zip(('the paper', 'the reproduction'), claims.published('1', name)))
    said = [f'{who} reports {value}' for who, value in published.items() if value != '–']
    display(
        report.note(
            f'{task} loss and out-of-fold main-task loss on {name} correlate at {report.fmt_interval(rho)}; '
            f'within a class at {parts.within_class_rho:.2f} on average. One run of each network: the interval '
            f'covers images, not seeds. The classifier is right on {main.summary["accuracy_out"]:.0%} of these '
            'images.' + (f' Of rotation, {", ".join(said)}.' if said and task == 'rotation' else '')
        )
    )

# %% [markdown]
# ## Provenance

# %%
report.provenance([run for pair in runs for run in pair])
