"""Opening a run of several ranks: merged from the rows they all have, or refused in one line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from actlab.errors import StoreError
from actlab.run import Run
from actlab.store.layout import ROOT
from actlab.store.merging import merge_rows, rank_path, union_layers
from actlab.store.ranks import open_merged
from actlab.store.reader import open_snapshot
from actlab.store.row import ChannelStats, HeadCounts, LabelMoments, RawSamples
from actlab.store.writer import RunWriter


@pytest.fixture
def record(tmp_path, small_axis):
    """Return a function that writes one store per rank, each from a list of rows, and returns the path."""

    def write(*ranks, closed=True, **attributes):
        path = tmp_path / "run.zarr"
        for rank, rows in enumerate(ranks):
            said = {"ranks": {"rank": rank, "world_size": len(ranks), "job": "a1"}, "epochs": "given"}
            writer = RunWriter(
                rank_path(path, rank), axis=small_axis, attributes=said | attributes, fsync=False
            )
            for row in rows:
                assert writer.append(row)
            writer.close()
            if closed is not True and rank not in closed:  # as after a kill
                change(rank_path(path, rank), lambda said: said.update(closed=False))
        return path

    return write


@pytest.fixture
def row(make_row):
    """Return a function that makes a row of a rank: other values, the same place."""

    def make(step, split="train", rank=0, **options):
        other = make_row(step + 1000 * rank, split, **options)
        place = {"step": step, "epoch": step // 4, "batch": step % 4, "train_step": step}
        return replace(other, **place)

    return make


def check_rows(group, rows):
    """Compare the rows of a merged group with rows merged by numpy."""
    rows = list(rows)
    assert group.step.values.tolist() == [row.step for row in rows]
    for index, row in enumerate(rows):
        one = group.isel(step=index)
        assert one.layer.values.tolist() == [layer.name for layer in row.layers]
        for name in ("counts", "n", "min", "max", "mean", "std"):
            np.testing.assert_array_equal(one[name], getattr(row, name))
        assert (int(one.epoch), int(one.batch), int(one.train_step)) == (row.epoch, row.batch, row.train_step)
        assert abs((one.time.values - np.datetime64(0, "s")) / np.timedelta64(1, "s") - row.time) < 1e-5
        for name, value in row.logs.items():
            np.testing.assert_array_equal(one[f"log_{name}"], value)


def merged(*rows):
    return merge_rows(rows, union_layers([row.layers for row in rows]))


class TestMergedRun:
    def test_has_the_rows_of_all_ranks_merged(self, record, row):
        ranks = [[row(step, rank=rank) for step in range(5)] for rank in range(3)]
        snapshot = open_merged(record(*ranks))
        check_rows(snapshot.tree["train"], map(merged, *ranks))
        assert snapshot.tree["train"].counts.dtype == np.uint64
        assert snapshot.attributes["rows"] == {"train": 5}
        assert snapshot.attributes["ranks"] == {
            "rank": 0,
            "world_size": 3,
            "job": "a1",
            "merged": [0, 1, 2],
            "dropped": {"train": []},
        }
        assert snapshot.attributes["closed"]

    def test_is_lazy(self, record, row):
        path = record(*[[row(step, rank=rank) for step in range(5)] for rank in range(2)])
        snapshot = open_merged(path)
        assert all(variable.chunks for variable in snapshot.tree["train"].data_vars.values())
        shutil.rmtree(path / "train" / "counts")
        with pytest.raises(StoreError, match=r"chunk 'train/counts/c\.0\.0\.0' is missing"):
            snapshot.tree["train"].counts.compute()

    def test_can_be_looked_at_like_any_run(self, record, row):
        ranks = [[*(row(step, rank=rank) for step in range(4)), row(0, "valid", rank)] for rank in range(2)]
        run = Run(open_merged(record(*ranks, head="layer2")))
        assert run.splits == ("train", "valid")
        assert "missing" in repr(run)
        assert run.layers.n.sum() == sum(int(each.n.sum()) for rows in ranks for each in rows)
        assert run.raw("train")["head"].shape == (2 * 4 * 2, 2)
        for split in run.splits:
            run[split].compute()

    def test_keeps_only_rows_that_all_have(self, record, row):
        ranks = [
            [row(step, rank=0) for step in (0, 1, 2, 3, 4, 6)],
            [row(step, rank=1) for step in (0, 2, 3, 5)],
        ]
        snapshot = open_merged(record(*ranks))
        rows = [{each.step: each for each in rows} for rows in ranks]
        check_rows(snapshot.tree["train"], [merged(rows[0][step], rows[1][step]) for step in (0, 2, 3)])
        assert snapshot.attributes["ranks"]["dropped"] == {"train": [[1, 1], [4, 6]]}

    def test_rows_of_one_epoch_and_batch_belong_together_whatever_their_steps(self, record, row):
        first = [row(0), row(1), replace(row(2), epoch=1, batch=0), replace(row(3), epoch=1, batch=1)]
        other = [
            row(0, rank=1),
            replace(row(1, rank=1), epoch=1, batch=0),
            replace(row(2, rank=1), epoch=1, batch=1),
        ]
        snapshot = open_merged(record(first, other))
        merged = snapshot.tree["train"]
        assert merged.step.values.tolist() == [0, 2, 3]
        for place, (left, right) in enumerate(zip([first[0], *first[2:]], other, strict=True)):
            np.testing.assert_array_equal(merged["n"][place], left.n + right.n)
        assert snapshot.attributes["ranks"]["dropped"] == {"train": [[1, 1]]}

    def test_leaves_out_rows_of_different_epochs(self, record, row):
        moved = [row(0, rank=1), replace(row(1, rank=1), epoch=7), replace(row(2, rank=1), train_step=9)]
        path = record([row(step) for step in range(3)], moved)
        snapshot = open_merged(path)
        assert snapshot.tree["train"].step.values.tolist() == [0, 2]
        assert snapshot.attributes["ranks"]["dropped"] == {"train": [[1, 1]]}

    def test_inferred_epochs_need_not_agree(self, record, row):
        other = [replace(row(step, rank=1), epoch=0, batch=step) for step in range(6)]
        snapshot = open_merged(record([row(step) for step in range(6)], other, epochs="inferred"))
        assert snapshot.tree["train"].epoch.values.tolist() == [0, 0, 0, 0, 1, 1]

    def test_without_a_common_row_has_no_split(self, record, row):
        snapshot = open_merged(record([row(0)], [row(1, rank=1)]))
        assert not snapshot.tree.children
        assert snapshot.attributes["rows"] == {}
        assert snapshot.attributes["ranks"]["dropped"] == {"train": [[0, 1]]}

    def test_different_heads_are_not_joined(self, record, row):
        path = record([row(0)], [row(0, rank=1)], head="layer1")
        change(rank_path(path, 1), lambda said: said.update(head="layer2"))
        snapshot = open_merged(path)
        assert snapshot.tree["train"].sizes["step"] == 1
        assert "raw" not in snapshot.tree["train"].children

    def test_unites_the_layers(self, record, row):
        def renamed(one, *names):
            return replace(
                one,
                layers=tuple(replace(info, name=name) for info, name in zip(one.layers, names, strict=True)),
            )

        ranks = [[renamed(row(0), "a", "b", "c")], [renamed(row(0, rank=1), "b", "d", "c")]]
        snapshot = open_merged(record(*ranks))
        assert [layer["name"] for layer in snapshot.attributes["layers"]] == ["a", "b", "c", "d"]
        check_rows(snapshot.tree["train"], map(merged, *ranks))

    def test_logs_are_averaged_over_the_ranks_that_have_them(self, record, row):
        ranks = [
            [row(step, logs=("loss", "lr")) for step in range(2)],
            [row(step, rank=1, logs=("loss",)) for step in range(2)],
        ]
        train = open_merged(record(*ranks)).tree["train"]
        for step in range(2):
            assert train.log_loss.values[step] == np.mean([rows[step].logs["loss"] for rows in ranks])
            assert train.log_lr.values[step] == ranks[0][step].logs["lr"]

    def test_gaps_are_united(self, record, row):
        path = record([row(0)], [row(0, rank=1)])
        for rank, gaps in enumerate(({"train": [[3, 5]]}, {"train": [[4, 9]], "valid": [[0, 0]]})):
            change(rank_path(path, rank), lambda said, gaps=gaps: said.update(gaps=gaps))
        assert open_merged(path).attributes["gaps"] == {"train": [[3, 9]], "valid": [[0, 0]], "test": []}


class TestRanksThatDoLess:
    def test_one_that_does_not_validate_is_not_needed_there(self, record, row):
        valid = [replace(row(step, "valid"), train_step=2) for step in range(3)]
        ranks = [[row(0), row(1), *valid, row(2)], [row(step, rank=1) for step in range(3)]]
        snapshot = open_merged(record(*ranks))
        check_rows(snapshot.tree["valid"], map(merged, valid))
        check_rows(
            snapshot.tree["train"],
            [merged(*pair) for pair in zip([row(0), row(1), row(2)], ranks[1], strict=True)],
        )

    @pytest.mark.parametrize(("train_rows", "rows"), [(2, 0), (3, 3)])
    def test_one_that_was_killed_is_not_needed_where_it_had_passed_by(self, train_rows, rows, record, row):
        valid = [replace(row(step, "valid"), train_step=2) for step in range(3)]
        ranks = [[row(0), row(1), *valid, row(2)], [row(step, rank=1) for step in range(train_rows)]]
        snapshot = open_merged(record(*ranks, closed=(0,)))
        assert snapshot.attributes["rows"].get("valid", 0) == rows
        assert snapshot.attributes["rows"]["train"] == train_rows
        assert not snapshot.attributes["closed"]

    def test_one_that_lost_all_rows_of_a_split_is_needed(self, record, row):
        path = record([row(0), row(0, "valid")], [row(0, rank=1)])
        change(rank_path(path, 1), lambda said: said.update(gaps={"valid": [[0, 0]]}))
        assert "valid" not in open_merged(path).tree.children


class TestSamples:
    def test_are_in_order_of_step_and_rank(self, record, row):
        ranks = [[row(step, rank=rank, samples=2 + rank) for step in range(3)] for rank in range(2)]
        snapshot = open_merged(record(*ranks))
        raw = snapshot.tree["train/raw"].to_dataset(inherit=False)
        rows = [rows[step] for step in range(3) for rows in ranks]
        np.testing.assert_array_equal(raw["head"], np.concatenate([each.head for each in rows]))
        np.testing.assert_array_equal(raw["label"], np.concatenate([each.label for each in rows]))
        assert raw["sample_step"].values.tolist() == [each.step for each in rows for _ in each.head]
        assert raw["step"].values.tolist() == raw["sample_step"].values.tolist()

    def test_are_there_only_where_all_ranks_have_them(self, record, row):
        ranks = [
            [row(step) for step in range(3)],
            [row(0, rank=1), row(1, rank=1, samples=None), row(2, rank=1)],
        ]
        raw = open_merged(record(*ranks)).tree["train/raw"]
        assert np.unique(raw["sample_step"]).tolist() == [0, 2]

    def test_without_labels_read_as_not_labelled(self, record, row):
        ranks = [[row(0)], [row(0, rank=1, labels=None)]]
        raw = open_merged(record(*ranks)).tree["train/raw"]
        assert raw["label"].values.tolist() == [*ranks[0][0].label, -100, -100]

    def test_without_any_labels(self, record, row):
        raw = open_merged(record(*[[row(0, rank=rank, labels=None)] for rank in range(2)])).tree["train/raw"]
        assert "label" not in raw


def side_data(rank, small_axis, channels=2, labels=2):
    random = np.random.default_rng(rank)
    n = np.full(2 + channels, 4 + rank, np.uint64)
    by_label = random.normal(size=(2, labels, 3))
    return {
        "channels": ChannelStats(("layer0", "layer1"), (2, channels), n, n // 2, random.random(n.size)),
        "samples": {
            "layer1": RawSamples(random.normal(size=(2, 3, 2)), np.arange(2) + 5 * rank, np.array([rank, 1]))
        },
        "head_counts": HeadCounts(
            random.integers(0, 9, (4, 3, small_axis.n_buckets), np.uint32), pooled=False
        ),
        "label_moments": LabelMoments(
            np.full((labels, 3), 5 + rank, np.uint64), by_label[0], np.abs(by_label[1])
        ),
    }


class TestSideData:
    def test_equals_that_of_rows_merged_by_numpy(self, record, row, small_axis):
        ranks = [
            [replace(row(step, rank=rank), **side_data(10 * step + rank, small_axis)) for step in range(3)]
            for rank in range(2)
        ]
        train = open_merged(record(*ranks)).tree["train"]
        rows = list(map(merged, *ranks))
        channels, samples, head, labels = (
            train[name].to_dataset(inherit=False) for name in ("channels", "samples/layer1", "head", "labels")
        )
        assert channels.channel_layer.values.tolist() == ["layer0", "layer0", "layer1", "layer1"]
        assert channels.channel_index.values.tolist() == [0, 1, 0, 1]
        for group in (channels, head, labels):
            assert group.row_step.values.tolist() == [0, 1, 2]
        for index, one in enumerate(rows):
            for name in ("n", "zeros", "mean_abs"):
                np.testing.assert_array_equal(channels[name][index], getattr(one.channels, name))
            np.testing.assert_array_equal(head.counts[index], one.head_counts.counts)
            for name in ("n", "mean", "std"):
                np.testing.assert_array_equal(labels[name][index], getattr(one.label_moments, name))
            mine = samples.isel(sample=samples.sample_step.values == index)
            for name in ("values", "index", "label"):
                np.testing.assert_array_equal(mine[name], getattr(one.samples["layer1"], name))
        assert samples.attrs["layer"] == "layer1"
        assert head.attrs["units"] == "each"

    def test_rows_and_groups_that_one_rank_lacks_are_left_out(self, record, row, small_axis):
        kept = [side_data(rank, small_axis) for rank in range(4)]
        first = [replace(row(step), **kept[step]) for step in range(2)]
        second = [
            replace(row(0, rank=1), samples=kept[2]["samples"]),
            replace(row(1, rank=1), channels=kept[3]["channels"]),
            replace(row(2, rank=1), label_moments=kept[3]["label_moments"]),
        ]
        train = open_merged(record([*first, row(2)], second)).tree["train"]
        assert set(train.children) == {"raw", "channels", "samples"}
        assert train["channels"].row_step.values.tolist() == [1]
        assert set(train["samples/layer1"].sample_step.values) == {0}

    def test_axes_may_have_grown_on_one_rank_only(self, record, row, small_axis):
        ranks = [
            [replace(row(0, rank=rank), **side_data(rank, small_axis, 2 + rank, 2 + rank))]
            for rank in range(2)
        ]
        train = open_merged(record(*ranks)).tree["train"]
        assert train["channels"].n.values.tolist() == [[9, 9, 9, 9, 5]]
        assert train["labels"].n.values.tolist() == [[[11] * 3, [11] * 3, [6] * 3]]
        np.testing.assert_array_equal(
            train["labels"]["mean"][0], merged(*(rows[0] for rows in ranks)).label_moments.mean
        )


def change(path, edit):
    """Edit the root attribute."""
    document = json.loads((path / ROOT).read_text())
    edit(document["attributes"]["actlab"])
    (path / ROOT).write_text(json.dumps(document))


def refusal(path):
    with pytest.raises(StoreError) as error:
        open_merged(path)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestPlaces:
    @pytest.fixture
    def path(self, record, row):
        return record([row(0), row(1)], [row(0, rank=1)])

    def test_a_rank_opens_alone_by_its_path(self, path):
        for rank, rows in ((0, 2), (1, 1)):
            alone = open_merged(path.with_name(f"run.rank{rank}.zarr"))
            assert alone.attributes["rows"] == {"train": rows}
            assert "merged" not in alone.attributes["ranks"]
        xr.testing.assert_identical(
            open_merged(path.with_name("run.rank0.zarr")).tree, open_snapshot(path).tree
        )

    def test_a_run_of_one_process_is_as_it_is(self, tmp_path, small_axis, row):
        writer = RunWriter(tmp_path / "one.zarr", axis=small_axis, attributes={}, fsync=False)
        writer.append(row(0))
        writer.close()
        assert "ranks" not in open_merged(tmp_path / "one.zarr").attributes

    def test_what_more_ranks_left_of_an_older_run_is_not_looked_at(self, path):
        path.with_name("run.rank2.zarr").mkdir()
        assert open_merged(path).attributes["ranks"]["merged"] == [0, 1]

    def test_a_missing_rank(self, path):
        shutil.rmtree(path.with_name("run.rank1.zarr"))
        assert refusal(path) == (
            f"{path}: recorded by 2 ranks, the store of rank 1 is missing, expected 'run.rank1.zarr' "
            "beside it; open 'run.rank0.zarr' to see rank 0 alone"
        )
        assert open_merged(path.with_name("run.rank0.zarr")).attributes["rows"] == {"train": 2}

    @pytest.mark.parametrize(
        ("edit", "problem"),
        [
            (lambda said: said["ranks"].update(job="b2"), "is of another run"),
            (lambda said: said["ranks"].update(rank=0), "is of another run"),
            (lambda said: said.pop("ranks"), "is of another run"),
            (lambda said: said["ranks"].update(world_size="2"), "zarr.json is damaged: ranks is"),
        ],
    )
    def test_a_wrong_rank(self, edit, problem, path):
        other = path.with_name("run.rank1.zarr")
        change(other, edit)
        assert refusal(path).startswith(f"{other}: ")
        assert problem in refusal(path)

    def test_another_axis(self, path, small_axis, tmp_path):
        other = path.with_name("run.rank1.zarr")
        axis = replace(small_axis, mantissa_bits=2)
        said = {"ranks": {"rank": 1, "world_size": 2, "job": "a1"}}
        RunWriter(other, axis=axis, attributes=said, fsync=False, overwrite=True).close()
        assert "has another recording axis" in refusal(path)

    @pytest.mark.parametrize(
        "junk",
        [
            3,
            [],
            {"rank": 0},
            {"rank": 2, "world_size": 2, "job": "a1"},
            {"rank": 0, "world_size": 10**12, "job": "a1"},
        ],
    )
    def test_a_damaged_attribute(self, junk, path):
        change(path, lambda said: said.update(ranks=junk))
        assert refusal(path)
