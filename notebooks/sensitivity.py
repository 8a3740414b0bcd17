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
# # Which way of measuring gives which correlation?
#
# The paper and the reproduction report different rank correlations of pretext loss and main-task
# loss, and neither says exactly how it was measured. From a starting point close to the
# reproduction's, one factor is changed at a time: the evaluation set and epoch of the main-task loss,
# averages over training or seeds, augmentation, shared weights, the level of analysis.

# %% tags=["parameters"]
dataset = 'cifar10-mini'  # a data set that `pt4al datasets` lists
task = 'rotation'  # the pretext task
seeds = 3  # runs of the classifier: seeds 0, 1, ...
pretext_seeds = 2  # runs of the pretext task: seeds 0, 1, ...
# other lengths of pretext training, epochs joined by commas; '' for none
lengths = '1,2,4,16'
variants = 'flip,none,shared'  # other trainings of the classifier, one run each; '' for none
# channels of the first stage; None takes the data set's default; 64 in the paper
width = None

# %%
import numpy as np

import pt4al
from pt4al import claims, figures, report
from pt4al.claims import sensitivity
from pt4al.errors import choose

report.check_parameters(
    globals(), 'dataset', 'task', 'lengths', 'variants', 'width', seeds=1, pretext_seeds=1
)
VARIANTS = {'flip': {'augment': 'flip'}, 'none': {'augment': 'none'}, 'shared': {'task': task}}
specs = [
    pt4al.spec('pretext', dataset=dataset, task=task, seed=seed, width=width)
    for seed in range(pretext_seeds)
]
specs += [
    pt4al.spec('trajectory', dataset=dataset, seed=seed, width=width) for seed in range(seeds)
]
specs += [
    pt4al.spec('pretext', dataset=dataset, task=task, epochs=epochs, width=width, milestones=())
    for epochs in report.listed(lengths)
]
specs += [
    pt4al.spec(
        'trajectory', dataset=dataset, width=width, **VARIANTS[choose('variant', name, VARIANTS)]
    )
    for name in report.listed(variants)
]
runs = [pt4al.get(spec) for spec in specs]
levels = sensitivity.levels(dataset, task, width, runs)
base = levels[0]

# %% [markdown]
# ## How the classifier learns
#
# A fully fitted classifier has a loss near zero on every image it trained on, and the ranks of such
# losses are mostly noise.

# %%
log = [
    r.tables['log']
    for r in runs
    if r.kind == 'trajectory' and r.spec.augment == 'crop_flip' and not r.spec.pretext
]
report.table(
    [
        {
            'epoch': int(epoch),
            **{
                words: 100 * float(np.mean([table[side][k] for table in log]))
                for side, words in (
                    ('in', 'accuracy in-sample, %'),
                    ('out', 'out-of-fold, %'),
                    ('test', 'test, %'),
                )
            },
        }
        for k, epoch in enumerate(log[0]['epoch'])
    ],
    f'Accuracy at the logged epochs, {dataset}; mean over {seeds} seeds.',
)

# %% [markdown]
# ## What moves the correlation

# %%
published = claims.published('1', dataset)
marks = {
    who: float(value)
    for who, value in zip(('the paper', 'the reproduction'), published)
    if value != '–'
}
report.show(
    figures.rank_forest(
        [
            (f'{level.factor}: {level.level}', level.rho.value, level.rho.low, level.rho.high)
            for level in levels
        ],
        'One factor changed at a time',
        marks=marks,
    ),
    f'Spearman rho of {task} loss and main-task loss on {dataset}; 95 % bootstrap intervals over images and runs. '
    'The first row is the starting point; means of classes or of bins have no interval.',
    'factors',
)

# %%
report.table(
    [
        {
            'factor': level.factor,
            'level': level.level,
            'rho': report.fmt_interval(level.rho),
            'runs': level.rho.seeds,
            'pretext reliability': level.pretext_reliability,
            'classifier reliability': level.main_reliability,
            'ceiling': level.ceiling,
        }
        for level in levels
    ],
    'Ceiling: the root of the product of both reliabilities. A dash: one side has one run only.',
)

# %% [markdown]
# ## Answer

# %%
print(f'Starting point: {report.fmt_interval(base.rho)} ({base.rho.seeds}).')
for level in sorted(levels[1:], key=lambda level: -level.rho.value)[:3]:
    print(f'Highest: {level.factor}, {level.level}: {report.fmt_interval(level.rho)}.')
if len(marks) == 2:
    found = [level for level in levels if sensitivity.reconciles(level, base, *marks.values())]
    print(
        "No level leads from the reproduction's value to the paper's."
        if not found
        else "From the reproduction's value to the paper's: "
        + '; '.join(f'{level.factor}, {level.level}' for level in found)
    )

# %% [markdown]
# ## Provenance

# %%
report.provenance(runs)
