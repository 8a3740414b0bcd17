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
# # Is the first query better than a random one?
#
# Before the first label, PT4AL knows only the order of the pool. The paper draws the first labels
# uniformly from the hardest batch. Its code takes every fifth image of the first batch, sorted as
# text; its cold-start script every fifth of the sixth; the reproduction's code the hardest images.
# These first queries are compared with random labels. A control draws random images with the class
# counts of PT4AL's first query: what it loses comes from the class counts, and from those classes
# being somewhat harder.

# %% tags=["parameters"]
dataset = 'cifar10-mini'  # a data set that `pt4al datasets` lists
arms = (
    'random,pt4al,pt4al_every_kth,pt4al_released,pt4al_first_k,pt4al_batch5_every_kth,class_matched,'
    # first queries, joined by commas; the others are compared with the first
    'typiclust'
)
seeds = 5  # runs of every first query: seeds 0, 1, ...
task = 'rotation'  # orders the pool
budget = None  # labels; None takes the data set's default
epochs = None  # of training on them
# epochs at which the learning rate is divided by 10, such as '[160]'
milestones = None
# how an epoch is cut into minibatches: 'even', or 'full' with what remains as the last
minibatches = 'even'
# channels of the first stage; None takes the data set's default; 64 in the paper
width = None
margin = 1.0  # a difference of accuracy, percentage points, that counts as equal

# %%
import numpy as np

import pt4al
from pt4al import claims, figures, report, stats
from pt4al.stats import comparisons

report.check_parameters(
    globals(),
    'dataset',
    'arms',
    'task',
    'budget',
    'epochs',
    'milestones',
    'minibatches',
    'width',
    seeds=1,
    margin=0.01,
)
base, *others = names = report.listed(arms, 2)
training = {'epochs': epochs, 'milestones': milestones, 'minibatches': minibatches, 'width': width}
specs = {
    arm: [
        pt4al.spec(
            'active',
            dataset=dataset,
            strategy=arm,
            seed=seed,
            task=task,
            until=1,
            budget=budget,
            **training,
        )
        for seed in range(seeds)
    ]
    for arm in names
}
found = {arm: [pt4al.get(spec) for spec in each] for arm, each in specs.items()}
accuracy = {
    arm: np.array([100 * float(r.tables['cycles']['accuracy'][0]) for r in runs])
    for arm, runs in found.items()
}
labels = int(found[base][0].tables['cycles']['labels'][0])
classes = found[base][0].classes
WHAT = {
    'random': 'uniform in the pool',
    'pt4al': 'uniform in the hardest batch (the paper)',
    'pt4al_every_kth': 'evenly spaced in the hardest batch',
    'pt4al_first_k': "the hardest (the reproduction's code)",
    'pt4al_released': 'evenly spaced, batch sorted as text (released code)',
    'pt4al_batch5_every_kth': 'evenly spaced in a batch of the middle (released cold-start script)',
    'class_matched': "random, with PT4AL's classes (control)",
    'typiclust': 'typical images of clusters',
}

# %% [markdown]
# ## The same training for every first query

# %%
steps = {
    arm: {r.tables['cycles']['steps'].tolist()[0] for r in runs} for arm, runs in found.items()
}
assert len(set().union(*steps.values())) == 1, (
    f'first queries were trained for different numbers of steps: {steps}'
)
print(f'optimiser steps on {labels:,} labels, for every first query: {steps[base].pop():,}')

# %% [markdown]
# ## Accuracy after the first query

# %%
table = {
    c.strategy: c
    for c in comparisons.compare({arm: accuracy[arm] - accuracy[base] for arm in others}, margin)
}
fitted = {arm: claims.lowest_labelled([*found[arm], *found[base]]) for arm in others}
verdicts = {
    arm: c.verdict if fitted[arm] >= claims.FITTED else 'not trained enough'
    for arm, c in table.items()
}
report.show(
    figures.rank_forest(
        [(WHAT.get(arm, arm), c.t.value, c.t.low, c.t.high) for arm, c in table.items()],
        f'First query minus {base}',
        'points of test accuracy',
    ),
    f'Test accuracy after {labels:,} labels on {dataset} minus that of {base} labels, paired by seed, 95 % t intervals '
    f'over {seeds} seeds that share one pretext network, which the intervals leave out; last epoch.',
    'arms',
)

# %%
report.table(
    [
        {
            'first query': WHAT.get(base, base),
            'accuracy, %': report.fmt_interval(stats.mean_interval(accuracy[base]), 1),
            'difference': None,
            'p (Holm)': None,
            'verdict': 'the baseline',
        }
    ]
    + [
        {
            'first query': WHAT.get(arm, arm),
            'accuracy, %': report.fmt_interval(stats.mean_interval(accuracy[arm]), 1),
            'difference': report.fmt_interval(c.t, 1),
            'p (Holm)': c.p_holm,
            'verdict': verdicts[arm],
        }
        for arm, c in table.items()
    ],
    f'{labels:,} labels on {dataset}, {seeds} seeds of each; differences to {base} in percentage points with 95 % intervals; '
    f'equal means within {margin:g} points by two one-sided tests. Not trained enough: a network classifies less than '
    f'{100 * claims.FITTED:.0f} % of its labelled images right, or did not record it.',
)

# %% [markdown]
# ## What was labelled

# %%
picked = {arm: [r.tables['picks']['label'] for r in runs] for arm, runs in found.items()}
report.show(
    figures.class_balance(
        {
            arm: np.mean([np.bincount(p, minlength=len(classes)) for p in each], 0)
            for arm, each in picked.items()
        },
        classes,
        'First query by class',
    ),
    f'Images of each class among the first {labels:,}, {dataset}; mean over {seeds} seeds.',
    'classes',
)

# %%
report.table(
    [
        {
            'first query': WHAT.get(arm, arm),
            'class entropy': float(
                np.mean([stats.normalised_entropy(p, len(classes)) for p in each])
            ),
            'divergence from equal classes, nats': float(
                np.mean([stats.class_divergence(p, len(classes)) for p in each])
            ),
        }
        for arm, each in picked.items()
    ],
    'Class balance: class entropy is 1 if all classes are equal.',
)

# %% [markdown]
# ## Answer
#
# All runs share the pretext network of seed 0. Another one orders the pool differently, so this is
# about its order, and no verdict on PT4AL.

# %%
for arm, c in table.items():
    print(
        f'{WHAT.get(arm, arm)}: {report.fmt_interval(c.t, 1)} points against {base}, {verdicts[arm]} ({c.t.seeds}).'
    )

# %% [markdown]
# ## Provenance

# %%
report.provenance([r for runs in found.values() for r in runs])
