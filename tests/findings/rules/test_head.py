"""What the head answers: told apart or not, by heart, every class, in proportion, alike in valid and test."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import actlab
from actlab.findings.answers import answers, trained
from actlab.findings.rule import Lacking
from actlab.findings.rules.generalisation import distribution_shift, overfit
from actlab.findings.rules.head import class_never_yes, no_class_separation, no_yes_ratio
from actlab.findings.survey import Survey

N_BATCHES, SIZE, CLASSES = 20, 40, 4


def batch(random, epoch, *, apart=3.0, size=SIZE, shares=None, never=None, moved=0.0, units=CLASSES):
    """Return a batch of a head that tells classes apart by so many std, and what comes in."""
    label = random.choice(max(units, 2), size, p=shares)
    own = (np.arange(units) == label[:, None]) if units > 1 else label[:, None] * 2 - 1
    head = random.normal(0, 1, (size, units)) + apart * own
    if never is not None:
        head[:, never] -= 20
    return epoch, {"input": random.normal(moved, 1, (size, 12)), "fc": head.astype(np.float32)}, label


def rows(seed, epochs=4, batches=N_BATCHES, **options):
    random = np.random.default_rng(seed)
    return [batch(random, epoch, **options) for epoch in range(epochs) for _ in range(batches)]


@pytest.fixture(scope="module")
def facts_of(record_run):
    """Return a function that records splits, and reads their facts."""

    def read(**splits):
        return Survey(record_run(splits, ["input", "fc"])).read()

    return read


def find(rule, facts, **limits):
    return rule.find(facts, rule.limits(**limits))


def every(facts):
    rules = (no_class_separation, class_never_yes, no_yes_ratio, overfit, distribution_shift)
    return {rule.id: find(rule, facts) for rule in rules}


@pytest.mark.parametrize("units", [1, 2, CLASSES])
def test_a_head_that_tells_the_classes_apart_is_healthy(facts_of, units):
    splits = {name: rows(seed, units=units) for seed, name in enumerate(("train", "valid"))}
    found = every(facts_of(**splits, test=rows(2, units=units)[-N_BATCHES:]))
    assert {name: signs for name, signs in found.items() if signs} == {}


@pytest.mark.parametrize("units", [1, 2, CLASSES])
def test_a_head_at_chance_has_no_separation_and_is_not_said_to_forget_a_class(facts_of, units):
    found = every(facts_of(train=rows(0, apart=0, units=units), valid=rows(1, apart=0, units=units)))
    (sign,) = found["no_class_separation"]
    assert (sign.layer, sign.split, sign.steps) == ("fc", "valid", (0, 4 * N_BATCHES - 1))
    assert sign.value == pytest.approx(0.5, abs=0.05)
    assert found["class_never_yes"] == []
    assert found["overfit"] == []


def test_separation_that_is_lost_says_since_when(facts_of):
    broken = rows(1, epochs=2) + [(epoch + 2, *rest) for epoch, *rest in rows(2, epochs=2, apart=0)]
    (sign,) = find(no_class_separation, facts_of(train=rows(0), valid=broken))
    assert sign.steps[0] == 2 * N_BATCHES


def test_the_limit_of_the_separation_is_the_one_that_was_not_met(facts_of):
    def read(scale):
        splits = {name: rows(seed, apart=0.7) for seed, name in enumerate(("train", "valid"))}
        for _, layers, _ in splits["train"] + splits["valid"]:
            layers["fc"] = scale * layers["fc"]
        return facts_of(**splits)

    assert find(no_class_separation, read(1), auc_unlearned=0.8) == []
    # Outputs far too large cost as much as guessing, however well they are ordered.
    (sign,) = find(no_class_separation, read(20), auc_unlearned=0.8)
    assert 0.6 < sign.value < sign.limit == 0.8
    assert "guessing" in sign.evidence


@pytest.mark.filterwarnings("error")
def test_a_single_class_is_not_told_apart_from_others(facts_of):
    splits = {name: rows(seed, shares=[1, 0, 0, 0]) for seed, name in enumerate(("train", "valid"))}
    found = every(facts_of(**splits))
    assert [name for name, signs in found.items() if signs and not isinstance(signs, Lacking)] == []


def test_what_only_train_tells_apart_is_learned_by_heart(facts_of):
    found = every(facts_of(train=rows(0), valid=rows(1, apart=0)))
    (sign,) = found["no_class_separation"]
    assert "by heart" in sign.evidence
    assert "labels of train, or of valid," in sign.remedy
    (sign,) = found["overfit"]
    assert sign.value > 0.5


@pytest.mark.parametrize("scale", [0.3, 1, 30])
def test_the_auc_is_that_of_the_mann_whitney_u_whatever_the_scale(record_run, scale):
    from scipy.stats import mannwhitneyu

    epoch, layers, label = batch(np.random.default_rng(3), 0, apart=1, size=200, units=1)
    head = layers["fc"] * np.float32(scale)
    table = trained(
        answers(record_run({"train": [(epoch, {**layers, "fc": head}, label)]}, ["input", "fc"])), "train"
    )
    u = mannwhitneyu(head[label == 1, 0], head[label == 0, 0]).statistic
    assert table.auc.item() == pytest.approx(u / (table.n_yes * table.n_no).item())


def test_answers_are_the_largest_unit_and_the_loss_is_that_of_torch(record_run):
    import torch

    made = rows(5, epochs=1, batches=1, apart=1)
    _, layers, label = made[0]
    table = answers(record_run({"valid": made}, ["input", "fc"])).sel(split="valid").isel(epoch=0)
    said = layers["fc"].argmax(1)
    assert table.n_yes.values.tolist() == np.bincount(label, minlength=CLASSES).tolist()
    assert table.said.values.tolist() == np.bincount(said, minlength=CLASSES).tolist()
    assert float(table.accuracy) == (said == label).mean()
    loss = torch.nn.functional.cross_entropy(torch.tensor(layers["fc"]).double(), torch.tensor(label))
    assert float(table.loss) == pytest.approx(float(loss))
    assert table.hoped.sum() == pytest.approx(SIZE)


@pytest.mark.parametrize("never", range(CLASSES))
def test_a_class_that_gets_no_yes_is_named(facts_of, never):
    facts = facts_of(train=rows(0, apart=6, never=never), valid=rows(1, apart=6, never=never, batches=3))
    (sign,) = find(class_never_yes, facts)
    assert sign.evidence.startswith(f"class {never}: 0 of ")
    assert sign.value == 0
    assert sign.layer == "fc"


def test_a_single_unit_that_always_says_no_forgets_class_1(facts_of):
    valid = [
        (epoch, {**layers, "fc": layers["fc"] - 30}, label)
        for epoch, layers, label in rows(1, units=1, shares=(0.9, 0.1))
    ]
    (sign,) = find(class_never_yes, facts_of(train=rows(0, units=1), valid=valid))
    assert sign.evidence.startswith("class 1: ")


def test_few_samples_of_a_class_are_no_evidence(facts_of):
    rare = (0.495, 0.495, 0.005, 0.005)
    facts = facts_of(train=rows(0), valid=rows(1, apart=6, never=3, batches=4, shares=rare))
    assert find(class_never_yes, facts) == []


def test_a_class_much_smaller_than_another_is_told_with_its_ratio(facts_of):
    shares = (0.5, 0.24, 0.24, 0.02)
    (sign,) = find(no_yes_ratio, facts_of(train=rows(0, shares=shares), valid=rows(1)))
    assert sign.split == "train"
    assert sign.value == pytest.approx(25, rel=0.5)
    assert "class 3" in sign.evidence
    assert find(no_yes_ratio, facts_of(train=rows(0, shares=(0.4, 0.3, 0.2, 0.1)), valid=rows(1))) == []


def test_more_yes_than_there_are_samples_is_told(facts_of):
    valid = [
        (epoch, {**layers, "fc": layers["fc"] + 6}, label)
        for epoch, layers, label in rows(1, units=1, shares=(0.9, 0.1))
    ]
    (sign,) = find(no_yes_ratio, facts_of(train=rows(0, units=1), valid=valid))
    assert sign.split == "valid"
    assert sign.value > 5


def test_shares_of_train_are_not_held_against_those_of_train(facts_of):
    pushed = rows(0, shares=[0.7, 0.1, 0.1, 0.1])
    for _, layers, _ in pushed:
        layers["fc"] = layers["fc"] + np.array([0, 3, 0, 0], np.float32)
    (sign,) = find(no_yes_ratio, facts_of(train=pushed))
    assert "in train; the probabilities" in sign.evidence
    assert "proportion of train" not in sign.remedy


def test_a_gap_that_is_noise_or_small_is_no_overfit(facts_of):
    assert find(overfit, facts_of(train=rows(0, apart=3.2), valid=rows(1, apart=3.0))) == []
    few = facts_of(train=rows(0, apart=4), valid=rows(1, apart=3.3, batches=1))
    assert find(overfit, few) == []


def test_overfit_begins_after_the_best_epoch_of_valid(facts_of):
    random = np.random.default_rng(6)
    train = [batch(random, epoch, apart=2 + epoch) for epoch in range(6) for _ in range(N_BATCHES)]
    valid = [
        batch(random, epoch, apart=2.5 - abs(epoch - 2) / 2) for epoch in range(6) for _ in range(N_BATCHES)
    ]
    (sign,) = find(overfit, facts_of(train=train, valid=valid))
    assert sign.steps == (3 * N_BATCHES, 6 * N_BATCHES - 1)
    assert sign.split == "valid"


def test_what_moves_in_test_is_a_shift_where_it_comes_in(facts_of):
    train, valid = rows(0), rows(1)
    (sign,) = find(distribution_shift, facts_of(train=train, valid=valid, test=rows(2, moved=1)[-N_BATCHES:]))
    assert (sign.layer, sign.split, sign.steps) == ("input", "test", (0, N_BATCHES - 1))
    assert sign.value > 0.25
    mixed = [(epoch, layers, np.roll(label, 1)) for epoch, layers, label in rows(2)[-N_BATCHES:]]
    (sign,) = find(distribution_shift, facts_of(train=train, valid=valid, test=mixed))
    assert (sign.layer, "right" in sign.evidence) == ("fc", True)
    others = rows(2, shares=(0.02, 0.02, 0.48, 0.48))[-N_BATCHES:]
    (sign,) = find(distribution_shift, facts_of(train=train, valid=valid, test=others))
    assert (sign.layer, "labels" in sign.evidence) == ("fc", True)


@settings(max_examples=6)
@given(seed=st.integers(10, 10_000), size=st.integers(11, 60), units=st.sampled_from([1, 2, CLASSES]))
def test_two_samples_of_one_distribution_are_no_shift(facts_of, seed, size, units):
    parts = (rows(seed + each, epochs=1, batches=3, size=size, units=units) for each in range(3))
    assert (
        find(distribution_shift, facts_of(**dict(zip(("train", "valid", "test"), parts, strict=True)))) == []
    )


def test_a_shift_needs_enough_samples(facts_of):
    few = facts_of(train=rows(0), valid=rows(1), test=rows(2, epochs=4, batches=1, size=20, moved=3)[-1:])
    assert isinstance(find(distribution_shift, few), Lacking)
    assert find(distribution_shift, few, samples=20)


def test_heads_of_nothing_but_nan_have_no_answers_to_compare(facts_of):
    splits = {"train": rows(0), "valid": rows(1), "test": rows(2)[-N_BATCHES:]}
    for split in ("valid", "test"):
        for _, values, _ in splits[split]:
            values["fc"][:] = np.nan
    assert find(distribution_shift, facts_of(**splits)) == []


def test_after_more_training_only_what_comes_in_is_compared(facts_of):
    test = rows(2, epochs=1, apart=0)
    assert find(distribution_shift, facts_of(train=rows(0), valid=rows(1), test=test)) == []


@pytest.mark.parametrize("rule", [no_class_separation, class_never_yes, no_yes_ratio, overfit])
def test_what_is_lacking_is_said(facts_of, record_run, rule):
    unlabelled = [(epoch, layers, None) for epoch, layers, _ in rows(0)]
    for facts in (
        facts_of(train=unlabelled, valid=unlabelled),
        Survey(record_run({"train": rows(0)}, ["input", "fc"], raw=False)).read(),
        facts_of(train=rows(0, epochs=1, batches=1, size=8)),
    ):
        found = find(rule, facts)
        assert isinstance(found, Lacking) or (rule is overfit and found == [])
        assert not isinstance(found, Lacking) or found.reason


def test_a_shift_needs_valid_and_test(facts_of):
    assert isinstance(find(distribution_shift, facts_of(train=rows(0), valid=rows(1))), Lacking)
    assert isinstance(find(distribution_shift, facts_of(train=rows(0), test=rows(1))), Lacking)


def test_outputs_that_are_not_finite_are_no_answers(facts_of):
    broken = [
        (epoch, {**layers, "fc": layers["fc"] * np.float32(np.nan)}, label)
        for epoch, layers, label in rows(1)
    ]
    facts = facts_of(train=broken, valid=broken)
    assert all(
        isinstance(find(rule, facts), Lacking)
        for rule in (no_class_separation, class_never_yes, no_yes_ratio)
    )


def test_a_class_that_train_does_not_have_is_said_whatever_the_others_do(facts_of):
    def relabel(batches, label):
        return [(epoch, layers, np.where(given == 3, label, given)) for epoch, layers, given in batches]

    train = relabel(rows(0, apart=0.2), 2)
    valid = rows(1, apart=0.2, never=3)
    (sign,) = find(class_never_yes, facts_of(train=train, valid=valid))
    assert "class 3: 0 of" in sign.evidence
    assert "The labels of train hold none of class 3" in sign.evidence


def losses(record_run, train, valid):
    """Read the facts of a run without labels in which these losses were logged, one for each epoch."""
    random = np.random.default_rng(0)

    def split(values):
        return [
            (epoch, {"fc": random.normal(size=(8, 2))}, None)
            for epoch in range(len(values))
            for _ in range(4)
        ]

    facts = Survey(record_run({"train": split(train), "valid": split(valid)}, ["fc"], raw=False)).read()
    known = {"train": np.repeat(train, 4), "valid": np.repeat(valid, 4)}
    facts.loss = known.get
    return facts


@pytest.mark.parametrize(
    ("train", "valid", "is_over"),
    [
        ([1, 0.5, 0.2, 0.1, 0.05], [1, 0.8, 0.9, 1.1, 1.3], True),
        ([1, 0.8, 0.7, 0.65, 0.6], [1, 0.8, 0.75, 0.7, 0.7], False),
        ([2, 1.1, 0.5, 0.2, 0.08], [2.2, 1.96, 2.0, 2.1, 2.15], True),  # a little, but 25 times that of train
        ([2, 1.5, 1.2, 1.1, 1.0], [2.2, 1.96, 2.0, 2.1, 2.15], False),
    ],
)
def test_a_regression_is_judged_by_its_losses(record_run, train, valid, is_over):
    assert bool(find(overfit, losses(record_run, train, valid))) == is_over


def test_losses_below_zero_have_no_ratio(record_run):
    found = find(overfit, losses(record_run, [-1.0, -1.3, -1.4, -1.3, -1.2], [-1.0, -1.4, -1.35, -1.3, -1.2]))
    assert isinstance(found, Lacking)


def pixels(run_folder, pushed, *, units=4, side=24):
    """Record a head that marks pixels, too large to be kept as it is, its biases pushed [unit]."""
    torch.manual_seed(4)
    torch.set_num_threads(1)
    head = nn.Conv2d(units, units, 1)
    with torch.no_grad(), actlab.Recorder(head, run_folder, fsync=False) as recorder:
        head.weight.copy_(torch.eye(units)[:, :, None, None])
        head.bias.copy_(torch.tensor(pushed))
        for step in range(120):
            label = torch.randint(0, max(units, 2), (4, side, side))
            marks = functional.one_hot(label, units).movedim(-1, 1) if units > 1 else label[:, None] - 0.5
            with recorder.batch("train" if step % 2 else "valid", epoch=step // 30, labels=label):
                head(4.0 * marks + torch.randn(4, units, side, side))
    facts = Survey(actlab.open_run(run_folder)).read()
    assert facts.run.raw("valid") is None
    return facts


def test_counts_tell_of_a_class_of_pixels_that_is_never_named(tmp_path):
    (sign,) = find(class_never_yes, pixels(tmp_path / "sick", [0.0, 0.0, -9.0, 0.0]))
    assert sign.split == "valid"
    assert "class 2:" in sign.evidence
    assert "outputs were counted" in sign.evidence
    assert find(class_never_yes, pixels(tmp_path / "healthy", [0.0] * 4)) == []


@pytest.mark.parametrize(("pushed", "hoped"), [(0.0, 0.5), (-3.5, 0.11)])
def test_counts_tell_how_often_a_single_unit_hopes_for_yes(tmp_path, pushed, hoped):
    facts = pixels(tmp_path / "run", [pushed], units=1, side=48)
    part = trained(facts.answers, "valid")
    assert float((part["hoped"] / part["n"])[-1, 0]) == pytest.approx(hoped, abs=0.02)
    assert bool(find(no_yes_ratio, facts)) is (pushed < 0)
