"""Representations: features, probes, neighbours and invariances against slow loops, and the whole
experiment on toys.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toys
from sklearn.metrics import average_precision_score
from torch import nn

import pt4al
from pt4al import data
from pt4al.data import views
from pt4al.errors import Refused
from pt4al.experiments import pretext, representation, running, specs, store
from pt4al.experiments.specs import Pretext, Representation, seeded, spec
from pt4al.rng import device_stream, initialising
from pt4al.studies import study
from pt4al.training import execution
from pt4al.training.nets import Model, Pooled, resnet18

torch.set_num_threads(1)
ASKED = {'fractions': (10, 50, 100), 'finetune': (50,)}


@pytest.fixture(autouse=True)
def defaults(store_of_toys):
    tiny = {'width': 4, 'epochs': 1, 'batch': 8, 'images': 48, **ASKED}
    specs.DEFAULTS['toy', 'representation'] = tiny


def trunk(seed: int = 0, width: int = 4) -> nn.Sequential:
    with initialising(seed, 'test'):
        return resnet18(width)


def noise(n: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def rng() -> torch.Generator:
    return device_stream(0, 'test')


# --- features ---


def test_every_stage_gives_about_the_same_dimension_and_the_last_block_its_maps_as_they_are():
    net, pixels = trunk(width=16).eval(), noise(3)
    stages = representation.features(net, pixels)
    assert [f.shape[1] for f in stages] == 3 * [16 * 11**2] + 2 * [32 * 8**2] + 2 * [
        64 * 6**2
    ] + 2 * [128 * 4**2]
    with torch.no_grad():
        maps = net(views.normalise(pixels))
    assert torch.allclose(stages[-1].view_as(maps), maps)
    assert torch.allclose(representation.embed(net, pixels), maps.mean((2, 3)))


def test_features_do_not_depend_on_the_batch_and_images_enter_as_the_task_shows_them(monkeypatch):
    net, pixels = trunk(), noise(7)
    whole = representation.features(net, pixels), representation.embed(net, pixels)
    monkeypatch.setattr(representation, 'BATCH', 3)
    parts = representation.features(net, pixels), representation.embed(net, pixels)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole[0], parts[0], strict=True))
    assert torch.allclose(whole[1], parts[1], atol=1e-5)
    for read in (representation.embed, lambda *given: representation.features(*given)[4]):
        grey = read(net, pixels, lambda part: views.normalise(views.grey(part)))
        assert torch.allclose(
            grey, read(net, views.grey(pixels)), atol=1e-5
        ) and not torch.allclose(grey, read(net, pixels))


def test_recalibrated_statistics_are_those_of_the_inputs_and_no_weight_changes():
    net, batches = trunk(), [views.normalise(noise(8, seed)) for seed in (0, 1)]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = representation.recalibrate(net, iter(batches))
    stem = [net[0](x) for x in batches]
    assert torch.allclose(
        made[1].running_mean, torch.stack([x.mean((0, 2, 3)) for x in stem]).mean(0), atol=1e-6
    )
    assert torch.allclose(
        made[1].running_var, torch.stack([x.var((0, 2, 3)) for x in stem]).mean(0), rtol=1e-4
    )
    assert not made.training and net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(p, before[name]) for name, p in made.named_parameters())
    assert not torch.allclose(made[10].bn2.running_mean, net[10].bn2.running_mean)


# --- probes ---


def clouds(n: int = 300, seed: int = 0, spread: float = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    x = torch.randn(n, 5, generator=generator) * spread
    x[:, :3] += 2 * nn.functional.one_hot(labels, 3)
    return x, labels


def test_a_probe_reads_what_is_linear_and_counts_as_scikit_learn_does():
    from sklearn.linear_model import LogisticRegression

    (x, y), (test, truth) = clouds(), clouds(200, 1)
    probe = representation.linear_probe(x, y, test, truth)
    z, t = ((part - x.mean(0)) / x.std(0, correction=0) / 5**0.5 for part in (x, test))
    scores = LogisticRegression(C=representation.PENALTY, max_iter=500).fit(z, y).predict_proba(t)
    assert probe.accuracy == pytest.approx((scores.argmax(1) == truth.numpy()).mean(), abs=1e-6)
    each = [average_precision_score(truth.numpy() == c, scores[:, c]) for c in range(3)]
    assert (
        probe.mean_average_precision == pytest.approx(np.mean(each), abs=1e-3)
        and 0.7 < probe.accuracy < 0.95
    )


def test_a_probe_does_not_see_units_or_constant_features():
    (x, y), (test, truth) = clouds(), clouds(200, 1)
    probe = representation.linear_probe(x, y, test, truth)

    def changed(part: torch.Tensor) -> torch.Tensor:
        return part * torch.tensor([1, 1000, 0.01, 5, 5]) + 7

    again = representation.linear_probe(changed(x), y, changed(test), truth)
    assert again.accuracy == pytest.approx(probe.accuracy, abs=0.011)
    dead = [
        torch.cat([part, torch.full((len(part), 1), value)], 1)
        for part, value in ((x, 3.0), (test, 1e6))
    ]
    assert representation.linear_probe(dead[0], y, dead[1], truth).accuracy == pytest.approx(
        probe.accuracy, abs=0.02
    )


def test_a_probe_of_few_labels_may_lack_classes_but_not_all():
    (x, y), (test, truth) = clouds(), clouds(200, 1)
    two = y != 1
    probe = representation.linear_probe(x[two], y[two], test, truth)
    share = (truth != 1).float().mean().item()
    assert 0.8 * share < probe.accuracy <= share
    seen = truth != 0
    scores = representation.linear_probe(x, y, test[seen], truth[seen])
    # of the two classes that occur
    assert scores.accuracy > 0.7 and scores.mean_average_precision > 0.7
    with pytest.raises(Refused, match='labels of at least two classes'):
        representation.linear_probe(x[y == 0], y[y == 0], test, truth)


def test_neighbours_are_the_largest_cosines_and_vote(monkeypatch):
    monkeypatch.setattr(representation, 'BATCH', 7)
    (x, y), (test, truth) = clouds(60), clouds(20, 1)
    similarity, index = representation.neighbours(test, x, 5)
    right = 0
    for i, query in enumerate(test):
        cosines = [float(query @ row / query.norm() / row.norm()) for row in x]
        order = sorted(range(60), key=lambda j: -cosines[j])[:5]
        assert index[i].tolist() == order and similarity[i].tolist() == pytest.approx(
            [cosines[j] for j in order], abs=1e-5
        )
        votes = [sum(cosines[j] for j in order if y[j] == c) for c in range(3)]
        right += int(np.argmax(votes) == truth[i])
    assert representation.knn_accuracy(x, y, test, truth, 5) == pytest.approx(right / 20)
    assert representation.neighbours(test, x[:3], 5)[1].shape == (20, 3)


def test_a_share_of_labels_holds_it_of_every_class_and_every_smaller_share():
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 3)[
        torch.randperm(143, generator=torch.Generator().manual_seed(0))
    ]
    drawn = {
        share: representation.share_of_each_class(labels, share, np.random.default_rng(1))
        for share in (0.01, 0.1, 0.5, 1)
    }
    assert [labels[index].bincount().tolist() for index in drawn.values()] == [
        [1, 1, 1],
        [10, 4, 1],
        [50, 20, 2],
        [100, 40, 3],
    ]
    small, middle, large, everything = (index.tolist() for index in drawn.values())
    assert (
        set(small) < set(middle) < set(large)
        and everything == list(range(143))
        and middle == sorted(set(middle))
    )
    other = representation.share_of_each_class(labels, 0.1, np.random.default_rng(2)).tolist()
    assert other != middle and middle[:4] != [0, 1, 2, 3]


def test_features_are_taken_in_float32_whatever_torch_does_elsewhere():
    noted = []

    def encode(pixels):
        noted.append(execution.set_fp32_precision())
        return views.normalise(pixels)

    for read in (representation.embed, representation.features):
        read(trunk(), noise(2), encode)
    assert noted == [('ieee', 'ieee')] * 2


# --- invariance ---


@pytest.mark.parametrize('side, kept', [((32, 32), (32, 32)), ((33, 30), (32, 30))])
def test_shuffled_tiles_are_the_quarters_in_another_order(side, kept):
    pixels = torch.randint(256, (40, 3, *side), generator=rng(), dtype=torch.uint8)
    moved = representation.shuffle_tiles(pixels, rng())
    h, w = kept[0] // 2, kept[1] // 2

    def quarters(image: torch.Tensor) -> list[bytes]:
        return [image[:, r : r + h, c : c + w].numpy().tobytes() for r in (0, h) for c in (0, w)]

    assert moved.shape == (40, 3, *kept) and moved.dtype == torch.uint8
    orders = {
        tuple(quarters(old).index(tile) for tile in quarters(new))
        for old, new in zip(pixels, moved)
    }
    assert (
        len(orders) > 10
        and (0, 1, 2, 3) not in orders
        and {tuple(sorted(order)) for order in orders} == {(0, 1, 2, 3)}
    )


def test_distances_are_those_of_unit_features_in_medians_between_two_images():
    net, pixels = trunk().eval(), noise(9)
    got = representation.invariance(net, pixels, views.normalise, rng())
    assert list(got) == [*representation.TRANSFORMS, 'another image']

    def unit(part: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(representation.embed(net, part))

    gaps = (unit(pixels) - unit(pixels.rot90(1, (2, 3)))).norm(dim=1)
    ratio = got['quarter turn'] / gaps
    assert torch.allclose(ratio, ratio[:1].expand(9), rtol=1e-3)
    others = torch.cdist(unit(pixels), unit(pixels)) * ratio[0]
    others.fill_diagonal_(-1)
    # to another image, each
    assert all((others[i] - got['another image'][i]).abs().min() < 1e-3 for i in range(9))
    assert got['another image'].median().item() == pytest.approx(1)
    same = representation.invariance(net, views.grey(pixels), views.normalise, rng())
    assert same['grey'].max() < 1e-5 < same['quarter turn'].min()


def test_what_lies_beyond_the_last_bin_is_counted_in_it():
    table = representation._histograms(
        {'grey': torch.tensor([0, 0.04, 1.96, 2, 7]), 'other': torch.tensor([0.06, 0.07, 0.08])}
    )
    counts = table['images'].reshape(2, 40)
    assert counts[0, [0, -1]].tolist() == [2, 3] and counts[1, 1] == 3 and counts.sum() == 8
    assert table['low'][[0, 1, 39, 40]].tolist() == pytest.approx([0, 0.05, 1.95, 0])
    assert table['transform'][[0, 39, 40]].tolist() == ['grey', 'grey', 'other']


# --- the experiment ---


def test_the_spec_holds_the_pretext_task_of_its_own_seed():
    made = spec('representation', dataset='toy', seed=3)
    assert (
        made.pretext == spec('pretext', dataset='toy', seed=3)
        and made.pretext.task == 'rotation'
        and not made.supervised
    )
    assert spec('representation', dataset='toy', seed=3, pretext_seed=1).pretext.seed == 1
    assert spec('representation', dataset='toy', width=5).pretext.width == 5
    given = spec('pretext', dataset='toy', epochs=7)
    assert spec('representation', dataset='toy', pretext=given).pretext is given
    none, reference = (
        spec('representation', dataset='toy', task=task) for task in ('none', 'supervised')
    )
    assert none == Representation('toy', width=4, epochs=1, batch=8, images=48, **ASKED)
    assert reference.supervised == 1 and reference.pretext is None
    assert spec('representation', dataset='toy', supervised=1) == reference
    assert len({store.key(s, 'd') for s in (made, none, reference)}) == 3


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'task': 'rotatoin'}, "unknown task 'rotatoin': did you mean 'rotation'"),
        ({'transfer': 'cifar1'}, "unknown dataset 'cifar1': did you mean 'cifar10'"),
        ({'supervised': 2, 'task': 'none'}, 'parameter supervised is 2: it must be 0, or 1'),
        (
            {'supervised': 1, 'pretext': Pretext('toy', width=4)},
            'parameter supervised is 1: .* without a pretext task',
        ),
        ({'pretext': Pretext('toy', width=8)}, 'pretext has width 8, not 4: give both the same'),
        (
            {'pretext': Pretext('cifar10', width=4)},
            'pretext is of cifar10, not of toy: .* with transfer',
        ),
        (
            {'fractions': [0, 10]},
            r'parameter fractions is \[0, 10\]: give percentages of the labels, from 1 to 100',
        ),
        ({'fractions': []}, r'parameter fractions is \[\]'),
        ({'finetune': '[101]'}, r'parameter finetune is \[101\]'),
        ({'patches': [9]}, r'parameter patches is \[9\]: give grids of 1 to 8 tiles a side'),
        ({'pretext': Pretext('toy', width=4), 'task': 'jigsaw'}, 'give pretext, or task'),
        ({'supervised': 1, 'task': 'jigsaw'}, 'supervised is 1: .* without a pretext task'),
        ({'images': 0}, 'parameter images is 0: it must be at least 1'),
        ({'tasks': 'rotation'}, "unknown parameter of representation 'tasks': did you mean 'task'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(fields, message):
    with pytest.raises(Refused, match=message):
        spec('representation', dataset='toy', **fields)


def test_the_tables_of_a_trained_trunk_hold_one_reading_of_each_thing():
    result = pt4al.get(spec('representation', dataset='toy'))
    assert {name: list(table) for name, table in result.tables.items()} == {
        'blocks': ['block', 'dim', 'accuracy', 'mean_average_precision'],
        'fractions': ['percent', 'labels', 'accuracy', 'mean_average_precision'],
        'neighbours': ['query', 'rank', 'index', 'similarity'],
        'invariance': ['transform', 'low', 'images'],
        'finetune': ['percent', 'labels', 'finetuned', 'scratch'],
    }
    blocks, fractions, near, moved, tuned = (
        result.tables[name]
        for name in ('blocks', 'fractions', 'neighbours', 'invariance', 'finetune')
    )
    assert blocks['block'].tolist() == list(range(9)) and blocks['dim'][-1] == 32 * 16
    assert fractions['percent'].tolist() == [10, 50, 100] and fractions['labels'].tolist() == [
        6,
        36,
        72,
    ]
    test = data.arrays('toy')[1]
    assert [test.labels[query] for query in near['query'][::10]] == [0, 1, 2] and near[
        'rank'
    ].tolist() == 3 * [*range(1, 11)]
    assert near['index'].max() < toys.N and all(
        len(set(row)) == 10 for row in near['index'].reshape(3, 10)
    )
    assert (np.diff(near['similarity'].reshape(3, 10)) <= 0).all()
    assert moved['images'].reshape(5, -1).sum(1).tolist() == 5 * [len(test.labels)]
    assert tuned['labels'].tolist() == [36] and result.classes == ('a', 'b', 'c')
    assert result.summary['accuracy'] == fractions['accuracy'][-1]
    assert result.summary['mean_average_precision'] == fractions['mean_average_precision'][-1]
    assert (result.summary['finetuned'], result.summary['scratch']) == (
        tuned['finetuned'][0],
        tuned['scratch'][0],
    )
    assert {'knn_accuracy', 'distance_grey', 'distance_quarter_turn'} < result.summary.keys()


def test_nearest_patches_are_counted_by_class_and_by_place():
    pixels, labels = noise(6), torch.tensor([0, 0, 0, 1, 1, 2])
    images = data.Images(pixels, labels, ('a', 'b', 'c'), '')
    net = trunk(width=16)
    tables, shares = representation.retrieve(net, views.normalise, images, images, (2, 3), 1)
    assert tables['patches']['size'].tolist() == [12, 8]
    assert shares == {'same_class': 1, 'same_place': 1}  # an image is nearest to itself
    near = {name: values[::10] for name, values in tables['neighbours'].items()}
    cells = near['grid'] ** 2
    assert near['index'].tolist() == (near['query'] * cells + cells // 2).tolist()
    assert near['query'].tolist() == [0, 3, 5] * 2
    among_all = representation.retrieve(net, views.normalise, images, images, (2,), 24)[1]
    assert among_all == pytest.approx({'same_class': (9 + 4 + 1) / 36, 'same_place': 1 / 4})


def test_a_run_with_patches_takes_no_probe():
    result = pt4al.get(spec('representation', dataset='toy', task='none', patches=[2]))
    assert result.tables.keys() == {'patches', 'neighbours'}


def test_the_gallery_holds_the_neighbours_of_each_query_in_the_order_of_classes():
    (x, _), (test, _) = clouds(30), clouds(6, 1)
    table = representation._gallery(x, test, torch.tensor([2, 0, 2, 1, 1, 0]))
    similarity, index = representation.neighbours(test, x, 10)
    assert table['query'].tolist() == [query for query in (1, 3, 0) for _ in range(10)]
    assert table['index'].tolist() == index[[1, 3, 0]].flatten().tolist()
    assert table['similarity'].tolist() == pytest.approx(similarity[[1, 3, 0]].flatten().tolist())
    assert table['rank'].tolist() == [*range(1, 11)] * 3


def test_a_result_is_read_off_the_kept_weights_and_the_same_bits_again(monkeypatch, tmp_path):
    asked = spec('representation', dataset='toy', finetune=())
    first = pt4al.get(asked)
    assert 'finetune' not in first.tables and 'scratch' not in first.summary
    task, model = pretext.trained(asked.pretext)
    train, test = data.load('toy')
    some = representation.share_of_each_class(train.labels, 48 / 72, experiments_stream('images'))
    net = representation.recalibrate(
        model.trunk, (views.normalise(part) for part in train.pixels[some].split(500))
    )
    assert 42 <= len(some) <= 54
    probe = representation.linear_probe(
        representation.embed(net, train.pixels),
        train.labels,
        representation.embed(net, test.pixels),
        test.labels,
    )
    assert first.summary['accuracy'] == pytest.approx(probe.accuracy)
    middle = [
        representation.features(net, pixels)[4] for pixels in (train.pixels[some], test.pixels)
    ]
    probe = representation.linear_probe(middle[0], train.labels[some], middle[1], test.labels)
    assert first.tables['blocks']['accuracy'][4] == pytest.approx(probe.accuracy)
    monkeypatch.setenv('PT4AL_RESULTS', str(tmp_path / 'b'))
    assert toys.parquet(pt4al.get(asked)) == toys.parquet(first)


def experiments_stream(name: str) -> np.random.Generator:
    from pt4al.rng import stream

    return stream(0, 'representation', name)


def test_fine_tuning_starts_from_the_trunk_and_scratch_does_not(monkeypatch):
    starts = []
    train, test = data.load('toy')

    def learn(s, chosen, train, index, *path, start: nn.Module | None):
        starts.append((len(index), start is given, path[-1]))
        return Model(trunk(path[-1]) if start is None else start, Pooled(32, 3)), None

    given = trunk()
    chosen, small, _ = running.prepared(spec('representation', dataset='toy'))
    with monkeypatch.context() as patch:
        patch.setattr(representation, 'train_classifier', learn)
        both = spec('representation', dataset='toy', finetune=(10, 100))
        table = representation.finetune(both, chosen, given, train, test)
    assert starts == [(6, True, 10), (6, False, 10), (72, True, 100), (72, False, 100)]
    assert table['labels'].tolist() == [6, 72]
    seen = []
    monkeypatch.setattr(
        'pt4al.training.fit.fit',
        lambda model, *_: seen.append(model.trunk[0].weight.detach().clone()),
    )
    for start in (given, None, None):
        running.train_classifier(
            spec('representation', dataset='toy'),
            chosen,
            small,
            torch.arange(8),
            '',
            None,
            'x',
            start=start,
        )
    assert (
        torch.equal(seen[0], given[0].weight)
        and not torch.equal(seen[1], seen[0])
        and torch.equal(seen[1], seen[2])
    )


def test_the_untrained_trunk_is_the_one_that_rotation_starts_from(monkeypatch):
    chosen, train, _ = running.prepared(spec('pretext', dataset='toy'))
    start = pretext.untrained(spec('pretext', dataset='toy', seed=2), chosen, train)[1].trunk
    made, encode = representation.trunk(spec('representation', dataset='toy', task='none', seed=2))
    assert all(
        torch.equal(a, b) for a, b in zip(start.parameters(), made.parameters(), strict=True)
    )
    supervised, _ = representation.trunk(
        spec('representation', dataset='toy', task='supervised', seed=2)
    )
    assert not torch.equal(supervised[0].weight, made[0].weight) and encode is views.normalise


def test_transfer_reads_the_trunk_on_another_data_set(monkeypatch):
    def other() -> data.Pair:
        train, test = toys.toy()
        return data.split(255 - train.pixels[:50], train.labels[:50] % 2, ('x', 'y')), data.split(
            255 - test.pixels, test.labels % 2, ('x', 'y')
        )

    data.DATASETS['other'] = other
    asked = spec('representation', dataset='toy', transfer='other', finetune=())
    result = pt4al.get(asked)
    assert result.classes == ('x', 'y') and result.tables['fractions']['labels'][-1] == 50
    assert result.tables['neighbours']['index'].max() < 50
    assert asked.pretext.dataset == 'toy' and study.missing([asked]) == []
    before = specs.data_digest(asked)
    assert before == data.key_digest('toy') + data.key_digest('other') and data.key_digest(
        'toy'
    ) == specs.data_digest(asked.pretext)
    assert (
        pt4al.runs('representation', dataset='toy', transfer='other', finetune=())[0].key
        == result.key
    )
    assert pt4al.runs('representation', dataset='toy', finetune=()) == []


def test_runs_are_those_of_every_seed_with_its_own_pretext_task(monkeypatch):
    for seed in (0, 1):
        pt4al.get(
            spec(
                'representation',
                dataset='toy',
                task='none',
                seed=seed,
                finetune=(),
                fractions=(100,),
            )
        )
    found = pt4al.runs('representation', dataset='toy', task='none', finetune=(), fractions=(100,))
    assert [result.spec.seed for result in found] == [0, 1]
    one, two = (spec('representation', dataset='toy', seed=seed) for seed in (0, 1))
    assert seeded(one, 1) == two and two.pretext.seed == 1
    assert seeded(spec('representation', dataset='toy', pretext_seed=5), 1).pretext.seed == 5


@pytest.mark.parametrize(
    'fields, views_trained',
    [
        ({'task': 'none'}, 2 * 36 * 3),
        ({'task': 'supervised'}, (72 + 2 * 36) * 3),
        ({'task': 'none', 'finetune': '[]'}, 0),
    ],
)
def test_passes_are_what_training_counts(fields, views_trained, monkeypatch):
    asked = spec('representation', dataset='toy', epochs=3, **fields)
    counts = toys.images_trained(monkeypatch)
    pt4al.get(asked)
    assert study.passes(asked) == views_trained == sum(counts)


def test_the_study_trains_the_pretext_task_before_it_reads_it(monkeypatch):
    order = []
    monkeypatch.setattr(study, '_compute_in_process', order.append)
    asked = spec('representation', dataset='toy')
    study.run([asked])
    assert order == [asked.pretext, asked]
