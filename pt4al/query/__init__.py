"""Query strategies by name: `strategies`, PT4AL and its ablations (`pt4al`), and `wrappers`."""

from __future__ import annotations

from importlib.metadata import entry_points

from pt4al.query.pt4al import (
    Split,
    as_text,
    batch_split,
    easiest_first,
    every_kth,
    first_k,
    hardest_first,
    shuffled,
    split,
)
from pt4al.query.strategies import (
    Pool,
    Query,
    as_query,
    badge,
    coregcn,
    coreset,
    entropy,
    finite,
    learning_loss,
    least_confidence,
    margin,
    needs,
    probcover,
    random,
    typiclust,
    unit_norm_confidence,
)
from pt4al.query.vaal import vaal
from pt4al.query.wrappers import class_even, class_matched, cold

# The factorial of orders and samplers. The first of each is the paper's, and is not in a name.
ORDERS = {'hardest': hardest_first, 'easiest': easiest_first, 'text': as_text, 'shuffled': shuffled}
SAMPLERS = {
    'confidence': least_confidence,
    'random': random,
    'entropy': entropy,
    'unit_norm': unit_norm_confidence,
}
FACTORIAL = {
    (order, sampler): '_'.join(
        ['pt4al', *[part for part in (order, sampler) if part not in ('hardest', 'confidence')]]
    )
    for order in ORDERS
    for sampler in SAMPLERS
}
QUERIES: dict[str, Query] = {
    'random': random,
    'least_confidence': cold(least_confidence),
    'unit_norm_confidence': cold(unit_norm_confidence),
    'margin': cold(margin),
    'entropy': cold(entropy),
    'coreset': cold(coreset),
    'coregcn': cold(coregcn),
    'vaal': cold(vaal),
    'badge': cold(badge),
    'learning_loss': cold(learning_loss),
    'typiclust': typiclust,
    'probcover': probcover,
    'class_matched': class_matched(batch_split(random)),
    'class_even': class_even,
    # every order with every sampler: 'pt4al', 'pt4al_entropy', 'pt4al_text', 'pt4al_text_entropy'
    **{
        name: batch_split(SAMPLERS[sampler], order=ORDERS[order])
        for (order, sampler), name in FACTORIAL.items()
    },
    # other first picks
    'pt4al_every_kth': batch_split(least_confidence, first=every_kth),
    'pt4al_first_k': batch_split(least_confidence, first=first_k),
    'pt4al_class_even': batch_split(least_confidence, first=class_even),  # a control
    'pt4al_typiclust': batch_split(least_confidence, first=typiclust),
    'pt4al_batch5_every_kth': batch_split(least_confidence, first=every_kth, start=0.5),
    # all three, as in the authors' release, and in its cold-start script, which starts in batch 5
    'pt4al_released': batch_split(unit_norm_confidence, first=every_kth, order=as_text),
    'pt4al_released_cold': batch_split(
        unit_norm_confidence, first=every_kth, order=as_text, start=0.5
    ),
    # as in the code of the reproduction
    'pt4al_reproduced': batch_split(unit_norm_confidence, first=first_k),
}


def factorial() -> dict[tuple[str, str], str]:
    """The strategy of every (order, sampler); order 'none' is the pool without a split."""
    plain = {'confidence': 'least_confidence', 'unit_norm': 'unit_norm_confidence'}
    return FACTORIAL | {('none', sampler): plain.get(sampler, sampler) for sampler in SAMPLERS}


QUERIES |= {
    entry.name: as_query(entry.load())
    for entry in entry_points(group='pt4al.queries')
    if entry.name not in QUERIES
}
