"""Object stores: one writer at a time without a lock, what is refused, what is read."""

import json
import multiprocessing
import pickle
import subprocess
import sys
import threading

import pytest

from actlab.errors import StoreError
from actlab.store import objects
from actlab.store.layout import ROOT, root_record
from actlab.store.objects import ObjectDirectory, ObjectSource


def record(writer, commit=1, **more):
    return root_record({"writer": writer, "commit": commit, **more}, {})


def said(data):
    return json.loads(data)["attributes"]["actlab"]


@pytest.fixture(params=["s3", "memory"])
def url(request):
    """The URL of a run, on a server and in memory."""
    return request.getfixturevalue(request.param) + "/runs/my run.zarr"


@pytest.fixture
def begin(url):
    """Return a function that starts a run whose first commit has one chunk."""

    def start(writer="one"):
        directory = ObjectDirectory(url, "new")
        directory.write(ROOT, record(writer, 1))
        directory.write("train/step/c.0", b"a")
        directory.write(ROOT, record(writer, 2))
        return directory

    return start


def contents(url):
    source = ObjectSource(url)
    return {name: source.read(name) for name in source.sizes()}


class TestWhatIsThereAlready:
    def test_a_run_is_kept_replaced_or_gone_on_with(self, url, begin):
        begin()
        with pytest.raises(StoreError, match=r"holds a run already; overwrite=True replaces it, resume=True"):
            ObjectDirectory(url, "new")
        assert ObjectDirectory(url, "resume").read("train/step/c.0") == b"a"
        assert said(contents(url)[ROOT])["writer"] == "one"
        new = ObjectDirectory(url, "replace")
        assert list(contents(url)) == [ROOT]
        new.write(ROOT, record("two"))
        assert contents(url) == {ROOT: record("two")}

    def test_nothing_is_as_good_as_a_folder_made_in_a_console(self, url):
        objects.Bucket(url.rpartition("/")[0]).put("my run.zarr/", b"", None)
        for mode in ("new", "replace", "resume"):
            ObjectDirectory(url, mode).release()
        assert contents(url) == {}

    @pytest.mark.parametrize("mode", ["new", "replace", "resume"])
    @pytest.mark.parametrize("name", ["train/cat.jpg", "zarr.json"])
    def test_what_is_no_run_is_refused(self, url, mode, name):
        objects.Bucket(url).put(name, b"{}", None)
        with pytest.raises(
            StoreError, match=r"my run\.zarr: exists, and is no actlab run; nothing was changed"
        ):
            ObjectDirectory(url, mode)
        assert contents(url) == {name: b"{}"}

    def test_a_run_that_holds_something_else_is_not_replaced(self, url, begin):
        begin()
        objects.Bucket(url).put("notes.txt", b"mine", None)
        before = contents(url)
        with pytest.raises(StoreError, match=r"holds 'notes\.txt', which is no part of a run; nothing was"):
            ObjectDirectory(url, "replace")
        assert contents(url) == before

    def test_a_run_beside_is_another_one(self, url, begin):
        begin()
        ObjectDirectory(url + "2", "new").write(ROOT, record("two"))
        ObjectDirectory(url.removesuffix(".zarr"), "new").write(ROOT, record("three"))
        ObjectDirectory(url, "replace")
        assert said(contents(url + "2")[ROOT])["writer"] == "two"

    def test_a_crash_while_replacing_leaves_an_empty_run(self, url, begin, monkeypatch):
        begin()

        def crash(bucket, names):
            raise OSError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(objects.Bucket, "delete", crash)
            with pytest.raises(StoreError, match="killed"):
                ObjectDirectory(url, "replace")
        assert said(contents(url)[ROOT])["rows"] == {}
        resumed = ObjectDirectory(url, "resume")
        resumed.write(ROOT, record("two"))
        resumed.write("train/step/c.0", b"b")
        assert contents(url) == {ROOT: record("two"), "train/step/c.0": b"b"}


class TestTwoWriters:
    def test_of_two_that_begin_one_is_refused(self, url):
        one, two = ObjectDirectory(url, "new"), ObjectDirectory(url, "new")
        one.write(ROOT, record("one"))
        with pytest.raises(StoreError, match=r"^\S+/my run\.zarr: another writer took over this run$"):
            two.write(ROOT, record("two"))
        one.write("train/step/c.0", b"a")
        assert contents(url) == {ROOT: record("one"), "train/step/c.0": b"a"}

    def test_a_chunk_before_the_first_commit_is_never_put_over(self, url):
        one, two = ObjectDirectory(url, "new"), ObjectDirectory(url, "new")
        one.write("train/step/c.0", b"one")
        with pytest.raises(StoreError, match="is being written by another recorder"):
            two.write("train/step/c.0", b"two")
        one.write(ROOT, record("one"))
        assert contents(url) == {ROOT: record("one"), "train/step/c.0": b"one"}

    @pytest.mark.parametrize("mode", ["replace", "resume"])
    def test_the_former_one_is_told_by_whatever_it_does_next(self, url, begin, mode):
        for stale in (
            lambda old: old.check_writer("one"),
            lambda old: old.write("train/step/c.0", b"stale"),
            lambda old: old.write(ROOT, record("one", 3)),
            lambda old: old.write("train/zarr.json", b"stale"),
        ):
            objects.Bucket(url).delete(list(contents(url)))
            old = begin()
            old.write("train/zarr.json", b"1")
            new = ObjectDirectory(url, mode)
            new.write(ROOT, record("two", 3))
            new.write("train/step/c.0", b"ab")
            new.write("train/zarr.json", b"2")
            before = contents(url)
            with pytest.raises(StoreError, match="another writer took over this run"):
                stale(old)
            assert contents(url) == before

    def test_a_late_chunk_is_replaced_by_the_one_who_goes_on(self, url, begin):
        old = begin()
        new = ObjectDirectory(url, "resume")
        assert (new.read("train/step/c.0"), said(new.read(ROOT))["commit"]) == (b"a", 2)
        new.write(ROOT, record("two", 3))
        # What the former one puts now was decided before; it still holds the committed rows.
        old.write("train/step/c.0", b"a, late")
        old.write("train/step/c.1", b"late")
        new.write("train/step/c.0", b"ab")
        new.write("train/step/c.1", b"c")
        new.write(ROOT, record("two", 4))
        after = {ROOT: record("two", 4), "train/step/c.0": b"ab", "train/step/c.1": b"c"}
        assert contents(url) == after
        with pytest.raises(StoreError, match="another writer took over this run"):
            old.write("train/step/c.1", b"later")
        assert contents(url) == after

    def test_who_goes_on_names_himself_before_he_puts_over_anything(self, url, begin):
        old = begin()
        new = ObjectDirectory(url, "resume")
        old.write("train/step/c.0", b"ab")
        old.write(ROOT, record("one", 3))
        with pytest.raises(StoreError, match="another writer took over this run"):
            new.write("train/step/c.0", b"a")
        assert contents(url) == {ROOT: record("one", 3), "train/step/c.0": b"ab"}
        third = ObjectDirectory(url, "resume")
        third.write("train/step/c.0", b"abc")
        with pytest.raises(StoreError, match="another writer took over this run"):
            old.write(ROOT, record("one", 4))
        assert said(contents(url)[ROOT])["commit"] == 3

    def test_a_record_that_somebody_edited_is_put_back(self, url, begin):
        directory = begin()
        objects.Bucket(url).delete([ROOT])
        objects.Bucket(url).put(ROOT, record("one", 1, note="edited"), None)
        directory.check_writer("one")
        directory.write(ROOT, record("one", 3))
        assert contents(url)[ROOT] == record("one", 3)

    def test_a_run_that_was_removed_stays_so(self, url, begin):
        directory = begin()
        objects.Bucket(url).delete([ROOT, "train/step/c.0"])
        for call in (
            lambda: directory.check_writer("one"),
            lambda: directory.write(ROOT, record("one", 3)),
            lambda: directory.write("train/step/c.0", b"ab"),
        ):
            with pytest.raises(StoreError, match="the run was removed while it was being recorded"):
                call()
        assert contents(url) == {}


class TestAFaultyNetwork:
    @pytest.fixture
    def directory(self, s3, proxy):
        self.url = f"{s3}/run.zarr"
        directory = ObjectDirectory(self.url, "new")
        directory.write(ROOT, record("one", 1))
        return directory

    @pytest.mark.parametrize("kind", ["fail", "lose"])
    @pytest.mark.parametrize("times", [1, 2])
    def test_what_was_put_without_an_answer_is_ours(self, directory, proxy, kind, times):
        for name, versions in (
            ("train/step/c.0", (b"a", b"ab")),
            (ROOT, (record("one", 2), record("one", 3))),
        ):
            for data in versions:
                proxy.fail(kind, times, name=name)
                directory.write(name, data)
                proxy.calm()
                assert ObjectSource(self.url).read(name) == data
        directory.check_writer("one")

    @pytest.mark.parametrize("kind", ["fail", "lose"])
    def test_an_outage_is_an_os_error_and_may_be_tried_again(self, directory, proxy, kind):
        for name, data in (("train/step/c.0", b"a"), (ROOT, record("one", 2))):
            proxy.fail(kind, 9, name=name)
            with pytest.raises(OSError, match=r"S3 error: Error performing PUT [^\n]+$") as error:
                directory.write(name, data)
            assert not isinstance(error.value, StoreError)
            proxy.calm()
            directory.check_writer("one")
            directory.write(name, data)
        assert contents(self.url) == {ROOT: record("one", 2), "train/step/c.0": b"a"}

    def test_the_first_commit_may_be_lost_as_well(self, s3, proxy):
        directory = ObjectDirectory(f"{s3}/run.zarr", "new")
        proxy.fail("lose", 2, name=ROOT)
        directory.write(ROOT, record("one", 1))
        directory.write(ROOT, record("one", 2))
        assert contents(f"{s3}/run.zarr") == {ROOT: record("one", 2)}

    def test_a_put_that_comes_late_changes_nothing(self, directory, proxy, monkeypatch):
        monkeypatch.setenv("AWS_TIMEOUT", "300ms")
        new = ObjectDirectory(self.url, "resume")
        new.write(ROOT, record("two", 2))
        new.write("train/step/c.0", b"a")
        proxy.fail("hang", 1, name="c.0")
        with pytest.raises(OSError, match=r"\(Timeout\)"):
            new.write("train/step/c.0", b"ab")
        new.write("train/step/c.0", b"abc")
        proxy.passed = threading.Semaphore(0)
        proxy.wake.set()
        assert proxy.passed.acquire(timeout=10)
        assert ObjectSource(self.url).read("train/step/c.0") == b"abc"

    def test_a_store_that_never_answers_is_an_os_error(self, directory, proxy, monkeypatch):
        monkeypatch.setenv("AWS_TIMEOUT", "100ms")
        proxy.fault = lambda method, name: "mute"
        with pytest.raises(StoreError, match=r"^s3://\S+/run\.zarr: S3 error: [^\n]+\(Timeout\)$"):
            ObjectDirectory(self.url, "resume")
        with pytest.raises(OSError, match="Timeout"):
            ObjectSource(self.url).read(ROOT)

    @pytest.mark.parametrize("mode", ["new", "replace", "resume"])
    def test_a_closed_port_is_one_line(self, s3, monkeypatch, mode):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreError, match=r"^s3://\S+/run\.zarr: S3 error: [^\n]+\(Connection refused\)$"):
            ObjectDirectory(f"{s3}/run.zarr", mode)

    @pytest.mark.parametrize("mode", ["new", "replace", "resume"])
    def test_a_bucket_that_is_not_there_is_named_as_the_reason(self, s3, mode):
        with pytest.raises(StoreError, match=r"^s3://\S+/run\.zarr: [^\n]+NoSuchBucket[^\n]*$"):
            ObjectDirectory(f"{s3}-none/run.zarr", mode)

    def test_a_store_that_ignores_conditions_is_refused(self, s3, monkeypatch):
        monkeypatch.setattr(objects.Bucket, "put", lambda self, name, data, _: _overwrite(self, name, data))
        directory = ObjectDirectory(f"{s3}/run.zarr", "new")
        with pytest.raises(
            StoreError, match=r"this store has no conditional puts \(If-Match, If-None-Match\)"
        ):
            directory.write(ROOT, record("one"))


def _overwrite(bucket, name, data):
    import obstore

    return dict(obstore.put(bucket._store, bucket._path(name), data, mode="overwrite"))


class TestReading:
    @pytest.fixture
    def source(self, url):
        bucket = objects.Bucket(url)
        for name in (ROOT, "train/step/c.0", "train/step/c.1", "training/step/c.0"):
            bucket.put(name, b"0123456789", None)
        return ObjectSource(url)

    @pytest.mark.parametrize("is_listed", [False, True])
    def test_parts_are_those_of_a_file(self, source, is_listed):
        parts = [(0, None), (0, 3), (4, None), (4, 7), (8, 99), (-3, None), (-99, None), (20, None), (5, 5)]
        if is_listed:
            source.sizes()
            parts.append((20, 25))
        for start, stop in parts:
            assert source.read("train/step/c.0", start, stop) == b"0123456789"[start:stop], (start, stop)

    def test_what_is_missing_is_said(self, source):
        for part in ((), (2, 5), (-3,)):
            with pytest.raises(FileNotFoundError):
                source.read("train/step/c.7", *part)

    def test_too_much_is_not_loaded(self, source, monkeypatch):
        monkeypatch.setattr(objects, "LARGEST_READ", 9)
        for part in ((), (0, 10), (-10,)):
            with pytest.raises(StoreError, match=r"'train/step/c\.0' is larger than"):
                source.read("train/step/c.0", *part)
        assert source.read("train/step/c.0", 1) == b"123456789"

    def test_sizes_are_those_below(self, source):
        assert source.sizes("train") == {"step/c.0": 10, "step/c.1": 10}
        assert source.sizes("train/step") == {"c.0": 10, "c.1": 10}
        assert set(source.sizes()) == {ROOT, "train/step/c.0", "train/step/c.1", "training/step/c.0"}
        assert source.sizes("valid") == {}

    def test_a_listing_is_as_new_as_the_record(self, source, url):
        assert len(source.sizes()) == 4
        objects.Bucket(url).put("train/step/c.2", b"", None)
        assert len(source.sizes()) == 4
        source.read(ROOT)
        assert len(source.sizes()) == 5

    def test_the_neighbour_and_the_missing(self, source, url):
        assert source.exists()
        assert source.label == url
        other = source.beside("my run.rank1.zarr")
        assert other.label == url.replace("my run", "my run.rank1")
        assert not other.exists()

    def test_a_source_can_be_pickled(self, source):
        assert pickle.loads(pickle.dumps(source)).sizes() == source.sizes()

    def test_a_run_of_many_objects_takes_one_listing(self, s3, proxy):
        bucket = objects.Bucket(f"{s3}/run.zarr")
        for number in range(30):
            bucket.put(f"train/array{number}/c.0", b"", None)
        source = ObjectSource(f"{s3}/run.zarr")
        proxy.calm()
        for number in range(30):
            assert source.sizes(f"train/array{number}") == {"c.0": 0}
        assert len(proxy.requests) == 1


def test_a_forked_process_is_told_instead_of_waiting(s3):
    def ask(pipe):
        try:
            ObjectSource(f"{s3}/run.zarr").exists()
        except OSError as error:
            pipe.send(str(error))

    assert not ObjectSource(f"{s3}/run.zarr").exists()
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=ask, args=(there,))
    child.start()
    assert here.poll(20)
    assert here.recv().startswith("object stores cannot be reached from a forked process")
    child.join()


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("gs://bucket/runs/mnist.zarr", {}),
        (
            "az://container/runs/mnist.zarr",
            {"AZURE_STORAGE_ACCOUNT_NAME": "me", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"},
        ),
    ],
)
def test_other_clouds_are_known(url, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    source = ObjectSource(url)
    assert source.label == url
    assert source.beside("mnist.rank1.zarr").label == url.replace("mnist", "mnist.rank1")


def test_an_account_that_is_not_said_is_one_line(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(
        StoreError, match=r"^az://container/mnist\.zarr: [^\n]*Account must be specified[^\n]*$"
    ):
        ObjectSource("az://container/mnist.zarr")


def test_credentials_that_are_not_said_are_named_as_the_reason(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"run\.zarr: no credentials in the environment, [^\n]+refused\)$"):
        ObjectDirectory("s3://bucket/run.zarr", "new")


def test_a_missing_package_names_the_pip_line():
    code = "import sys; sys.modules['obstore'] = None\nfrom actlab.store.files import open_directory\n"
    found = subprocess.run(
        [sys.executable, "-c", code + "open_directory('s3://bucket/mnist.zarr', 'new')"],
        capture_output=True,
        text=True,
        check=False,
    )
    message = "a run in an object store needs the package obstore: pip install 'actlab[s3]'"
    assert found.stderr.strip().endswith(f"MissingDependencyError: {message}")
