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
# # Does picking by pretext loss save labels?
#
# Active learning, arm against arm: each starts with nothing, buys the same number of labels in
# every cycle, trains the
# same network from scratch with the same schedule, and reads the test set once, after the last
# epoch. Arms are paired by
# seed: in one seed they share network initialisation and augmentation streams, so they differ in
# what they picked.

# %% tags=["parameters"]
dataset = 'cifar10-mini'  # a data set that `pt4al datasets` lists
# arms, joined by commas; the first is what the others are compared with
strategies = 'random,pt4al'
seeds = 3  # runs of every arm: seeds 0, 1, ...
task = 'rotation'  # orders the pool for arms that ask for it
cycles = None  # None takes the data set's default
budget = None  # labels a cycle
epochs = None  # of each cycle's training
# epochs from which the rate is a tenth of the one before, such as '[160]'
milestones = None
rate = None  # learning rate at the start
batch = None  # images a step
# channels of the network's first stage: 16 here, 64 in the paper
width = None
# a task, 'simclr' say, whose features measure what was picked; None: not measured
encoder = None

# %%
import numpy as np

import pt4al
from pt4al import claims, figures, report, stats

report.check_parameters(
    globals(),
    'dataset',
    'strategies',
    'seeds',
    'task',
    'cycles',
    'budget',
    'epochs',
    'milestones',
    'rate',
    'batch',
    'width',
    'encoder',
)
if not isinstance(seeds, int):
    raise pt4al.Refused(f'seeds is {seeds!r}: give a whole number of runs')
training = {'epochs': epochs, 'milestones': milestones, 'lr': rate, 'batch': batch, 'width': width}
specs = {
    strategy: [
        pt4al.spec(
            'active',
            dataset=dataset,
            strategy=strategy,
            seed=seed,
            task=task,
            cycles=cycles,
            budget=budget,
            **training,
        )
        for seed in range(seeds)
    ]
    for strategy in report.listed(strategies, 2)
}
base, *others = specs
if not others or not specs[base]:
    raise pt4al.Refused(
        f'strategies is {strategies!r}, seeds is {seeds}: give two arms or more, and a seed or more'
    )
arms = {strategy: [pt4al.get(spec) for spec in each] for strategy, each in specs.items()}
labels = arms[base][0].tables['cycles']['labels']
classes = arms[base][0].classes
accuracy = {
    arm: np.stack([100 * r.tables['cycles']['accuracy'] for r in runs])
    for arm, runs in arms.items()
}

# %% [markdown]
# ## The same training in every arm
#
# Published comparisons differ in epochs and learning rates between arms. Here the optimiser steps
# are recorded and checked.

# %%
steps = {arm: runs[0].tables['cycles']['steps'].tolist() for arm, runs in arms.items()}
assert len({tuple(s) for s in steps.values()}) == 1, (
    f'arms were trained for different numbers of steps: {steps}'
)
print(f'optimiser steps in cycles 1 to {len(labels)}, in every arm: {steps[base]}')

# %% [markdown]
# ## Accuracy

# %%
report.show(
    figures.learning_curves(labels, accuracy, f'Test accuracy on {dataset}', 'test accuracy, %'),
    f'Test accuracy after the last epoch against labels, {dataset}; mean and 95 % t interval over {seeds} seeds, '
    'points are single runs.',
    'curves',
)

# %%
report.table(
    [
        {
            'labels': int(n),
            **{
                arm: report.fmt_interval(stats.mean_interval(values[:, c]), 1)
                for arm, values in accuracy.items()
            },
        }
        for c, n in enumerate(labels)
    ],
    f'Test accuracy, %, mean [95 % t interval] over {seeds} seeds.',
)

# %% [markdown]
# ## Difference to the first arm
#
# At the first cycle (cold start), at the last, and as area under the whole curve, paired by seed.

# %%
measures = {'first cycle': lambda a: a[:, 0], 'last cycle': lambda a: a[:, -1]}
if len(labels) > 1:
    measures['area under the curve'] = lambda a: np.array([stats.aubc(row, labels) for row in a])
gaps = {
    (arm, name): stats.paired_difference(f(accuracy[arm]), f(accuracy[base]))
    for arm in others
    for name, f in measures.items()
}
report.table(
    [
        {
            'arm': arm,
            'measure': name,
            f'minus {base}, points': report.fmt_interval(e, 1),
            'seeds': e.n,
        }
        for (arm, name), e in gaps.items()
    ],
    f'Paired differences of test accuracy, {dataset}.',
)

# %% [markdown]
# ## What was picked
#
# The classes of the first query. A skewed first set is the simplest way to lose a cold start.

# %%
first = {
    arm: np.mean(
        [
            np.bincount(
                r.tables['picks']['label'][r.tables['picks']['cycle'] == 1], minlength=len(classes)
            )
            for r in runs
        ],
        0,
    )
    for arm, runs in arms.items()
}
report.show(
    figures.class_balance(first, classes, 'First query by class'),
    f'Images of each class in the first query of {int(labels[0])}, {dataset}; mean over {seeds} seeds.',
    'balance',
)

# %%
entropy = {
    arm: stats.mean_interval(
        [
            stats.normalised_entropy(
                r.tables['picks']['label'][r.tables['picks']['cycle'] == 1], len(classes)
            )
            for r in runs
        ]
    )
    for arm, runs in arms.items()
}
report.table(
    [
        {'arm': arm, 'normalised class entropy': report.fmt_interval(e, 3), 'seeds': e.n}
        for arm, e in entropy.items()
    ],
    'Class balance of the first query: 1 is perfectly even.',
)

# %% [markdown]
# ## Recall of each class
#
# Where classes are unequal in number a mean over images hides the small ones; the mean over classes
# does not.

# %%
recall = {arm: np.stack([claims.recall(r)[-1] for r in runs]) for arm, runs in arms.items()}


def spread(values):  # a t interval of a few shares can leave 0 to 100 %
    return f'{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})'


report.table(
    [
        {'class': name, **{arm: spread(values[:, c]) for arm, values in recall.items()}}
        for c, name in enumerate(classes)
    ]
    + [
        {
            'class': 'all, balanced accuracy',
            **{arm: spread(values.mean(1)) for arm, values in recall.items()},
        }
    ],
    f'Test images of each class recognised after the last cycle, %, {dataset}: mean of {seeds} seeds '
    '(lowest to highest).',
)

# %% [markdown]
# ## Coverage and doubt
#
# Measured, where `encoder` names a task, by a network that had no part in choosing: distance of the
# pool's images to their
# nearest labelled one, between features of unit length, and how uncertain a linear classifier on
# them is of what was picked.

# %%
rows = []
for arm in specs if encoder else ():
    queries = [
        pt4al.get(
            pt4al.spec(
                'diagnosis',
                dataset=dataset,
                strategy=arm,
                seed=seed,
                task=task,
                cycles=cycles,
                budget=budget,
                encoder=encoder,
                **training,
            )
        ).tables['queries']
        for seed in range(seeds)
    ]
    rows.append(
        {
            'arm': arm,
            **{
                what: report.fmt_interval(stats.mean_interval([q[name].mean() for q in queries]), 3)
                for name, what in (
                    ('mean_distance', 'mean distance to a label'),
                    ('radius', 'largest'),
                    ('uncertainty', 'uncertainty of the picks'),
                )
            },
        }
    )
report.table(
    rows,
    f'Means over cycles, [95 % t interval] over {seeds} seeds, features of {encoder}, {dataset}.',
) if rows else report.note(
    'Not measured: give encoder, the name of a pretext task that orders no pool here.'
)

# %% [markdown]
# ## Answer

# %%
for (arm, name), e in gaps.items():
    print(f'{arm} minus {base}, {name}: {report.fmt_interval(e, 1)} points ({e.seeds}).')

# %% [markdown]
# ## Provenance

# %%
report.provenance([r for runs in arms.values() for r in runs])
