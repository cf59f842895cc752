"""Where a run is read from: a directory, an archive; the same bytes, and nothing from elsewhere."""

import os
import pickle
import socket
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from actlab.errors import StoreError
from actlab.store.sources import LARGEST_READ, LocalSource, ZipSource, find_source

FILES = {"zarr.json": b"{}", "train/step/c.0": bytes(range(100)), "train/raw/head/c.0.0": b"head" * 50_000}


@pytest.fixture
def directory(tmp_path):
    for name, data in FILES.items():
        (tmp_path / "run.zarr" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run.zarr" / name).write_bytes(data)
    return tmp_path / "run.zarr"


@pytest.fixture
def archive(tmp_path):
    """Return a function that makes an archive of folders of files."""

    def make(*folders, compression=zipfile.ZIP_STORED):
        path = tmp_path / f"run{len(folders)}.zarr.zip"
        with zipfile.ZipFile(path, "w", compression) as made:
            for folder in folders:
                for name, data in FILES.items():
                    made.writestr(folder + name, data)
        return path

    return make


@pytest.fixture(params=["directory", "stored", "deflated", "in a folder"])
def source(request, directory, archive):
    compression = zipfile.ZIP_DEFLATED if request.param == "deflated" else zipfile.ZIP_STORED
    folder = "run.zarr/" if request.param == "in a folder" else ""
    path = directory if request.param == "directory" else archive(folder, compression=compression)
    return find_source(path)


class TestAnySource:
    @pytest.mark.parametrize("name", FILES)
    def test_reads_whole_files(self, name, source):
        assert source.read(name) == FILES[name]

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 1), (3, 7), (90, 200), (200, 300), (-4, None), (-200, None), (0, 0), (5, 2)]
    )
    def test_reads_parts(self, start, stop, source):
        data = FILES["train/step/c.0"]
        expected = data[max(start, -100) :] if start < 0 else data[start:stop]
        assert source.read("train/step/c.0", start, stop) == expected

    def test_a_missing_file(self, source):
        with pytest.raises(FileNotFoundError):
            source.read("train/step/c.1")
        with pytest.raises(FileNotFoundError):
            source.read("nowhere/c.1")

    def test_lists_files_with_their_sizes(self, source):
        assert source.sizes() == {name: len(data) for name, data in FILES.items()}
        assert source.sizes("train/raw") == source.sizes("train/raw/") == {"head/c.0.0": 200_000}
        assert source.sizes("train/r") == {}
        assert source.exists()

    def test_is_read_by_several_threads_and_in_other_processes(self, source):
        again = pickle.loads(pickle.dumps(source))
        assert again.label == source.label
        with ThreadPoolExecutor(4) as pool:
            read = [
                pool.submit(each.read, name) for _ in range(20) for each in (source, again) for name in FILES
            ]
            assert [each.result() for each in read] == [*FILES.values()] * 40


@pytest.mark.parametrize("name", ["run.zarr", "run1.zarr.zip"])
def test_a_relative_path_is_meant_from_where_it_was_given(directory, archive, tmp_path, monkeypatch, name):
    archive("")
    monkeypatch.chdir(tmp_path)
    source = find_source(name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert source.label == name
    for each in (source, pickle.loads(pickle.dumps(source))):
        assert each.read("train/step/c.0") == FILES["train/step/c.0"]


class TestLocalSource:
    def test_what_is_no_file_is_refused_at_once(self, directory):
        os.mkfifo(directory / "pipe")
        (directory / "link").symlink_to("/dev/zero")
        (directory / "inside").symlink_to(directory / "zarr.json")
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(directory / "socket"))
        server.close()
        source = LocalSource(directory)
        for name in ("pipe", "link", "inside", "socket", "train"):
            with pytest.raises(StoreError, match=f"^{name} is no regular file$"):
                source.read(name)
        assert source.sizes().keys() == FILES.keys()

    def test_a_file_behind_a_link_to_a_directory(self, directory):
        (directory / "train").rename(directory.with_name("elsewhere"))
        (directory / "train").symlink_to(directory.with_name("elsewhere"))
        with pytest.raises(StoreError, match="'train/step' is no directory"):
            LocalSource(directory).read("train/step/c.0")
        assert LocalSource(directory).sizes().keys() == {"zarr.json"}

    def test_the_run_itself_may_be_a_link(self, directory):
        link = directory.with_name("link.zarr")
        link.symlink_to(directory)
        assert LocalSource(link).read("zarr.json") == b"{}"

    def test_not_more_than_so_much_at_once(self, directory):
        with (directory / "large").open("wb") as file:
            file.truncate(LARGEST_READ + 1)
        with pytest.raises(StoreError, match="larger than 512 MiB"):
            LocalSource(directory).read("large")
        assert LocalSource(directory).read("large", -3) == bytes(3)

    def test_a_directory_without_end(self, directory):
        deep = directory
        for _ in range(50):
            deep /= "d"
            deep.mkdir()
        (deep / "file").write_bytes(b"")
        assert LocalSource(directory).sizes().keys() == FILES.keys()

    def test_what_lies_beside(self, directory):
        assert LocalSource(directory).beside("run.rank1.zarr").label == str(
            directory.with_name("run.rank1.zarr")
        )
        assert not LocalSource(directory).beside("run.rank1.zarr").exists()


class TestZipSource:
    def test_ranks_have_folders_of_their_own(self, archive):
        source = find_source(archive("run.zarr/", "run.rank1.zarr/"))
        assert source.label.endswith("run2.zarr.zip/run.zarr")
        other = source.beside("run.rank1.zarr")
        assert other.read("zarr.json") == b"{}"
        assert other.label.endswith("run2.zarr.zip/run.rank1.zarr")
        assert pickle.loads(pickle.dumps(other)).label == other.label
        assert not source.beside("run.rank2.zarr").exists()

    def test_several_runs(self, archive):
        path = archive("a.zarr/", "b.zarr/")
        with pytest.raises(StoreError, match="is an archive of 2 runs, expected one") as error:
            find_source(path)
        assert str(error.value).startswith(f"{path}: ")

    def test_a_member_that_is_damaged(self, archive):
        path = archive("")
        path.write_bytes(path.read_bytes().replace(b"headhead", b"headache", 1))
        with pytest.raises(StoreError, match=r"'train/raw/head/c\.0\.0' is damaged in the archive"):
            ZipSource(path).read("train/raw/head/c.0.0")

    def test_a_member_beyond_the_end(self, archive):
        path = archive("")
        data = bytearray(path.read_bytes())
        place = data.index(b"PK\1\2")
        data[place + 42 : place + 46] = len(data).to_bytes(4, "little")
        path.write_bytes(data)
        with pytest.raises(StoreError, match=r"is no sound archive: 'zarr\.json' lies beyond its end"):
            find_source(path)

    def test_an_archive_that_is_cut_while_it_is_read(self, archive):
        path = archive("")
        source = find_source(path)
        path.write_bytes(b"")
        with pytest.raises(
            StoreError, match=r"'zarr\.json' is not where the directory of the archive has it"
        ):
            source.read("zarr.json")

    def test_keeps_the_archive_that_it_opened(self, archive):
        path = archive("")
        source = find_source(path)
        path.unlink()
        assert source.read("zarr.json") == b"{}"

    def test_inflates_no_more_than_is_asked_for(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("zarr.json", bytes(50 << 20))
        assert find_source(tmp_path / "x.zip").read("zarr.json", stop=10) == bytes(10)


class TestFindSource:
    def test_a_file_that_is_no_archive_is_left_to_the_reader(self, tmp_path):
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(NotADirectoryError):
            find_source(tmp_path / "notes.txt").read("zarr.json")

    def test_a_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(NotADirectoryError):
            find_source(tmp_path / "pipe").read("zarr.json")

    def test_nothing(self, tmp_path):
        assert not find_source(tmp_path / "nothing").exists()
