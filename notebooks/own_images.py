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
# # Which of your images to label next
#
# For a folder of images without labels and a labelling budget. The notebook compares images by a
# pretrained network, or by a pretext task trained on them, and picks those to label. Once some are
# labelled, the network can learn from them (`finetune`), and the notebook measures which order would
# have been best on them. Networks and results are stored beside the table of picks and reused.

# %% tags=["parameters"]
folder = None  # of images, in any tree of folders
out = None  # the table to write; None: that of the labels or picks.csv; all else goes beside it
labels = None  # a CSV with the columns path and label, or Label Studio's export
cycle = None  # number of this round, from 1; only with a pretext task, else counted
features = 'auto'  # as of `pt4al rank`: efficientnet_lite0, torchvision:NAME, rotation, file:PATH
strategy = None  # the query strategy; None: typical images, then uncertain ones; PT4AL of a task
budget = 500  # images to pick
cycles = 10  # batches that the order of a pretext task is cut into, one a round
seed = 0  # picks are the same for the same seed
epochs = None  # of the pretext training; None: by the number of images
finetune = False  # train the network on the labels, too; with labels and the strategy margin

# %%
import numpy as np

import pt4al
from pt4al import figures, report
from pt4al.errors import NotStored
from pt4al.own import sheet

report.check_parameters(
    globals(),
    'folder',
    'out',
    'labels',
    'features',
    'strategy',
    cycle=1,
    budget=1,
    cycles=1,
    seed=0,
    epochs=1,
    finetune=False,
)
if folder is None:
    raise NotStored('no result without images: give -p folder PATH')
found = pt4al.rank(
    folder,
    features=features,
    budget=budget,
    out=out,
    seed=seed,
    strategy=strategy,
    cycles=cycles,
    cycle=cycle,
    labels=labels,
    epochs=epochs,
    finetune=finetune,
)
tree, ordered = found.tree, found.loss is not None
{name: str(path) for name, path in found.files.items()}

# %% [markdown]
# ## The folder
#
# What was read, and what was left out.

# %%
print(
    f'{len(tree.names):,} images, {len(found.known.answers):,} of them labelled; '
    f'{len(tree.left_out):,} files left out'
    + (f': {sheet.summary(tree.left_out)}.' if tree.left_out else '.')
)

# %% [markdown]
# ## The order
#
# The losses, if a pretext task orders the images. Rank 1 is the hardest.


# %%
def pictures(which: np.ndarray, title: str) -> figures.Figure:
    names = [tree.names[i] for i in which]
    captions = [f'{found.loss[i]:.2g}' if ordered else '' for i in which]
    return figures.picture_grid(tree.pixels[which], captions, 10, title, ', '.join(names))


if ordered:
    report.show(
        figures.loss_histogram(found.loss, f'Losses of {len(tree.names):,} images'),
        f'Histogram of the {found.round.features} loss; seed {seed}.',
        'losses',
    )
    order = np.argsort(found.rank)
    report.show(
        pictures(
            np.concatenate([order[:10], order[-10:]]), 'The ten hardest, then the ten easiest'
        ),
        f'Images of the highest and the lowest {found.round.features} loss.',
        'ends',
    )
else:
    print(f'No order: the features are those of {found.round.features} ({found.why}).')

# %% [markdown]
# ## The picks
#
# The first picks in their order; the contact sheet shows more, and near duplicates.

# %%
report.show(
    pictures(found.picked[:20], f'Picked by {found.round.strategy} in cycle {found.round.cycle}'),
    f'The first of {len(found.picked):,} picks'
    + (', by the network that learnt from the labels.' if found.round.finetune else '.'),
    'picks',
)

# %%
report.table(
    [
        {'image': sheet.readable(tree.names[i]), 'why': sheet.readable(why)}
        for i, why in zip(found.picked[:20], found.reasons)
    ],
    'The first picks.',
)

# %% [markdown]
# ## Which order would have been best here?
#
# Measured on the labelled images by cross-validated learning curves of a linear classifier on the
# same features.

# %%
advice, words = None, 'No labels yet: label some 200 images drawn at random, then give them.'
if labels is not None:
    place = found.results[0].folder.parent
    asked = {'features': features, 'seed': seed, 'epochs': epochs, 'keep': place}
    try:
        advice = pt4al.advise(folder, labels, **asked)
        words = '\n'.join(advice.sentences)
    except pt4al.Refused as refusal:  # too few labels are no reason to stop
        words = f'No advice: {refusal}'
print(words)

# %% [markdown]
# ## Answer

# %%
print(
    f'Label the {len(found.picked):,} images of {found.files["table"].name} next, picked by '
    f'{found.round.strategy} in cycle {found.round.cycle}. {len(found.duplicates):,} pairs of '
    'images are near duplicates.' + (f' The advice is {advice.strategy}.' if advice else '')
)

# %% [markdown]
# ## Provenance

# %%
report.provenance(found.results)
