"""Whole recordings to an object store: equal to local ones, through kills, outages and second writers."""

import random
import runpy
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import actlab
from actlab.cli import main
from actlab.errors import StoreError
from actlab.store import writer as writer_module
from actlab.store.bucket import Bucket
from actlab.store.compacting import compact
from actlab.store.layout import ROOT
from actlab.store.objects import ObjectSource
from actlab.store.writer import RunWriter

PROGRAM = Path(__file__).with_name("one_writer.py")
ONE_WRITER = runpy.run_path(str(PROGRAM))


@pytest.fixture
def download(tmp_path):
    """Return a function that copies a run to a local directory, for those who know no object stores."""

    def copy(url):
        target, source = tmp_path / "copy.zarr", ObjectSource(url)
        for name in source.sizes():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(source.read(name))
        return target

    return copy


def train(path, n=7, after=None, **options):
    """Record a small training, and return its losses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.1), []
    with actlab.Recorder(model, path, flush_every=0.01, **options) as recorder:
        for step in range(n):
            images, labels = torch.randn(16, 1, 6, 6), torch.arange(16) % 3
            with recorder.batch("train", epoch=step // 4, labels=labels):
                loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.log(loss=loss.detach())
            losses.append(loss.item())
            if after is not None:
                after(step, recorder)
    return losses


def files_of(source):
    """Return all files of a run but those that hold times or identities."""
    return {
        name: source.read(name)
        for name in source.sizes()
        if name != ROOT and not name.startswith(("train/time/", "train/row_crc32c/"))
    }


class TestOneTraining:
    def test_it_is_stored_as_on_a_disk(self, s3, memory, tmp_path):
        local = tmp_path / "run.zarr"
        train(local)
        expected = {
            path.relative_to(local).as_posix(): path.read_bytes()
            for path in local.rglob("*")
            if path.is_file()
        }
        for url in (f"{s3}/runs/run.zarr", f"{memory}/run.zarr"):
            train(url, on_error="raise")
            found = files_of(ObjectSource(url))
            assert found
            assert found == {name: expected[name] for name in found}
            assert {name.partition("/c.")[0] for name in expected} - {
                name.partition("/c.")[0] for name in found
            } == {ROOT, "train/time", "train/row_crc32c"} | {
                f"train/{name}/{ROOT}" for name in ("time", "row_crc32c")
            }

    def test_it_is_read_as_from_a_disk(self, s3, tmp_path, capsys):
        url = f"{s3}/runs/run.zarr"
        train(tmp_path / "run.zarr", raw=["0"])
        train(url, raw=["0"])
        here, there = actlab.open_run(tmp_path / "run.zarr"), actlab.open_run(url)
        assert there.path == url
        drop = ["time", "row_crc32c"]
        assert there["train"].drop_vars(drop).identical(here["train"].drop_vars(drop))
        assert there.samples("train", "0").identical(here.samples("train", "0"))
        assert main(["info", url]) == 0
        assert url in capsys.readouterr().out

    def test_compacted_and_copied_to_a_bucket_it_is_read_by_ranges(self, s3, proxy, memory, tmp_path):
        train(f"{memory}/run.zarr")
        compact(f"{memory}/run.zarr", tmp_path / "small.zarr")
        bucket = Bucket(f"{s3}/small.zarr")
        for path in (tmp_path / "small.zarr").rglob("*"):
            if path.is_file():
                bucket.put(path.relative_to(tmp_path / "small.zarr").as_posix(), path.read_bytes(), None)
        here, there = actlab.open_run(f"{memory}/run.zarr"), actlab.open_run(f"{s3}/small.zarr")
        proxy.calm()
        layer = there["train"]["counts"].sel(layer="3")
        assert (layer.values == here["train"]["counts"].sel(layer="3").values).all()
        assert 0 < len(proxy.names("GET")) <= 12
        assert there["train"].identical(here["train"])

    @pytest.mark.parametrize("where", ["s3", "memory"])
    def test_it_is_gone_on_with(self, request, where):
        url = request.getfixturevalue(where) + "/run.zarr"
        train(url, 4)
        train(url, 3, resume=True)
        with pytest.raises(StoreError, match="holds a run already"):
            train(url)
        assert actlab.open_run(url)["train"].step.values.tolist() == list(range(7))
        train(url, 2, overwrite=True)
        assert actlab.open_run(url)["train"].step.values.tolist() == [0, 1]

    def test_ranks_lie_side_by_side(self, memory, small_axis, make_row):
        url = f"{memory}/run.zarr"
        for rank, name in enumerate((url, f"{memory}/run.rank1.zarr")):
            said = {"ranks": {"rank": rank, "world_size": 2, "job": "a1"}, "epochs": "given"}
            writer = RunWriter(name, axis=small_axis, attributes=said)
            writer.append(make_row(0))
            writer.close()
        assert actlab.open_run(url)["train"].n.values[0].tolist() == (2 * make_row(0).n).tolist()

    def test_a_commit_is_few_requests(self, s3, proxy, small_axis, make_row):
        writer = RunWriter(f"{s3}/run.zarr", axis=small_axis, attributes={}, flush_every=3600)
        writer.append(make_row(0))
        writer.flush()
        proxy.calm()
        writer.append(make_row(1))
        writer.flush()
        puts = proxy.names("PUT")
        assert len(puts) == len(set(puts))
        assert puts[-1] == ROOT
        assert len(proxy.requests) <= len(puts) + 2  # the root record is looked at twice
        writer.close()


class TestKills:
    def test_what_was_committed_is_there_after_kill_9(self, s3, download, stored_rows, fingerprint):
        url, n_rows = f"{s3}/run.zarr", 400
        generator, acknowledged = random.Random(5), -1
        for life in range(6):
            process = subprocess.Popen(
                [sys.executable, PROGRAM, url, str(n_rows if life < 5 else acknowledged + 30)],
                stdout=subprocess.PIPE,
                text=True,
            )
            if life < 5:
                for _ in range(generator.randint(1, 4)):
                    acknowledged = int(process.stdout.readline())
                time.sleep(generator.random() / 20)
                process.kill()
            else:
                assert process.wait() == 0  # no close: the end of the process is enough
            process.communicate()
            found = stored_rows(download(url))
            steps = [row.step for row, _, _ in found]
            assert steps == list(range(len(steps)))
            assert len(steps) > acknowledged
            for row, _, _ in found:
                assert fingerprint(row) == fingerprint(ONE_WRITER["make_row"](row.step))
        assert len(found) == acknowledged + 30
        assert actlab.open_run(url).attributes["closed"]


class TestOutages:
    def test_no_row_is_lost_by_faults(
        self, s3, proxy, small_axis, make_row, download, stored_rows, fingerprint
    ):
        generator, hits = random.Random(11), []

        def fault(method, name):
            kind = generator.choice(("fail", "lose")) if generator.random() < 0.06 else None
            hits.extend([kind] if kind else [])
            return kind

        writer = RunWriter(f"{s3}/run.zarr", axis=small_axis, attributes={}, flush_every=0)
        proxy.fault = fault
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for step in range(8):
                writer.append(make_row(step))
                writer.flush()
            proxy.calm()
            writer.close()
        assert len(hits) > 5
        found = [row for row, _, _ in stored_rows(download(f"{s3}/run.zarr"))]
        assert [fingerprint(row) for row in found] == [fingerprint(make_row(step)) for step in range(8)]

    @pytest.mark.parametrize("kind", ["fail", "mute"])
    def test_a_training_does_not_notice(self, s3, proxy, tmp_path, kind):
        expected, begun = train(tmp_path / "run.zarr", 12), []

        def cut(step, recorder):
            if step == 2:
                recorder.flush()
                proxy.fault = lambda method, name: kind
                begun.append(time.monotonic())
            elif step == 11:
                assert time.monotonic() - begun[0] < 15  # a request takes 20 s now
                proxy.fault = lambda method, name: None
                proxy.wake.set()

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", RuntimeWarning)
            assert train(f"{s3}/run.zarr", 12, after=cut) == expected
        assert len(told) <= 1, [str(each.message) for each in told]
        assert actlab.open_run(f"{s3}/run.zarr")["train"].step.values.tolist() == list(range(12))

    def test_a_store_that_is_gone_for_good_costs_its_rows(self, s3, proxy, monkeypatch):
        monkeypatch.setattr(writer_module, "_PATIENCE", 0.1)

        def cut(step, recorder):
            if step == 2:
                recorder.flush()
                proxy.fault = lambda method, name: "fail"

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", RuntimeWarning)
            train(f"{s3}/run.zarr", 5, after=cut)
        assert "all rows are lost but train up to step 2" in str(told[-1].message)
        assert len(told) <= 2
        proxy.calm()
        assert actlab.open_run(f"{s3}/run.zarr")["train"].step.values.tolist() == [0, 1, 2]

    def test_a_store_that_does_not_answer_is_one_line(self, s3, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        pattern = rf"^{s3}/run\.zarr: [^\n]+Connection refused\)$"
        with pytest.raises(StoreError, match=pattern):
            train(f"{s3}/run.zarr")
        with pytest.raises(StoreError, match=pattern):
            actlab.open_run(f"{s3}/run.zarr")

    def test_a_run_that_is_not_there_is_one_line(self, s3, memory):
        for url in (f"{s3}/run.zarr", f"{memory}/run.zarr"):
            with pytest.raises(StoreError, match=rf"^{url}: no such run$"):
                actlab.open_run(url)


class TestTwoWriters:
    @pytest.mark.parametrize("where", ["s3", "memory"])
    def test_the_later_one_goes_on_alone(
        self, request, where, small_axis, make_row, download, stored_rows, fingerprint
    ):
        url = request.getfixturevalue(where) + "/run.zarr"
        options = {"axis": small_axis, "attributes": {}, "flush_every": 3600}
        old = RunWriter(url, **options)
        old.append(make_row(0))
        old.flush()
        new = RunWriter(url, resume=True, **options)
        new.append(make_row(11))
        new.flush()
        before = files_of(ObjectSource(url))
        old.append(make_row(1))
        with pytest.warns(RuntimeWarning, match="another writer took over this run; recording has stopped"):
            old.flush()
        old.close()
        assert files_of(ObjectSource(url)) == before
        new.append(make_row(12))
        new.close()
        found = [row for row, _, _ in stored_rows(download(url))]
        assert [fingerprint(row) for row in found] == [fingerprint(make_row(step)) for step in (0, 11, 12)]

    def test_of_two_that_begin_one_is_told(self, memory, small_axis):
        first = RunWriter(f"{memory}/run.zarr", axis=small_axis, attributes={})
        with pytest.raises(StoreError, match="holds a run already"):
            RunWriter(f"{memory}/run.zarr", axis=small_axis, attributes={})
        first.close()
