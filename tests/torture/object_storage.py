"""An S3 server on loopback: kills, lost answers and outages, writers that take a run from each other.

What is stored is copied to a disk by another client and checked there, as all stores are.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from unittest.mock import patch

from tests.torture.common import Checker, Result, as_row, axis, main, scratch
from tests.torture.kills import LIVES, Tally, has_attempt, write_rows
from tests.torture.lives import Attempt, Child, History, Report
from tests.torture.rows import events

BUCKET = "torture"
PUT = (
    "fail",
    "lose",
    "lose",
    None,
)  # what may become of a request that is to go wrong: half were carried out


@contextmanager
def server() -> Iterator[int]:
    """Run an S3 server with an empty bucket, let the environment point to it, and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    try:
        limit = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


class Disk:
    """Another client of the server, which copies runs to a folder."""

    def __init__(self, port: int, folder: Path) -> None:
        import boto3

        self._client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        self._client.create_bucket(Bucket=BUCKET)
        self._folder = folder

    def copy(self, name: str) -> Path:
        """Return where a copy of a run is."""
        target = self._folder / name
        shutil.rmtree(target, ignore_errors=True)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{name}/")
        for key in [entry["Key"] for page in pages for entry in page.get("Contents", [])]:
            (self._folder / key).parent.mkdir(parents=True, exist_ok=True)
            body = self._client.get_object(Bucket=BUCKET, Key=key)["Body"]
            (self._folder / key).write_bytes(body.read())
        return target


def url_of(name: str) -> str:
    """Return where the writers find a run."""
    return f"s3://{BUCKET}/{name}"


def kill_run(
    tally: Tally, checker: Checker, disk: Disk, name: str, chance: random.Random, lives: int
) -> None:
    """Kill the writers of one run, one after the other; see `kills.kill_store`."""
    history, seed = History(), chance.randrange(1 << 30)
    for _ in range(lives):
        how: dict = {"resume": True} if history.attempts or chance.random() < 0.5 else {}
        if history.attempts and chance.random() < 0.5:
            how = {"resume_step": chance.randint(0, history.attempts[-1].end()[0])}
        number, start = history.next(how.get("resume_step"))
        own = random.Random(chance.random())

        def job(report, number=number, start=start, how=how, own=own):
            write_rows(report, url_of(name), seed, number, start, how, own)

        child = Child(job)
        is_alive = child.wait(chance.uniform(0.05, 2.0))
        reports = child.kill()
        path = disk.copy(name)
        if not is_alive and child.status != -9:
            tally.result.lost += 1
            tally.note(f"{name}: the training failed in life {number}, status {child.status}")
            return
        if reports or has_attempt(path, number, start):
            history.took(number, start, max(reports, default=0))
        if not tally.verify(checker, path, seed, history, max(reports, default=0)):
            return


def kills(number: int, seed: int, disk: Disk, checker: Checker) -> Result:
    """Kill so many writers."""
    tally, chance = Tally("object storage, kill -9", seed), random.Random(seed)
    while tally.result.tried < number and not tally.result.bad:
        name = f"kill{tally.result.tried}.zarr"
        kill_run(tally, checker, disk, name, chance, min(LIVES, number - tally.result.tried))
    return tally.done()


def take_over(report: Report, name: str, seed: int, pause: float) -> None:
    """Go on with a run until another one does, or until killed."""
    from actlab.errors import StoreError
    from actlab.store.writer import RunWriter

    time.sleep(pause)
    warnings.simplefilter("ignore")
    try:
        writer = RunWriter(url_of(name), axis=axis(), attributes={}, flush_every=0, resume=True)
    except StoreError:
        return  # another one came in between
    steps = [writer.resumed.steps.get(split, 0) for split in ("train", "valid")]
    number = writer.resumed.attempt
    report([number, *steps, 0])
    told: dict = {}
    for count, (split, step) in enumerate(events(*steps), 1):
        if not writer.append(as_row(seed, number, step, split)):
            return
        if (committed := writer.flush()) == told:
            return  # another one took over
        told = committed
        report([number, *steps, count])


@contextmanager
def without_conditions() -> Iterator[None]:
    """Let every put replace whatever is there, and nobody look whose run it is."""
    import obstore

    from actlab.store.bucket import Bucket, version_of
    from actlab.store.objects import ObjectDirectory

    def put(bucket, name, data, version):
        return version_of(obstore.put(bucket._store, bucket._path(name), data, mode="overwrite"))

    with (
        patch.object(Bucket, "put", put),
        patch.multiple(ObjectDirectory, _prove=lambda *_: None, check_writer=lambda *_: None),
    ):
        yield


def race(name: str, seed: int, chance: random.Random, disk: Disk, checker: Checker, result: Result) -> None:
    """Let three processes go on with one run, one after the other, while the former ones still write."""
    from actlab.store.writer import RunWriter

    def begin(_: Report) -> None:
        RunWriter(url_of(name), axis=axis(), attributes={}).close()

    def free(job: Callable[[Report], None], report: Report) -> None:
        with without_conditions() if result.control else nullcontext():
            job(report)

    Child(begin).reports()
    children = [
        Child(lambda report, at=at: free(lambda told: take_over(told, name, seed, at), report))
        for at in (0.0, chance.uniform(0, 1), chance.uniform(0, 1))
    ]
    for child in children:
        child.wait(0.7)
    told = [child.kill() for child in children]
    found = checker.check(disk.copy(name), seed)
    history, last = History(), {}
    for number, train, valid, count in sorted(max(each, key=lambda line: line[3]) for each in told if each):
        last[number] = Attempt(train, valid, max(count, last[number].rows if number in last else 0))
    history.attempts = [last[number] for number in sorted(last)]
    result.tried += 1
    result.unopenable += bool(found["error"])
    result.torn += bool(found["torn"])
    result.wrong += bool(found["wrong"])
    result.lost += not found["error"] and history.missing(found) > 0
    problems = [found["error"], *found["torn"], *found["wrong"]]
    result.notes = result.notes or next((text for text in problems if text), "")[:200]


def races(
    name: str, number: int, seed: int, disk: Disk, checker: Checker, *, control: bool = False
) -> Result:
    """Hold so many races."""
    result, chance = Result(name, 0, seed=seed, control=control), random.Random(seed)
    for _ in range(number):
        race(f"race{control}{result.tried}.zarr", chance.randrange(1 << 30), chance, disk, checker, result)
    return result


def faults(number: int, seed: int, port: int, disk: Disk, checker: Checker) -> Result:
    """Record through a proxy that fails and loses so many requests: no row may be lost."""
    from actlab.store.writer import RunWriter
    from tests.store.objects.conftest import Proxy

    result, chance = Result("object storage, faults", 0, seed=seed), random.Random(seed)
    proxy = Proxy(port)
    threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.server_port}"
    share = 0.0

    def fault(method: str, name: str) -> str | None:
        kind = chance.choice(PUT) if chance.random() < share else None
        result.tried += kind is not None
        return kind

    proxy.fault = fault
    stores = 0
    while result.tried < number and not result.bad:
        share, name, own = 0.0, f"faults{stores}.zarr", chance.randrange(1 << 30)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = RunWriter(url_of(name), axis=axis(), attributes={}, flush_every=0)
            share = chance.choice([0.02, 0.1, 0.4])
            for split, step in islice(events(), 8):
                writer.append(as_row(own, 0, step, split))
                writer.flush()
            share = 0.0
            writer.close()
        found = checker.check(disk.copy(name), own)
        stores += 1
        result.unopenable += bool(found["error"])
        result.wrong += bool(found["wrong"])
        result.torn += bool(found["torn"])
        result.lost += not found["error"] and History([Attempt(rows=8)]).missing(found) > 0
    result.notes = f"requests that failed or lost their answer, in {stores} recordings"
    return result


def run(*, long: bool, seed: int) -> Iterator[Result]:
    """Yield the results of kills, of races with and without conditional puts, and of faults.

    The faults come last: no process may be forked that uses the client once this one has.
    """
    import actlab.store.writer  # noqa: F401 - before the forks, which then cost no start

    with server() as port, scratch() as folder, Checker() as checker:
        disk = Disk(port, folder)
        yield kills(60 if long else 6, seed, disk, checker)
        yield races("object storage, two writers", 20 if long else 2, seed, disk, checker)
        name = "object storage, no conditional puts"
        yield races(name, 20 if long else 3, seed, disk, checker, control=True)
        yield faults(120 if long else 20, seed, port, disk, checker)


if __name__ == "__main__":
    main(run)
