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
dataset = 'cifar10-mini'  # a data set that `pt4al datasets` lists
task = 'rotation'  # the pretext task
seed = 0  # of both runs
width = None  # channels of the first stage; None takes the data set's default; 64 in the paper
pretext_epochs = None  # None takes the data set's default
main_epochs = None

# %%
import numpy as np

import pt4al
from pt4al import claims, figures, report, stats

report.check_parameters(
    globals(), 'dataset', 'task', 'seed', 'width', 'pretext_epochs', 'main_epochs'
)
specs = (
    pt4al.spec(
        'pretext', dataset=dataset, task=task, seed=seed, width=width, epochs=pretext_epochs
    ),
    pt4al.spec('main', dataset=dataset, seed=seed, width=width, epochs=main_epochs),
)
pretext, main = map(pt4al.get, specs)
x, y = main.tables['images']['loss_out'], pretext.tables['images']['loss']
label, classes = main.tables['images']['label'], main.classes
print(f'{len(x):,} images; pretext result {pretext.key}, main result {main.key}')

# %% [markdown]
# ## Every image, by both ranks
#
# Each point is an image: across its rank by main-task loss out-of-fold (by a classifier that did not
# train on it), upwards its rank by pretext loss. If the claim held, points would lie along the
# diagonal. Point at one to see the image; click a class in the legend to hide it.

# %%
report.show(
    figures.loss_rank_scatter(
        x, y, label, classes, np.arange(len(x)), f'{task} loss against main-task loss'
    ),
    f'Normalised ranks of {len(x):,} images of {dataset}: main-task loss out-of-fold (x), {task} loss (y); '
    f'one run a side, seed {seed}.',
    'scatter',
    sprites=dataset,
)

# %% [markdown]
# ## The correlation

# %%
rho = stats.rank_correlation(y, x)
rho_in = stats.rank_correlation(y, main.tables['images']['loss_in'])
report.table(
    [
        {
            'main-task loss': name,
            'Spearman rho [95 % interval]': report.fmt_interval(e),
            'images': e.n,
            'interval': e.method,
        }
        for name, e in (('out-of-fold', rho), ('in-sample', rho_in))
    ],
    f'Rank correlation of {task} loss and main-task loss on {dataset}.',
)

# %% [markdown]
# ## Between and within classes
#
# A pooled correlation may only say that some classes are harder than others. The figure takes one
# class at a time; the table splits the pooled rho exactly into a part between classes and a part
# within classes.

# %%
inside = stats.by_class(y, x, label, classes)
report.show(
    figures.rank_forest(
        [('all images', rho.value, rho.low, rho.high)]
        + [(name, e.value, e.low, e.high) for name, n, e in inside],
        f'rho within each class, {task}',
    ),
    f'Spearman rho on {dataset}, all images and class by class, 95 % bootstrap intervals over images; '
    f'one run a side, seed {seed}.',
    'by-class',
)

# %%
parts = stats.between_within(y, x, label)
report.table(
    [
        {'part': name, 'value': value}
        for name, value in (
            ('pooled rho', parts.total),
            ('of which between classes', parts.between),
            ('of which within classes', parts.within),
            ('mean rho within a class', parts.within_class_rho),
            ('correlation of the class means', parts.class_mean_correlation),
            ('share of pretext-rank variance explained by class', parts.eta_squared),
        )
    ],
    f'Rho between and within classes ({parts.classes} classes, {parts.n:,} images).',
)

# %% [markdown]
# ## Answer

# %%
published = dict(zip(('the paper', 'the reproduction'), claims.published('1', dataset)))
beside = ' and '.join(f'{who} {value}' for who, value in published.items() if value != '–')
report.note(
    f'{task} loss and out-of-fold main-task loss on {dataset} correlate at {report.fmt_interval(rho)}; '
    f'within a class at {parts.within_class_rho:.2f} on average. One run of each network: the interval '
    f'covers images, not seeds. The classifier is right on {main.summary["accuracy_out"]:.0%} of these '
    'images.' + (f' With rotation, {beside} is reported.' if beside and task == 'rotation' else '')
)

# %% [markdown]
# ## Provenance

# %%
report.provenance([pretext, main])
