"""What is read of a run that grows, and what is drawn of it."""

import time

import numpy as np
import pytest

import actlab
from actlab.axis import FloatAxis, LinearAxis
from actlab.charts import colorful_chart, twin_peaks_chart, wall_chart
from actlab.charts.columns import columns
from actlab.errors import ActlabError, StoreError
from actlab.live.cell import as_html
from actlab.live.columns import Columns
from actlab.live.growing import Growing
from actlab.live.pictures import state
from actlab.run import open_run


def look(watched):
    return any([*watched.look()])


def wait_for(found):
    for _ in range(2400):
        if found():
            return
        time.sleep(0.025)
    raise AssertionError("never")


class TestColumns:
    @pytest.mark.parametrize("n_layers", [1, 600])
    def test_are_the_sums_of_their_rows_however_these_come(self, n_layers):
        random, axis = np.random.default_rng(3), FloatAxis(mantissa_bits=1, min_exponent=0, max_exponent=1)
        rows = random.integers(0, 9, (1000 if n_layers == 1 else 150, n_layers, axis.n_buckets), np.uint32)
        rows[:70, :, :5] = rows[..., -3:] = 0  # the buckets in use become more
        made = Columns(n_layers, axis)
        while made.n_rows < len(rows):
            made.add(rows[made.n_rows : made.n_rows + random.integers(1, 40)])
        assert made.n_columns == -(-len(rows) // made.k) <= made.most
        assert made.k > 1
        wanted = np.add.reduceat(rows, np.arange(0, len(rows), made.k), axis=0, dtype=np.float32)
        found = made.sums(np.arange(n_layers), slice(0, made.n_columns))
        np.testing.assert_array_equal(found, wanted.swapaxes(0, 1))


class TestPictures:
    def test_are_those_of_the_charts(self, small_run, watch):
        watched = watch(small_run.path)
        wall, layer, peaks = (
            watched.pictures.wall(),
            watched.pictures.layer("body.linear"),
            watched.pictures.peaks(),
        )
        axis = LinearAxis(layer.attrs["h_min"], layer.attrs["h_max"], layer.sizes["bin"])
        chart = colorful_chart.prepare(small_run, axis, layers=["body.linear"]).isel(layer=0)
        np.testing.assert_allclose(layer["counts"], chart["counts"], rtol=1e-6)
        for name in ("mean", "std", "first_row", "n_rows"):
            np.testing.assert_allclose(layer[name], chart[name])
        assert layer["epoch_row"].values.tolist() == chart["epoch_first_row"].values[1:].tolist()
        assert layer.attrs["outside"] == pytest.approx(float(chart["total_out_of_range"]), abs=1e-6)
        axis = LinearAxis(wall.attrs["h_min"], wall.attrs["h_max"], wall.sizes["y"])
        names = [name for name in small_run.names if name != "fc"]  # the head is not counted anew from raw
        same = wall_chart.prepare(columns(small_run, axis, layers=names))
        np.testing.assert_allclose(wall["share"].sel(layer=names), same["share"], rtol=1e-6)
        assert peaks.equals(
            twin_peaks_chart.prepare(
                small_run,
                axis=LinearAxis(peaks.attrs["h_min"], peaks.attrs["h_max"], peaks.attrs["n_bins"]),
                epochs=[2],
            ).isel(epoch=0)
        )
        assert dict(watched.pictures.facts())["training"] == "27 batches"

    def test_while_an_epoch_trains_the_peaks_are_of_the_one_evaluated_last(self, start, path, watch):
        writer = start()
        watched = watch(path)
        for step, epoch, split, latest in (
            (0, -1, "valid", -1),
            (0, 0, "train", 0),
            (1, 0, "valid", 0),
            (1, 1, "train", 0),
            (2, 1, "valid", 1),
            (2, 2, "train", 1),
        ):
            writer.commit(step, split=split, epoch=epoch)
            wait_for(lambda: look(watched))
            assert watched.pictures.latest == latest
            assert int(watched.pictures.peaks()["epoch"]) == latest

    def test_of_a_run_read_in_parts_are_those_of_the_whole(self, start, path, watch):
        writer = start()
        watched = watch(path)
        for first in range(0, 40, 5):
            writer.commit(*range(first, first + 5))
            assert look(watched)
            assert not look(watched)
            watched.pictures.wall(), watched.pictures.layer("fc")
        whole = watch(path)
        found, wanted = watched.growing.train, whole.growing.train
        np.testing.assert_array_equal(*(each.columns.sums([0, 1, 2], slice(40)) for each in (found, wanted)))
        for name in ("n", "mean", "std", "nonfinite", "zeros"):
            np.testing.assert_array_equal(found.of(name), wanted.of(name))
        np.testing.assert_array_equal(found.logs["loss"], wanted.logs["loss"])
        assert watched.pictures.peaks().identical(whole.pictures.peaks())
        # A range that is wide enough stays, so that pictures stand still.
        assert watched.pictures.wall().attrs["h_max"] >= whole.pictures.wall().attrs["h_max"]
        run = open_run(path)
        for split, totals in watched.growing.totals.items():
            np.testing.assert_array_equal(totals, run.totals(split))

    def test_of_an_earlier_epoch(self, start, path, watch):
        start().commit(*range(12))
        watched = watch(path)
        assert [int(watched.pictures.peaks(epoch)["epoch"]) for epoch in (None, 0, 1, 7)] == [2, 0, 1, 2]

    def test_of_nothing_but_nan(self, start, path, watch):
        start().commit(*range(8), value=np.nan)
        watched = watch(path)
        assert watched.pictures.layer("fc").attrs["nonfinite"] == 1
        assert watched.pictures.wall().sizes["layer"] == 3
        assert "infinite or NaN" in watched.pictures.peaks_said(watched.pictures.peaks())
        assert "<svg" in as_html(watched, None)

    def test_without_labels_and_head(self, start, path, watch):
        start(attributes={"head": None}).commit(*range(8), label=False)
        watched = watch(path)
        assert watched.pictures.peaks() is None
        assert watched.pictures.layer("fc") is not None
        assert "<svg" in as_html(watched, None)

    def test_of_a_regression(self, start, path, watch):
        start(attributes={"targets": "float"}).commit(*range(8), label=False)
        one = watch(path).pictures.peaks()
        assert one["yes"].isnull().all()
        assert float(one["curves"].sum()) == pytest.approx(1, abs=0.02)

    def test_of_validation_alone(self, start, path, watch):
        start().commit(0, 1, split="valid", epoch=-1)
        watched = watch(path)
        assert watched.pictures.wall() is None
        assert watched.pictures.layer("fc") is None
        assert watched.pictures.peaks_said(watched.pictures.peaks()).startswith("untrained: ")
        assert watched.pictures.notes() == ["no training was recorded yet: wall and layers are drawn of it"]

    def test_of_odd_names_is_harmless_html(self, start, path, watch):
        names = ("</script><img src=x onerror=alert(1)>", "x" * 300, "fc")
        start().commit(*range(4), names=names)
        html = as_html(watch(path), None)
        assert "<img src=x" not in html
        assert "x" * 300 in html


class TestGrowing:
    def test_waits_for_a_run_that_is_not_there(self, path, start, watch):
        watched = watch(path)
        assert state(watched.growing) == "waiting for the run"
        path.mkdir()  # as it is being made
        assert not look(watched)
        writer = start()
        assert look(watched)
        assert watched.pictures.notes() == ["no batch was recorded yet"]
        writer.commit(0)
        assert look(watched)
        assert watched.growing.train.n_rows == 1
        assert state(watched.growing) == "running"
        writer.close()
        look(watched)
        assert state(watched.growing) == "closed"

    def test_survives_the_kill_of_the_writer_and_its_resume(self, path, killed, start, watch):
        killed(path, *range(10))
        watched = watch(path)
        assert watched.growing.train.n_rows == 10
        assert state(watched.growing).startswith("stopped, or slow: nothing new for ")
        killed(path, 6, 7, resume_step=6, attributes={})
        assert look(watched)
        assert watched.growing.train.n_rows == 8
        start(resume=True).commit(8, 9, 10)
        assert look(watched)
        np.testing.assert_array_equal(watched.growing.totals["train"], open_run(path).totals("train"))
        assert watched.growing.train.place[:, 1].tolist() == [0] * 6 + [1] * 2 + [2] * 3

    def test_reads_another_run_of_that_path_from_its_start(self, path, start, watch):
        first = start()
        first.commit(0, 1, 2)
        watched = watch(path)
        wait_for(lambda: watched.verdict is not None)
        first.close()
        start(overwrite=True).commit(0, 1, 2, seed=1)
        assert look(watched)
        assert watched.verdict is None  # that of the first run says nothing of this one
        np.testing.assert_array_equal(watched.growing.totals["train"], open_run(path).totals("train"))
        wait_for(lambda: watched.verdict is not None)

    def test_a_run_that_is_gone_stays_on_show_with_a_word(self, path, start, watch):
        start().commit(0, 1)
        watched = watch(path)
        path.rename(path.with_name("elsewhere"))
        assert not look(watched)
        assert watched.pictures.notes()[0].endswith("run.zarr: no such run")
        assert watched.pictures.wall() is not None
        path.with_name("elsewhere").rename(path)
        look(watched)
        assert watched.pictures.notes() == []

    def test_refuses_what_is_no_run(self, tmp_path):
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder" / "more").mkdir(parents=True)
        with pytest.raises(StoreError, match="is a file, expected the directory of a run"):
            Growing(tmp_path / "file")
        with pytest.raises(StoreError, match="is no run"):
            Growing(tmp_path / "folder")

    def test_is_judged_beside(self, path, start, watch):
        writer = start()
        writer.commit(*range(8))
        watched = watch(path)
        wait_for(lambda: watched.verdict is not None)
        writer.commit(8, value=np.nan)
        writer.close()
        look(watched)
        wait_for(lambda: watched.is_over)
        assert "nan_inf" in [each.rule for group in watched.verdict for each in group.every]


def test_outside_a_notebook_the_function_says_what_to_do():
    said = r"in a terminal run `actlab watch runs/mnist\.zarr`, over ssh with --text"
    with pytest.raises(ActlabError, match=said):
        actlab.watch("runs/mnist.zarr")
