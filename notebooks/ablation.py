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
# # Which part of PT4AL does what?
#
# PT4AL sorts the pool, cuts it into batches, and samples in each batch the images of which the
# classifier is least confident. Would batches in a random order do as well? Would the sampler alone?
# Every order is combined with every sampler, trained alike and paired by seed.

# %% tags=["parameters"]
dataset = 'cifar10-mini'  # a data set that `pt4al datasets` lists
# orders of the pool, joined by commas; none: no batches
orders = 'hardest,easiest,text,shuffled,none'
samplers = 'confidence,unit_norm,entropy,random'  # within a batch
seeds = 3  # runs of every combination: seeds 0, 1, ...
task = 'rotation'  # orders the pool
cycles = None  # None takes the data set's default
budget = None  # labels a cycle
epochs = None  # of each cycle's training
# epochs at which the learning rate is divided by 10, such as '[160]'
milestones = None
# how an epoch is cut into minibatches: 'even', or 'full' with what remains as the last
minibatches = 'even'
# channels of the first stage; None takes the data set's default; 64 in the paper
width = None
# a difference of AULC, percentage points, that counts as equal
margin = 0.5

# %%
import numpy as np
from IPython.display import display

import pt4al
from pt4al import claims, figures, query, report, stats
from pt4al.errors import choose
from pt4al.stats import comparisons

report.check_parameters(
    globals(),
    'dataset',
    'orders',
    'samplers',
    'task',
    'cycles',
    'budget',
    'epochs',
    'milestones',
    'minibatches',
    'width',
    seeds=1,
    margin=0.01,
)
orders, samplers = report.listed(orders, 1), report.listed(samplers, 1)
registered = query.factorial()
for what, given, valid in (
    ('order', orders, {o for o, _ in registered}),
    ('sampler', samplers, {s for _, s in registered}),
):
    for name in given:
        choose(what, name, valid)
training = {'epochs': epochs, 'milestones': milestones, 'minibatches': minibatches, 'width': width}
cells = {(order, sampler): registered[order, sampler] for order in orders for sampler in samplers}
if set(cells.values()) == {'random'}:
    raise pt4al.Refused('orders=none samplers=random is the baseline alone: name another of either')


def run(strategy):
    return [
        pt4al.get(
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
        )
        for seed in range(seeds)
    ]


found = {strategy: run(strategy) for strategy in dict.fromkeys(['random', *cells.values()])}
labels = found['random'][0].tables['cycles']['labels']
accuracy = {
    arm: np.stack([100 * r.tables['cycles']['accuracy'] for r in runs])
    for arm, runs in found.items()
}
area = {
    arm: np.array([stats.aubc(row, labels) for row in values]) for arm, values in accuracy.items()
}
trained = claims.lowest_labelled([r for runs in found.values() for r in runs]) >= claims.FITTED
steps = {tuple(r.tables['cycles']['steps'].tolist()) for runs in found.values() for r in runs}
assert len(steps) == 1, f'cells were trained for different numbers of steps: {steps}'

# %% [markdown]
# ## Area under the learning curve
#
# AULC is accuracy averaged over the labelling budgets.

# %%
report.table(
    [
        {
            'order': order,
            **{
                sampler: report.fmt_interval(stats.mean_interval(area[cells[order, sampler]]), 1)
                for sampler in samplers
            },
        }
        for order in orders
    ],
    f'AULC, %, mean [95 % t interval] over {seeds} seeds, {dataset}, {len(labels)} cycles to '
    f'{int(labels[-1])} labels.',
)

# %%
table = comparisons.compare(
    {arm: area[arm] - area['random'] for arm in found if arm != 'random'}, margin
)
report.show(
    figures.rank_forest(
        [
            (c.strategy, c.t.value, c.t.low, c.t.high)
            for c in sorted(table, key=lambda c: -c.t.value)
        ],
        'Every combination minus random labels',
        'AULC, percentage points',
    ),
    f'AULC minus that of random labels, paired by seed, 95 % t intervals over {seeds} seeds, '
    f'{dataset}.',
    'cells',
)

# %% [markdown]
# ## Does the order matter?
#
# Batches in order of difficulty against batches in random order, with the same sampler.

# %%
pairs = {
    sampler: area[cells['hardest', sampler]] - area[cells['shuffled', sampler]]
    for sampler in samplers
    if {'hardest', 'shuffled'} <= set(orders)
}
if pairs:
    against = comparisons.compare(pairs, margin)
    differences = report.table(
        [
            {
                'sampler': c.strategy,
                'hardest first minus shuffled [t]': report.fmt_interval(c.t, 1),
                'p, different (Holm)': c.p_holm,
                'p, equal (Holm)': c.equivalence_holm,
                'verdict': c.verdict if trained else 'not trained enough',
            }
            for c in against
        ],
        f'AULC, percentage points; equal means within {margin:g}, by two one-sided tests.',
    )
    display(differences)

# %% [markdown]
# ## Pairwise comparisons

# %%
if seeds > 1:
    beats = comparisons.penalties(accuracy)
    losses = report.table(
        [
            {'strategy': arm, 'loses': share, 'wins': beats.loc[arm].mean()}
            for arm, share in beats.mean().sort_values().items()
        ],
        f"Share of budgets and rivals at which a paired t-test over {seeds} seeds is significant at 5 % (BADGE's "
        'pairwise penalties). Descriptive: not corrected for the number of tests.',
    )
    display(report.folded('Which strategy beats which', losses))

# %% [markdown]
# ## Answer

# %%
if pairs:
    for c in against:
        print(
            f'{c.strategy}: hardest first minus shuffled {report.fmt_interval(c.t, 1)} points of AULC: '
            f'{c.verdict if trained else "no verdict, the networks are not trained enough"} '
            f'({c.t.seeds}).'
        )

# %% [markdown]
# ## Provenance

# %%
report.provenance([r for runs in found.values() for r in runs])
