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
# A folder of pictures without labels, a labelling budget, and a pretext task that sorts the
# pictures by how hard they
# are for it. This notebook trains the task on the folder, shows what it finds hard and easy, picks
# images, and, once
# some are labelled, asks of these labels whether such an order helps *here*.
# Networks and results are kept beside the table of picks; run again, the notebook reads them.

# %% tags=["parameters"]
folder = None  # of images, in any tree of folders
out = 'picks.csv'  # the table to write; labelling tasks and the contact sheet go beside it
labels = None  # a CSV with the columns path and label, or Label Studio's export
cycle = None  # number of this round, from 1; to be given with labels
task = 'rotation'  # the pretext task
strategy = 'pt4al'  # the query strategy
budget = 500  # images to pick
cycles = 10  # batches that the order is cut into, one a round
seed = 0  # picks are the same for the same seed
epochs = None  # passes of the pretext training; None: by the number of images
size = None  # pixels of a side; None: by the machine
margin = 2.0  # points of accuracy that count as equal

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
    'cycle',
    'task',
    'strategy',
    'budget',
    'cycles',
    'seed',
    'epochs',
    'size',
    'margin',
)
if folder is None:
    raise NotStored('no result without images: give -p folder PATH')
found = pt4al.rank(
    folder,
    task=task,
    budget=budget,
    out=out,
    seed=seed,
    strategy=strategy,
    cycles=cycles,
    cycle=cycle,
    labels=labels,
    epochs=epochs,
    size=size,
)
tree, order = found.tree, np.argsort(found.rank)
{name: str(path) for name, path in found.files.items()}

# %% [markdown]
# ## The folder
#
# What was read, and what was left out.

# %%
print(
    f'{len(tree.names):,} images, {len(found.known.index):,} of them labelled; {len(tree.left_out):,} files left out'
    + (f': {sheet.summary(tree.left_out)}.' if tree.left_out else '.')
)

# %% [markdown]
# ## The order
#
# The loss of the pretext task, image by image. Ranks count from 1, the hardest.

# %%
report.show(
    figures.loss_histogram(found.loss, f'{task} losses of {len(tree.names):,} images'),
    f'How the {task} loss is spread over the images; seed {seed}.',
    'losses',
)


# %%
def pictures(which: np.ndarray, title: str) -> figures.Figure:
    names = [tree.names[i] for i in which]
    losses = [f'{found.loss[i]:.2g}' for i in which]
    return figures.picture_grid(tree.pixels[which], losses, 10, title, ', '.join(names))


ends = np.concatenate([order[:10], order[-10:]])
report.show(
    pictures(ends, 'The ten hardest, then the ten easiest'),
    f'Images of the highest and the lowest {task} loss.',
    'ends',
)

# %% [markdown]
# ## The picks
#
# The first of them in the order of picking; the contact sheet shows more, with near duplicates.

# %%
report.show(
    pictures(found.picked[:20], f'Picked by {strategy} in cycle {found.round.cycle}'),
    f'The first of {len(found.picked):,} picks.',
    'picks',
)

# %%
report.table(
    [
        {
            'image': sheet.readable(tree.names[i]),
            'loss': float(found.loss[i]),
            'rank': int(found.rank[i]),
            'batch': int(found.batch[i]),
        }
        for i in found.picked[:20]
    ],
    'The first picks.',
)

# %% [markdown]
# ## Does the order help here?
#
# Asked of the labelled images alone: a linear classifier on the features of the pretext network,
# cross-validated, and
# learning curves over resamples of the labels.

# %%
advice = (
    None
    if labels is None
    else pt4al.advise(
        folder,
        labels,
        task=task,
        seed=seed,
        margin=margin,
        epochs=epochs,
        size=size,
        keep=found.results[0].folder.parent,
    )
)
print(
    '\n'.join(advice.says)
    if advice
    else 'No labels yet: label some 200 images drawn at random, then give them.'
)

# %% [markdown]
# ## Answer

# %%
print(
    f'Label the {len(found.picked):,} images of {found.files["table"].name} next, picked by {strategy} in cycle '
    f'{found.round.cycle} of {cycles}. {len(found.duplicates):,} pairs of images are near duplicates.'
    + (f' The advice is {advice.strategy}.' if advice else '')
)

# %% [markdown]
# ## Provenance

# %%
report.provenance(found.results)
