"""A branch: the rows that were live at a step, as a run of its own to go on in."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import xarray as xr
import zarr

import actlab
from actlab.errors import StoreError
from actlab.store.branching import branch
from actlab.store.compacting import compact


@pytest.fixture
def out(tmp_path):
    return tmp_path / "branch.zarr"


@pytest.fixture
def resumed(record, start, later, add_side):
    """Record 12 steps, go on at step 6 with 4 others, at step 8 with 3: [0 .. 5, 6' 7', 8'' 9'' 10'']."""

    def run():
        record()
        for begin, end, logs in ((6, 10, ("first",)), (8, 11, ("second",))):
            writer = start(resume=True, resume_step=begin)
            for step in range(begin, end):
                writer.append(add_side(later(step, layers=5, logs=logs), labels="index"))
                if step % 3 == 2:
                    writer.append(later(step // 3, "valid", layers=5, logs=logs))
            writer.close()

    return run


def live(path, split, upto):
    """Return a split as open_run shows it, up to a train_step, without what tells the runs apart."""
    found = actlab.open_run(path)[split]
    is_before = found.train_step < upto if split == "train" else found.train_step <= upto
    return found.isel(step=is_before.values).drop_vars(["attempt", "row_crc32c"]).load()


@pytest.mark.parametrize("step", [None, 10, 8, 7, 4, 0])
def test_a_branch_has_the_rows_live_at_a_step(path, out, resumed, step):
    resumed()
    assert branch(path, out, step=step) == str(out)
    new = actlab.open_run(out, verify="rows")
    upto = 11 if step is None else step
    for split in ("train", "valid"):
        expected = live(path, split, upto)
        assert (split in new.splits) == (expected.sizes["step"] > 0)
        if split in new.splits:
            known = new[split].layer.values
            found = live(out, split, upto)
            # A layer or a log that no row has does not come along.
            expected = expected.sel(layer=known)[list(found)]
            xr.testing.assert_identical(found, expected)
            assert not new[split].attempt.any()
    parent = actlab.open_run(path).attributes
    assert new.attributes["parent"] == {
        "run_id": parent["run_id"],
        "path": str(path),
        "rows": new.attributes["rows"],
        "train_step": upto,
    }
    assert new.attributes["run_id"] != parent["run_id"]
    assert new.attributes["attempts"] == [0]


def test_a_branch_has_the_side_data_of_its_rows(path, out, record, stored_rows, stored_side, fingerprint):
    record()
    branch(path, out, step=8)
    trees = [xr.open_datatree(each, engine="zarr", decode_times=False) for each in (path, out)]
    before, after = ({(row.split, row.step): row for row, _, _ in stored_rows(each)} for each in (path, out))
    assert len(after) == 8 + 2
    for place, row in after.items():
        found = [stored_side(each, tree) for each, tree in zip((before[place], row), trees, strict=True)]
        for each in found:
            assert each.channels is None or each.channels.n.any()
        ours, theirs = ([*_side(each)] for each in found)
        assert ours == theirs
        assert fingerprint(row)[:6] == fingerprint(before[place])[:6]


def _side(row):
    for kind in ("channels", "head_counts", "label_moments"):
        block = getattr(row, kind)
        if block is not None:
            yield from (
                getattr(block, name).tobytes() for name in ("n", "mean", "counts") if hasattr(block, name)
            )
    for layer, kept in sorted(row.samples.items()):
        yield from (layer, kept.values.tobytes(), kept.index.tobytes(), kept.label.tobytes())


def test_a_branch_is_gone_on_with(path, out, record, small_axis, later):
    from actlab.store.writer import RunWriter

    record()
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    branch(path, out, step=8)
    writer = RunWriter(out, axis=small_axis, attributes={}, resume=True, fsync=False)
    assert writer.resumed.steps == {"train": 8, "valid": 2}
    for step in range(8, 10):
        assert writer.append(later(step, layers=5, logs=("other",)))
    writer.close()
    run = actlab.open_run(out, verify="rows")
    assert run["train"].step.values.tolist() == [*range(10)]
    assert run.attributes["parent"]["train_step"] == 8
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_gaps_before_the_branch_come_along(path, out, start, later):
    writer = start()
    for step in range(12):
        row = later(step)
        broken = replace(row, counts=row.counts[:2])
        with pytest.warns(RuntimeWarning, match="dropped") if step == 4 else nullcontext():
            writer.append(broken if step in (4, 7, 8, 11) else row)
    writer.close()
    branch(path, out, step=8)
    assert actlab.open_run(out).gaps == {"train": [[4, 4], [7, 7]]}


def test_a_compacted_run_is_branched(path, out, record, tmp_path):
    record()
    compact(path, tmp_path / "small.zarr")
    branch(tmp_path / "small.zarr", out)
    run = actlab.open_run(out, verify="rows")
    assert "compacted" not in run.attributes
    for split in run.splits:
        xr.testing.assert_identical(run[split].load(), actlab.open_run(path)[split].load())


def test_an_empty_run_is_branched(path, out, start):
    start().close()
    branch(path, out)
    assert actlab.open_run(out).attributes["parent"]["train_step"] == 0


@pytest.mark.parametrize("step", [-1, 13, 10**9])
def test_a_step_that_the_run_does_not_have_is_refused(path, out, record, step):
    record()
    with pytest.raises(StoreError, match=f"has train_steps 0 to 12, no {step} to branch at"):
        branch(path, out, step=step)
    assert not out.exists()


def test_a_damaged_row_is_not_branched(path, out, record):
    record()
    zarr.open_group(path, mode="r+")["train/mean"][5, 1] = 42.0
    with pytest.raises(StoreError, match="step 5 of train is not as it was recorded"):
        branch(path, out)
    branch(path, out, step=5)
