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
# # What a pretext task finds hard
#
# A pretext task is a question about an image that needs no label: *by how much was it rotated?* A
# network trained on it gives every image a loss, which PT4AL takes as the image's difficulty. This
# notebook trains the network, scores the pool, and shows the hardest and the easiest images. Results
# that are already stored are read.

# %% tags=["parameters"]
dataset = 'cifar10-mini'  # a data set that `pt4al datasets` lists
task = 'rotation'  # the pretext task
seed = 0
width = None  # channels of the first stage; None takes the data set's default; 64 in the paper
epochs = None  # passes over the pool; None takes the data set's default

# %%
import inspect

import numpy as np
from IPython.display import display

import pt4al
from pt4al import data, figures, report, stats, tasks

report.check_parameters(globals(), 'dataset', 'task', 'seed', 'width', 'epochs')
spec = pt4al.spec('pretext', dataset=dataset, task=task, seed=seed, width=width, epochs=epochs)
result = pt4al.get(spec)
images = result.tables['images']
loss, label, classes = images['loss'], images['label'], result.classes
pixels = data.arrays(dataset)[0].pixels if data.available(dataset) else None

# %% [markdown]
# ## What the network sees
#
# Rotation shows every image four times, rotated counter-clockwise by 0, 90, 180 and 270 degrees, and
# the network predicts the rotation. The loss of the image is the mean cross-entropy of the four
# (equation 1 of the paper).

# %%
if task != 'rotation':
    print(f'{task}: {inspect.getdoc(tasks.TASKS[task]())}')
elif pixels is None:
    print(f'The images of {dataset} are not at hand: set PT4AL_DATA to see pictures here.')
else:
    # the first image of each of three classes
    some = np.unique(label, return_index=True)[1][:3]
    report.show(
        figures.turns(pixels[some]),
        f'Images of {dataset} as the rotation task shows them.',
        'turns',
    )

# %% [markdown]
# ## Training
#
# Without augmentation, as in the released code. The loss below is the mean over an epoch, during
# training; the losses in the next section are computed after training, in evaluation mode.

# %%
run = result.tables['epochs']
report.table(
    [
        {
            'epoch': int(run['epoch'][e]),
            'mean loss': float(run['loss'][e]),
            'learning rate': float(run['lr'][e]),
            'steps': f'{int(run["steps"][e]):,}',
        }
        for e in range(len(run['epoch']))
    ],
    f'Pretext training on {dataset}, {task}, seed {seed}.',
)

# %% [markdown]
# ## The losses

# %%
report.show(
    figures.loss_histogram(loss, f'{task} loss of {len(loss):,} images', log_x=True),
    f'Per-image {task} loss on {dataset}, n = {len(loss):,} images, one run (seed {seed}). The axis is logarithmic.',
    'histogram',
)

# %% [markdown]
# ## Hardest and easiest images

# %%
order = np.argsort(-loss, kind='stable')
if pixels is None:
    print(f'The images of {dataset} are not at hand: set PT4AL_DATA to see pictures here.')
else:
    for name, rows in (('hardest', order[:12]), ('easiest', order[::-1][:12])):
        words = [classes[label[i]] if classes else f'image {i}' for i in rows]
        captions = [f'{word}\n{loss[i]:.2g}' for word, i in zip(words, rows)]
        report.show(
            figures.picture_grid(
                pixels[rows],
                captions,
                6,
                f'{name} images',
                f'The twelve {name} images: '
                + ', '.join(f'{word} {loss[i]:.2g}' for word, i in zip(words, rows)),
            ),
            f'The twelve {name} images of {dataset} for {task}, with class and loss (seed {seed}).',
            name,
        )

# %% [markdown]
# ## Class by class
#
# The network never saw a label, yet its losses may differ between classes.

# %%
rank = stats.normalised_ranks(loss)
rows = sorted(
    (
        {
            'class': name,
            'images': f'{(label == c).sum():,}',
            'mean rank': float(rank[label == c].mean()),
            'median loss': float(np.median(loss[label == c])),
        }
        for c, name in enumerate(classes)
    ),
    key=lambda row: -row['mean rank'],
)
if rows:
    display(report.table(rows, 'Mean normalised rank of the pretext loss by class (1 = hardest).'))
else:
    print('These images have no labels.')

# %% [markdown]
# ## Answer

# %%
print(
    f'{task} on {dataset}: mean loss {loss.mean():.3f}, median {np.median(loss):.3f} over {len(loss):,} images.'
)
if rows:
    print(
        f'Hardest class {rows[0]["class"]} (mean rank {rows[0]["mean rank"]:.2f}), easiest {rows[-1]["class"]} '
        f'({rows[-1]["mean rank"]:.2f}).'
    )

# %% [markdown]
# ## Provenance

# %%
report.provenance([result])
