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
# # What a pretext task teaches
#
# PT4AL uses the loss of a pretext network and discards the network. What has it learnt? Its backbone
# (the network below the last layer) is frozen and evaluated: linear classifiers at every depth and
# with few labels, nearest neighbours, and invariance to transforms. Stored results are read.

# %% tags=["parameters"]
dataset = 'cifar10-mini'  # a data set that `pt4al datasets` lists
task = 'rotation'  # the pretext task; none: an untrained backbone, supervised: a classifier's
seed = 0
width = None  # channels of the first stage; None takes the data set's default; 64 in the paper
pretext_epochs = None  # passes of the pretext training; None takes the data set's default
epochs = None  # passes of fine-tuning; None takes the data set's default
transfer = None  # another data set to evaluate on; None: its own

# %%
import numpy as np

import pt4al
from pt4al import data, report
from pt4al.figures import representation as figures

report.check_parameters(
    globals(), 'dataset', 'task', 'seed', 'width', 'epochs', 'transfer', pretext_epochs=1
)
untaught = task in ('none', 'supervised')
pretext = (
    None
    if untaught
    else pt4al.spec(
        'pretext', dataset=dataset, task=task, seed=seed, width=width, epochs=pretext_epochs
    )
)
spec = pt4al.spec(
    'representation',
    dataset=dataset,
    seed=seed,
    width=width,
    epochs=epochs,
    transfer=transfer,
    **({'task': task} if untaught else {'pretext': pretext}),
)
result = pt4al.get(spec)
blocks, fractions, classes = result.tables['blocks'], result.tables['fractions'], result.classes
read_on = spec.transfer or spec.dataset

# %% [markdown]
# ## Depth
#
# A linear classifier (*linear probe*) on the feature maps of every stage, pooled so that all stages
# have about as many features. A drop at the last block is often taken as specialisation in the
# pretext task; an untrained backbone (`task=none`) can show such a drop, too.

# %%
report.show(
    figures.probe_lines({task: blocks['accuracy']}, f'Linear probes of {task} on {read_on}'),
    f'Test accuracy of a linear probe on the frozen feature maps of each stage; {task}, seed {seed}.',
    'depth',
)

# %%
report.table(
    [
        {
            'stage': 'stem' if block == 0 else f'block {block}',
            'features': f'{int(blocks["dim"][block]):,}',
            'accuracy in %': 100 * float(blocks['accuracy'][block]),
            'mean average precision': float(blocks['mean_average_precision'][block]),
        }
        for block in blocks['block']
    ],
    f'Linear probes of every stage on {read_on}.',
)

# %% [markdown]
# ## Labels
#
# Linear probes on the averaged feature maps of the last block, with few labels and with many.

# %%
report.show(
    figures.label_fractions(
        fractions['labels'],
        {task: fractions['accuracy']},
        f'Linear probe by number of labels, {task} on {read_on}',
    ),
    f'Test accuracy of a linear probe of the last block against the number of labels; {task}, seed {seed}.',
    'labels',
)

# %% [markdown]
# ## Fine-tuning
#
# The whole network trained further as a classifier, from the pretext weights and from random ones.

# %%
tuned = result.tables['finetune']
report.table(
    [
        {
            'labels': f'{int(tuned["labels"][row]):,}',
            'fine-tuned, in %': 100 * float(tuned['finetuned'][row]),
            'from scratch, in %': 100 * float(tuned['scratch'][row]),
        }
        for row in range(len(tuned['labels']))
    ],
    f'Test accuracy on {read_on} after fine-tuning.',
)

# %% [markdown]
# ## Invariance
#
# How far the features of an image, scaled to unit length, move when the image is transformed; 1 is
# the median distance between two different images. A task that must recognise a transform needs
# features that change with it.

# %%
moved = result.tables['invariance']
names = list(dict.fromkeys(moved['transform']))
report.show(
    figures.invariance_histogram(
        moved['low'][moved['transform'] == names[0]],
        {name: moved['images'][moved['transform'] == name] for name in names},
        f'What moves the features of {task}',
    ),
    f'Distances between features of an image and of its transform, {read_on}, test images; {task}, seed {seed}.',
    'invariance',
)

# %% [markdown]
# ## Neighbours
#
# The first test image of every class and its nearest training images by the cosine of features.

# %%
near = result.tables['neighbours']
ranks = int(near['rank'].max())
queries, found = near['query'][::ranks], near['index'].reshape(-1, ranks)[:, :6]
if not data.available(read_on):
    print(f'The images of {read_on} are not at hand: set PT4AL_DATA to see pictures here.')
else:
    train, test = data.arrays(read_on)
    captions = [[classes[train.labels[i]] for i in row] for row in found]
    report.show(
        figures.neighbour_gallery(
            test.pixels[queries],
            train.pixels[found],
            [classes[test.labels[query]] for query in queries],
            captions,
            f'Nearest neighbours under {task}',
        ),
        f'Test images of {read_on}, each with its nearest training images by the cosine of features; {task}, '
        f'seed {seed}.',
        'neighbours',
    )

# %% [markdown]
# ## Answer

# %%
percent = {name: 100 * value for name, value in result.summary.items()}
best = int(np.argmax(blocks['accuracy']))
print(
    f'{task} on {read_on}: a linear probe of the last block is right on {percent["accuracy"]:.1f} % of the test images, '
    f'20 neighbours {percent["knn_accuracy"]:.1f} %. By depth it is {100 * blocks["accuracy"][0]:.1f} % at the stem, '
    f'{100 * blocks["accuracy"][best]:.1f} % at its best ({"the stem" if best == 0 else f"block {best}"}) and '
    f'{100 * blocks["accuracy"][-1]:.1f} % at the last block. Fine-tuned on {tuned["labels"][-1]:,} labels: '
    f'{percent["finetuned"]:.1f} %, from scratch {percent["scratch"]:.1f} %.'
)

# %% [markdown]
# ## Provenance

# %%
report.provenance([result])
