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
# # What the classifier finds hard
#
# A network that has memorised an image has almost no loss on it, however hard the image. So the
# classifier is trained in folds, and every image has two main-task losses: **in-sample**, from a
# network that trained on it, and **out-of-fold**, from one that did not.

# %% tags=["parameters"]
dataset = 'cifar10-mini'  # a data set that `pt4al datasets` lists
seed = 0
width = None  # channels of the first stage; None takes the data set's default; 64 in the paper
epochs = None  # passes over the training folds; None takes the data set's default
folds = None  # 2: each half of the images is scored by the model of the other half

# %%
import numpy as np

import pt4al
from pt4al import data, figures, report, stats

report.check_parameters(globals(), 'dataset', 'seed', 'width', 'epochs', 'folds')
spec = pt4al.spec('main', dataset=dataset, seed=seed, width=width, epochs=epochs, folds=folds)
result = pt4al.get(spec)
images, classes = result.tables['images'], result.classes
label, out, inside = images['label'], images['loss_out'], images['loss_in']

# %% [markdown]
# ## Accuracy of the classifiers
#
# The gap between the first row and the others is memorisation. The test set is read once, after the
# last epoch.

# %%
report.table(
    [
        {'images': name, 'accuracy, %': 100 * result.summary[key]}
        for name, key in (
            ('in-sample (trained on)', 'accuracy_in'),
            ('out-of-fold (not trained on)', 'accuracy_out'),
            ('test set', 'accuracy_test'),
        )
    ],
    f'Accuracy on {dataset}, {spec.folds} folds, {spec.epochs} epochs, seed {seed}.',
)

# %%
run = result.tables['epochs']
last = [np.flatnonzero(run['run'] == f)[-1] for f in range(spec.folds)]
report.table(
    [
        {
            'fold': f + 1,
            'epochs': int(run['epoch'][e]),
            'steps': f'{int(run["steps"][run["run"] == f].sum()):,}',
            'last mean loss': float(run['loss'][e]),
            'last learning rate': float(run['lr'][e]),
        }
        for f, e in enumerate(last)
    ],
    'How training ended in each fold.',
)

# %% [markdown]
# ## The two losses

# %%
for name, values in (('out-of-fold', out), ('in-sample', inside)):
    report.show(
        figures.loss_histogram(values, f'{name} main-task loss', log_x=True),
        f'Per-image {name} loss on {dataset}, n = {len(values):,} images, one run (seed {seed}).',
        name,
    )

# %% [markdown]
# ## Do the two losses agree?

# %%
agreement = stats.rank_correlation(inside, out)
print(
    f'Spearman between in-sample and out-of-fold loss: {report.fmt_interval(agreement)} (n = {agreement.n:,}, '
    f'interval over images). In-sample, the median image has loss {np.median(inside):.3g}; out-of-fold, '
    f'{np.median(out):.3g}.'
)

# %% [markdown]
# ## Hardest and easiest images

# %%
if data.available(dataset):
    pixels, order = data.arrays(dataset)[0].pixels, np.argsort(-out, kind='stable')
    for name, rows in (('hardest', order[:12]), ('easiest', order[::-1][:12])):
        captions = [f'{classes[label[i]]}\n{out[i]:.2g}' for i in rows]
        report.show(
            figures.picture_grid(
                pixels[rows],
                captions,
                6,
                f'{name} images, out-of-fold',
                f'The twelve {name}: '
                + ', '.join(f'{classes[label[i]]} {out[i]:.2g}' for i in rows),
            ),
            f'The twelve {name} images of {dataset} out-of-fold, with class and loss (seed {seed}).',
            name,
        )
else:
    print(f'The images of {dataset} are not at hand: set PT4AL_DATA to see pictures here.')

# %% [markdown]
# ## Answer

# %%
print(
    f'A {spec.width}-channel ResNet-18 trained on {dataset} for {spec.epochs} epochs is right on '
    f'{result.summary["accuracy_in"]:.1%} of the images it trained on and {result.summary["accuracy_out"]:.1%} of those '
    f'it did not (test {result.summary["accuracy_test"]:.1%}; one run, seed {seed}).'
)

# %% [markdown]
# ## Provenance

# %%
report.provenance([result])
