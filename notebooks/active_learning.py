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
# # Does labelling by pretext loss save labels?
#
# Every strategy starts without labels, labels the same number of images in every cycle, trains the
# same network from scratch on the same schedule, and reads the test set once, after the last epoch.
# Strategies are paired by seed: those of one seed share initial weights and augmentation and differ
# only in the images that they label.

# %% tags=["parameters"]
dataset = 'cifar10-mini'  # a data set that `pt4al datasets` lists
# joined by commas; the others are compared with the first
strategies = 'random,pt4al'
seeds = 3  # runs of every strategy: seeds 0, 1, ...
task = 'rotation'  # orders the pool for strategies that use one
# runs of that task, of which seed k takes number k modulo this; None: as many as seeds
pretext_runs = None
cycles = None  # into which the pool is cut; None takes the data set's default
until = None  # cycles that are run; None: all
budget = None  # labels a cycle
epochs = None  # of each cycle's training
# epochs at which the learning rate is divided by 10, such as '[160]'
milestones = None
rate = None  # learning rate at the start
batch = None  # images a step
# how an epoch is cut into minibatches: 'even', or 'full' with what remains as the last
minibatches = 'even'
# channels of the first stage; None takes the data set's default; 64 in the paper
width = None
# a pretext task, such as 'simclr', whose features measure coverage; None: not measured
encoder = None

# %%
from dataclasses import replace

import numpy as np

import pt4al
from pt4al import claims, figures, report, stats

report.check_parameters(
    globals(),
    'dataset',
    'strategies',
    'task',
    'cycles',
    'until',
    'budget',
    'epochs',
    'milestones',
    'rate',
    'batch',
    'minibatches',
    'width',
    'encoder',
    seeds=1,
    pretext_runs=1,
)
pretext_runs = seeds if pretext_runs is None else pretext_runs
training = {'epochs': epochs, 'milestones': milestones, 'lr': rate, 'batch': batch, 'width': width}
training |= {'minibatches': minibatches, 'until': until}
specs = {
    strategy: [
        pt4al.spec(
            'active',
            dataset=dataset,
            strategy=strategy,
            seed=seed,
            task=task,
            pretext_seed=seed % pretext_runs,
            cycles=cycles,
            budget=budget,
            **training,
        )
        for seed in range(seeds)
    ]
    for strategy in report.listed(strategies, 2)
}
base, *others = specs
if not others:
    raise pt4al.Refused(f'strategies is {strategies!r}: give two strategies or more')
arms = {strategy: [pt4al.get(spec) for spec in each] for strategy, each in specs.items()}
labels = arms[base][0].tables['cycles']['labels']
classes = arms[base][0].classes
accuracy = {
    arm: np.stack([100 * r.tables['cycles']['accuracy'] for r in runs])
    for arm, runs in arms.items()
}

# %% [markdown]
# ## The same training for every strategy
#
# Published comparisons differ in epochs and learning rates between strategies. Here the optimiser
# steps are recorded and compared.

# %%
steps = {arm: runs[0].tables['cycles']['steps'].tolist() for arm, runs in arms.items()}
assert len({tuple(s) for s in steps.values()}) == 1, (
    f'strategies were trained for different numbers of steps: {steps}'
)
print(f'optimiser steps in cycles 1 to {len(labels)}, for every strategy: {steps[base]}')

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
            'labels': f'{int(n):,}',
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
# ## Do the networks fit their labels?
#
# Where they do not, a strategy may look worse only because its images take longer to learn.

# %%
labelled = {arm: 100 * claims.lowest_labelled(runs) for arm, runs in arms.items()}
report.table(
    [
        {
            'strategy': arm,
            'labelled accuracy, lowest, %': 'not recorded' if np.isnan(value) else f'{value:.1f}',
            'trained enough': 'yes' if value >= 100 * claims.FITTED else 'no',
        }
        for arm, value in labelled.items()
    ],
    f'Lowest accuracy on the labelled images over all cycles and seeds; enough: {100 * claims.FITTED:.0f} %.',
)

# %% [markdown]
# ## Difference to the first strategy
#
# After the first cycle (cold start), after the last, and as the area under the curve (AULC):
# accuracy averaged over the budgets by the trapezoid rule. Paired by seed. Claim 3b of the report
# averages budgets evenly and uses Welch intervals, so its interval may be narrower.

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
            'strategy': arm,
            'measure': name,
            f'minus {base}, points': report.fmt_interval(e, 1),
            'seeds': e.n,
        }
        for (arm, name), e in gaps.items()
    ],
    f'Paired differences of test accuracy with 95 % t intervals, {dataset}.',
)

# %% [markdown]
# ## What was labelled first
#
# The classes of the first query.

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
    f'Images of each class in the first query of {int(labels[0]):,}, {dataset}; mean over {seeds} seeds.',
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
# a t interval does not know that entropy ends at 1
entropy = {arm: replace(e, high=min(e.high, 1)) for arm, e in entropy.items()}
report.table(
    [
        {'strategy': arm, 'class entropy': report.fmt_interval(e, 3), 'seeds': e.n}
        for arm, e in entropy.items()
    ],
    'Class entropy of the first query: 1 if all classes are equal.',
)

# %% [markdown]
# ## Recall of each class
#
# Where classes differ in size, accuracy over images hides the small ones; the mean over classes does
# not.

# %%
recall = {arm: np.stack([claims.recall(r)[-1] for r in runs]) for arm, runs in arms.items()}


def spread(values):  # a t interval of a few shares can leave 0 to 100 %
    return f'{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})'


recalls = report.table(
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
report.folded(f'All {len(classes)} classes', recalls) if len(classes) > 20 else recalls

# %% [markdown]
# ## Coverage and uncertainty
#
# Measured only if `encoder` names a pretext task, whose network had no part in choosing: the distance
# of each image of the pool to the nearest labelled one, in features of unit length, and the entropy
# of a linear classifier that learns from the labelled images.

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
                pretext_seed=seed % pretext_runs,
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
            'strategy': arm,
            **{
                what: report.fmt_interval(stats.mean_interval([q[name].mean() for q in queries]), 3)
                for name, what in (
                    ('mean_distance', 'mean distance to the nearest label'),
                    ('radius', 'largest distance'),
                    ('uncertainty', 'uncertainty of the picks'),
                )
            },
        }
    )
report.table(
    rows,
    f'Means over cycles, [95 % t interval] over {seeds} seeds, features of {encoder}, {dataset}.',
) if rows else report.note(
    'Not measured: set encoder to a pretext task other than the one that orders the pool.'
)

# %% [markdown]
# ## Answer

# %%
for (arm, name), e in gaps.items():
    trained = min(labelled[arm], labelled[base]) >= 100 * claims.FITTED
    print(
        f'{arm} minus {base}, {name}: {report.fmt_interval(e, 1)} points ({e.seeds})'
        + ('.' if trained else ': no verdict, the networks are not trained enough.')
    )

# %% [markdown]
# ## Provenance

# %%
report.provenance([r for runs in arms.values() for r in runs])
