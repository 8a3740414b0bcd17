"""Query strategies by name: `strategies`, PT4AL and its ablations (`pt4al`)."""

from importlib.metadata import entry_points

from pt4al.progress import log
from pt4al.query import pt4al as method
from pt4al.query import strategies
from pt4al.query.pt4al import batch_split, easiest_first, split
from pt4al.query.strategies import Pool, Query, as_query, cold, needs, random
from pt4al.query.vaal import vaal

confident, unit_norm = strategies.least_confidence, strategies.unit_norm_confidence
# The factorial of orders and samplers. The first of each is the paper's, and is not in a name.
ORDERS = {
    'hardest': method.hardest_first,
    'easiest': easiest_first,
    'text': method.as_text,
    'shuffled': method.shuffled,
}
SAMPLERS = {
    'confidence': confident,
    'random': random,
    'entropy': strategies.entropy,
    'unit_norm': unit_norm,
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
    'least_confidence': cold(confident),
    'unit_norm_confidence': cold(unit_norm),
    'margin': cold(strategies.margin),
    'entropy': cold(strategies.entropy),
    'coreset': cold(strategies.coreset),
    'coregcn': cold(strategies.coregcn),
    'vaal': cold(vaal),
    'badge': cold(strategies.badge),
    'learning_loss': cold(strategies.learning_loss),
    'typiclust': strategies.typiclust,
    'probcover': strategies.probcover,
    'class_matched': strategies.class_matched(batch_split(random)),
    'class_even': strategies.class_even,
    # every order with every sampler: 'pt4al', 'pt4al_entropy', 'pt4al_text', 'pt4al_text_entropy'
    **{
        name: batch_split(SAMPLERS[sampler], order=ORDERS[order])
        for (order, sampler), name in FACTORIAL.items()
    },
    # other first picks
    'pt4al_every_kth': batch_split(confident, first=method.every_kth),
    'pt4al_first_k': batch_split(confident, first=method.first_k),
    'pt4al_class_even': batch_split(confident, first=strategies.class_even),  # a control
    'pt4al_typiclust': batch_split(confident, first=strategies.typiclust),
    'pt4al_batch5_every_kth': batch_split(confident, first=method.every_kth, start=0.5),
    # all three, as in the authors' release, and in its cold-start script, which starts in batch 5
    'pt4al_released': batch_split(unit_norm, method.every_kth, method.as_text),
    'pt4al_released_cold': batch_split(unit_norm, method.every_kth, method.as_text, start=0.5),
    # as in the code of the reproduction
    'pt4al_reproduced': batch_split(unit_norm, first=method.first_k),
}

# Frames to segment: of each, the mean entropy over its pixels stands in `predicted_loss`.
uncertain_frames = strategies.learning_loss
SEGMENTATION: dict[str, Query] = {
    'random': random,
    'entropy': cold(uncertain_frames),
    'coreset': cold(strategies.coreset),
    'pt4al': batch_split(uncertain_frames),
    'pt4al_easiest': batch_split(uncertain_frames, order=easiest_first),
    'pt4al_random': batch_split(random),
}


def factorial() -> dict[tuple[str, str], str]:
    """The strategy of every (order, sampler); order 'none' is the pool without a split."""
    plain = {'confidence': 'least_confidence', 'unit_norm': 'unit_norm_confidence'}
    return FACTORIAL | {('none', sampler): plain.get(sampler, sampler) for sampler in SAMPLERS}


for _entry in entry_points(group='pt4al.queries'):
    if _entry.name not in QUERIES:
        try:
            QUERIES[_entry.name] = as_query(_entry.load())
        except Exception as error:  # whatever a package of others may raise
            log.warning('strategy %s of %s cannot be loaded: %s', _entry.name, _entry.value, error)
