"""Two writers, one interrupted by the other before any of its requests: what is committed stays."""

import json

import pytest

from actlab.errors import StoreError
from actlab.store import objects
from actlab.store.bucket import Bucket
from actlab.store.layout import ROOT, root_record
from actlab.store.objects import ObjectDirectory

CHUNKS = ("train/step/c.0", "train/step/c.1")


class Interrupted:
    """A bucket before whose request number `at` something else happens."""

    def __init__(self, bucket, at, action):
        self._bucket, self._left, self._action = bucket, at, action

    def __getattr__(self, name):
        found = getattr(self._bucket, name)
        if not callable(found):
            return found

        def request(*arguments):
            self._left -= 1
            if self._left == -1:
                self._action()
            return found(*arguments)

        return request

    @property
    def was_interrupted(self):
        return self._left < 0


def record(writer, commit):
    return root_record({"writer": writer, "commit": commit}, {})


def contents(url):
    bucket = Bucket(url)
    return {name: bucket.get(name, 1 << 20)[0] for name in bucket.sizes()}


class Writer:
    """Puts two chunks and commits; `data` says whose chunks they are and of which commit."""

    def __init__(self, name, directory):
        self.name, self.directory, self.lost = name, directory, None

    def commit(self, number):
        if self.lost is None:
            try:
                if number > 1:
                    self.directory.check_writer(self.name)
                for chunk in CHUNKS:
                    self.directory.write(chunk, self.data(number))
                self.directory.write(ROOT, record(self.name, number))
            except StoreError as error:
                self.lost = str(error)

    def data(self, number):
        return f"{self.name} {number}".encode()


def take(mode, url):
    """Open a run as a second writer does, who reads it, and puts chunks even before the root record."""
    writer = Writer("two", None)
    try:
        writer.directory = ObjectDirectory(url, mode)
        if mode == "resume":
            for name in (ROOT, CHUNKS[0]):
                writer.directory.read(name)
    except StoreError as error:
        writer.lost = str(error)
    writer.commit(1)
    return writer


def check(url, one, two):
    """Check that one writer is left, and that it finds its own commits whole."""
    assert (one.lost is None) != (two.lost is None), (one.lost, two.lost)
    left = one if one.lost is None else two
    for number in (7, 8):
        if number == 8:
            left.commit(number)
            assert left.lost is None
        found = contents(url)
        said = json.loads(found[ROOT])["attributes"]["actlab"]
        assert said["writer"] == left.name
        assert {found[chunk] for chunk in CHUNKS} == {left.data(said["commit"])}


@pytest.mark.parametrize("mode", ["resume", "replace"])
@pytest.mark.parametrize("is_lost", [False, True])
def test_the_first_one_is_interrupted(memory, mode, is_lost):
    at = 0
    while True:
        url = f"{memory}/{mode}{is_lost}{at}.zarr"
        one = Writer("one", ObjectDirectory(url, "new"))
        one.directory.write(ROOT, record("one", 1))
        one.commit(2)
        if is_lost:  # puts of the commit to come, whose answers were lost
            bucket = Bucket(url)
            for name, data in ((CHUNKS[0], b"one 3, lost"), (ROOT, record("one", 2) + b" ")):
                bucket.put(name, data, bucket.get(name, 1 << 20)[1])
        found = []

        def second(url=url, found=found):
            found.append(take(mode, url))
            found[0].commit(2)

        one.directory._bucket = Interrupted(one.directory._bucket, at, second)
        one.commit(3)
        if not one.directory._bucket.was_interrupted:
            assert at >= 4
            return
        check(url, one, *found)
        at += 1


@pytest.mark.parametrize("mode", ["resume", "replace"])
def test_the_second_one_is_interrupted(memory, monkeypatch, mode):
    at = 0
    while True:
        url = f"{memory}/{mode}{at}.zarr"
        one = Writer("one", ObjectDirectory(url, "new"))
        one.directory.write(ROOT, record("one", 1))
        one.commit(2)
        made = []

        def interrupted(url, one=one, made=made, at=at):
            made.append(Interrupted(Bucket(url), at, lambda: one.commit(3)))
            return made[0]

        with monkeypatch.context() as patch:
            patch.setattr(objects, "Bucket", interrupted)
            two = take(mode, url)
            two.commit(2)
        if not made[0].was_interrupted:
            assert at > 6
            return
        one.commit(4)
        two.commit(4)
        check(url, one, two)
        at += 1


def test_of_two_that_begin_one_is_left(memory):
    at = 0
    while True:
        url = f"{memory}/new{at}.zarr"
        found = []

        def second(url=url, found=found):
            found.append(Writer("two", ObjectDirectory(url, "new")))
            for number in (1, 2):
                found[0].commit(number)

        one = Writer("one", ObjectDirectory(url, "new"))
        one.directory._bucket = Interrupted(one.directory._bucket, at, second)
        for number in (1, 2):
            one.commit(number)
        if not one.directory._bucket.was_interrupted:
            assert at > 6
            return
        at += 1
        if found:  # else the run was there already, and was refused
            check(url, one, *found)
