"""A finished run that is changed in any way is refused, or shows what was committed: never anything else."""

import json
import shutil
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from actlab.errors import StoreError
from actlab.run import open_run
from actlab.store import verifying
from actlab.store.layout import ROOT, ArrayLayout
from actlab.store.merging import rank_path
from actlab.store.ranks import open_merged
from actlab.store.reader import open_snapshot
from actlab.store.verifying import verify_snapshot
from actlab.store.writer import RunWriter


def write(path, rows, axis, **options):
    writer = RunWriter(path, axis=axis, attributes={"head": "layer2"}, fsync=False, **options)
    for row in rows:
        assert writer.append(row)
    writer.close()
    return path


@pytest.fixture(scope="module")
def rows(make_row, add_side):
    """Two splits; side data in every second row; a layer and a log that come late."""
    train = [
        make_row(step, layers=3 + (step > 5), logs=("loss", "lr")[: 1 + (step > 3)]) for step in range(9)
    ]
    rows = [add_side(row) if row.step % 2 else row for row in train]
    return [*rows, *(add_side(make_row(step, "valid", layers=4)) for step in range(2))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_axis, rows):
    return write(tmp_path_factory.mktemp("run") / "run.zarr", rows, small_axis)


@pytest.fixture
def run(finished, tmp_path):
    """Return the path of a copy, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run.zarr")


def change(path, edit):
    document = json.loads((path / ROOT).read_text())
    edit(document["attributes"]["actlab"], document["consolidated_metadata"]["metadata"])
    (path / ROOT).write_text(json.dumps(document))


def refusal(path):
    with pytest.raises(StoreError) as error:
        open_run(path, verify="rows")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


class TestVerified:
    def test_counts_the_rows(self, finished):
        assert verify_snapshot(open_snapshot(finished)) == {"train": 9, "valid": 2}

    def test_an_empty_run(self, tmp_path, small_axis):
        assert verify_snapshot(open_snapshot(write(tmp_path / "run.zarr", [], small_axis))) == {}

    def test_every_attempt(self, tmp_path, small_axis, make_row, add_side):
        rows = [replace(add_side(make_row(step)), train_step=step) for step in range(5)]
        path = write(tmp_path / "run.zarr", rows[:4], small_axis)
        write(path, rows[2:], small_axis, resume_step=2)
        assert open_run(path, verify=True)["train"].sizes["step"] == 5
        assert verify_snapshot(open_snapshot(path)) == {"train": 7}

    def test_every_rank(self, tmp_path, small_axis, make_row):
        path = tmp_path / "run.zarr"
        for rank in range(2):
            write(rank_path(path, rank), [make_row(step) for step in range(3)], small_axis)
            said = {"rank": rank, "world_size": 2, "job": "a1"}
            change(rank_path(path, rank), lambda actlab, _, said=said: actlab.update(ranks=said))
        assert verify_snapshot(open_merged(path)) == {"train": 6}
        (rank_path(path, 1) / "train" / "n" / "c.0.0").write_bytes(
            (rank_path(path, 1) / "train" / "row_crc32c" / "c.0").read_bytes()
        )
        with pytest.raises(StoreError, match=r"run\.rank1\.zarr: the chunk 'train/n/c\.0\.0' is damaged"):
            open_run(path, verify="rows")

    @pytest.mark.parametrize("verify", [True, False, "presence", "rows"])
    def test_ways_to_verify(self, finished, verify):
        assert open_run(finished, verify=verify).splits == ("train", "valid")

    @pytest.mark.parametrize("verify", ["all", None, 2])
    def test_other_words_are_refused(self, finished, verify):
        with pytest.raises(ValueError, match="verify must be 'presence', 'rows', True or False, got "):
            open_run(finished, verify=verify)


class TestDamage:
    def test_names_split_step_and_attempt(self, run):
        same = ("train/mean/c.0.0", "train/std/c.0.0")
        first, second = ((run / name).read_bytes() for name in same)
        (run / same[0]).write_bytes(second)
        (run / same[1]).write_bytes(first)
        assert open_run(run)["train"]["mean"].compute().size > 0  # each chunk is sound by itself
        assert refusal(run) == (
            "the row of 'train' at step 0, attempt 0, is not as it was recorded, its checksum does not match"
        )

    def test_counts_that_do_not_add_up(self, run, monkeypatch):
        monkeypatch.setattr(verifying.StoredRun, "read", _one_less(verifying.StoredRun.read, "train/n"))
        assert refusal(run).startswith("the row of 'train' at step 0")

    def test_side_data_of_no_row(self, run):
        def edit(actlab, nodes):
            actlab["rows"]["train"] = 8  # the last row has none
            for node in nodes.values():
                if node.get("dimension_names", [""])[0] == "step" and node["shape"][0] == 9:
                    node["shape"][0] = 8

        change(run, edit)
        assert refusal(run) == "'train/raw' has data of step 8, attempt 0, which is no row of its own"

    @pytest.mark.parametrize(
        ("name", "forged"),
        [
            ("channel_layer", ["layer0", "layer0", "layer1", "layer1", "layer1"]),
            ("channel_layer", ["layer0", "layer1", "layer0", "layer1", "layer0"]),
            ("channel_index", [0, 1, 2, 1, 0]),
        ],
    )
    def test_channels_of_other_layers(self, run, name, forged):
        node = json.loads((run / ROOT).read_text())["consolidated_metadata"]["metadata"][
            f"train/channels/{name}"
        ]
        layout, file = ArrayLayout.from_node(node), run / f"train/channels/{name}/c.0"
        chunk = layout.decode(file.read_bytes()).copy()
        chunk[: len(forged)] = forged
        file.write_bytes(layout.encode(chunk))
        assert refusal(run) == ("'train/channels' is damaged, it is no table of layers and their channels")

    def test_another_axis(self, run):
        change(run, lambda actlab, _: actlab["axis"].update(min_exponent=1, max_exponent=2))
        assert refusal(run) == "'train/lower' is damaged, it is not that of the axis"
        with pytest.raises(StoreError, match="'train/lower' is damaged, it is not that of the axis"):
            open_run(run)["train"]

    def test_an_attempt_that_began_later_than_its_rows(self, tmp_path, small_axis, make_row):
        rows = [replace(make_row(step), train_step=step) for step in range(5)]
        path = write(tmp_path / "run.zarr", rows[:4], small_axis)
        write(path, rows[2:], small_axis, resume_step=2)
        change(path, lambda actlab, _: actlab.update(attempts=[0, 3]))
        assert refusal(path).startswith("the row of 'train' at step 2, attempt 1, is not as it was recorded")


def _one_less(read, name):
    """Return what reads one value less than there are of the first layer."""

    def damaged(self, array, *part):
        found = read(self, array, *part)
        if array == name:
            found = found.copy()
            found[0, 0] -= 1
        return found

    return damaged


# The eleven kinds of mutations; `pick` draws a number below another one.


def chunks_of(run):
    return sorted(path for path in run.rglob("c.*") if path.is_file())


def flip(run, pick):
    path = chunks_of(run)[pick(len(chunks_of(run)))]
    data = bytearray(path.read_bytes())
    data[pick(len(data))] ^= 1 << pick(8)
    path.write_bytes(data)


def truncate(run, pick):
    path = chunks_of(run)[pick(len(chunks_of(run)))]
    path.write_bytes(path.read_bytes()[: pick(path.stat().st_size)])


def zero(run, pick):
    path = chunks_of(run)[pick(len(chunks_of(run)))]
    path.write_bytes(bytes(path.stat().st_size))


def delete(run, pick):
    chunks_of(run)[pick(len(chunks_of(run)))].unlink()


def swap(run, pick):
    left, right = (chunks_of(run)[pick(len(chunks_of(run)))] for _ in range(2))
    data = left.read_bytes()
    left.write_bytes(right.read_bytes())
    right.write_bytes(data)


def stale(run, pick):
    """Put the chunk of an earlier commit in place of the last one."""
    old = run.with_name("old.zarr")
    names = [path.relative_to(run) for path in chunks_of(run) if (old / path.relative_to(run)).exists()]
    name = names[pick(len(names))]
    shutil.copy(old / name, run / name)


def rename(run, pick):
    path = chunks_of(run)[pick(len(chunks_of(run)))]
    path.rename(path.with_name("c.7.0.0"))


def drop_array(run, pick):
    change(run, lambda _, nodes: nodes.pop(sorted(nodes)[pick(len(nodes))]))


def old_root(run, pick):
    shutil.copy(run.with_name("old.zarr") / ROOT, run / ROOT)


def extra_file(run, pick):
    directories = sorted({path.parent for path in chunks_of(run)})
    (directories[pick(len(directories))] / f"c.{pick(9)}.9").write_bytes(b"x")


def edit_attribute(run, pick):
    def edit(actlab, nodes):
        keys = ["rows", "axis", "layers", "attempts", "layer_growth", "head"]
        names = sorted(name for name in nodes if nodes[name].get("attributes"))
        if pick(2):
            actlab.pop(keys[pick(len(keys))])
        else:
            attributes = nodes[names[pick(len(names))]]["attributes"]
            key = sorted(attributes)[pick(len(attributes))]
            attributes[key] = ["other", 1.5, "seconds since 2001-01-01", "layer1", "pooled"][pick(5)]

    change(run, edit)


KINDS = [flip, truncate, zero, delete, swap, stale, rename, drop_array, old_root, extra_file, edit_attribute]


def content(run):
    """Return everything that a run shows, as plain arrays by name."""
    found = {}
    for split in run.splits:
        parts = {"": run[split], "raw": run.raw(split), "channels": run.channels(split)}
        parts |= {"head": run.head_counts(split), "labels": run.label_moments(split)}
        parts |= {layer: run.samples(split, layer) for layer in run.names}
        for part, data in parts.items():
            if data is not None:
                found |= {(split, part, str(name)): array.values for name, array in data.variables.items()}
    return found


def is_part_of(found, whole):
    """Whether all rows that are shown are among those recorded, as they were."""
    for key, values in found.items():
        expected = whole.get(key)
        if expected is None:
            return False
        part = expected[tuple(map(slice, values.shape))]
        if not np.array_equal(values, part, equal_nan=values.dtype.kind == "f"):
            return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_no_mutation_passes_unseen(kind, finished, rows, tmp_path, small_axis):
    whole = content(open_run(finished))
    old = write(tmp_path / "old.zarr", rows[:5], small_axis)
    change(old, lambda actlab, _: actlab.update(closed=True))
    run = tmp_path / "run.zarr"
    for seed in range(1 if kind is old_root else 6):
        shutil.copytree(finished, run)
        random = np.random.default_rng([seed, KINDS.index(kind)])
        kind(run, lambda most, random=random: int(random.integers(most)))
        with suppress(StoreError):
            assert is_part_of(content(open_run(run, verify="rows")), whole), f"seed {seed}"
        shutil.rmtree(run)


def test_without_verification_a_swap_does_pass(finished, tmp_path):
    """The control: what the mutations above look for is there to be found."""
    run = shutil.copytree(finished, tmp_path / "run.zarr")
    left, right = run / "train" / "mean" / "c.0.0", run / "train" / "std" / "c.0.0"
    data = left.read_bytes()
    left.write_bytes(right.read_bytes())
    right.write_bytes(data)
    assert not is_part_of(content(open_run(run)), content(open_run(finished)))
