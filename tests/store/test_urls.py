"""Paths and URLs as text: told apart, taken apart, and their neighbours."""

from pathlib import Path

import pytest

from actlab.errors import StoreError
from actlab.store.files import expand
from actlab.store.urls import is_url, name_of, split_url, with_name


@pytest.mark.parametrize("url", ["s3://b/x", "GS://b/x", "memory://x", "ftp://host/x"])
def test_urls_are_known(url):
    assert is_url(url)


@pytest.mark.parametrize(
    "path", ["runs/x", "/x", "~/x", "C:/x", "a:b", "file:///x", Path("s3://b/x"), "://x", ""]
)
def test_paths_are_known(path):
    assert not is_url(path)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://bucket/runs/mnist.zarr", ("s3", "bucket", "runs/mnist.zarr")),
        ("S3://bucket/mnist.zarr/", ("s3", "bucket", "mnist.zarr")),
        ("az://container/a b/ä#?%20.zarr", ("az", "container", "a b/ä#?%20.zarr")),
        ("memory://mnist.zarr", ("memory", "", "mnist.zarr")),
        ("memory:///runs/mnist.zarr", ("memory", "", "runs/mnist.zarr")),
    ],
)
def test_a_url_has_three_parts(url, parts):
    assert split_url(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3://bucket",
        "s3://bucket/",
        "s3:///x",
        "memory://",
        "gs://b/a//x",
        "s3://b/../x",
        "s3://b/.",
    ],
)
def test_a_url_without_a_run_is_refused(url):
    with pytest.raises(StoreError, match=r"names no run, expected (s3|gs|memory)://\S*name\.zarr$"):
        split_url(url)


@pytest.mark.parametrize("url", ["ftp://host/x", "http://host/x"])
def test_other_places_are_refused(url):
    with pytest.raises(
        StoreError, match=r"is no store for a run, expected s3://, gs://, az://, memory:// or a path$"
    ):
        split_url(url)


@pytest.mark.parametrize(
    ("path", "name", "other"),
    [
        ("s3://bucket/runs/mnist.zarr", "mnist.zarr", "s3://bucket/runs/x"),
        ("s3://bucket/runs/mnist.zarr/", "mnist.zarr", "s3://bucket/runs/x"),
        ("memory://mnist.zarr", "mnist.zarr", "memory://x"),
        ("mnist.zarr", "mnist.zarr", "x"),
        (Path("~/runs/mnist.zarr"), "mnist.zarr", "~/runs/x"),
    ],
)
def test_neighbours(path, name, other):
    assert name_of(path) == name
    assert with_name(path, "x") == other


def test_a_file_url_is_a_path():
    assert expand("file:///runs/my%20run.zarr") == Path("/runs/my run.zarr")


def test_a_path_made_of_a_url_is_refused():
    with pytest.raises(
        StoreError, match=r"^s3:/bucket/x: was a URL, expected it as text: a Path drops a slash$"
    ):
        expand(Path("s3://bucket/x"))
