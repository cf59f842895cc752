"""Opens each store named on stdin and reads all of it, in a process of its own: says what came of it.

One line of JSON for each: the kind of the error, its message, seconds and MiB above those of the start.
"""

import json
import os
import resource
import signal
import sys
import time
import warnings


def read(path):
    from actlab.run import open_run

    run = open_run(path)
    for split in run.splits:
        run[split].compute()
        for find in (run.raw, run.channels, run.head_counts, run.label_moments):
            if (found := find(split)) is not None:
                found.compute()
        for layer in run.names:
            if (found := run.samples(split, layer)) is not None:
                found.compute()


def mebibytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def attempt(path, pipe):
    """Say what comes of a store, and end: this is a child, which a hang or a killer ends alone."""
    signal.alarm(5)
    before, start = mebibytes(), time.monotonic()
    try:
        read(path)
    finally:
        error = sys.exc_info()[1]
        said = {
            "kind": None if error is None else type(error).__name__,
            "message": str(error),
            "seconds": time.monotonic() - start,
            "mib": mebibytes() - before,
        }
        os.write(pipe, json.dumps(said).encode())
        os._exit(0)


def main():
    import dask

    warnings.simplefilter("ignore")
    dask.config.set(scheduler="synchronous")  # a child has none of its parent's threads
    first, *paths = [line.rstrip("\n") for line in sys.stdin]
    read(first)  # all that is imported and compiled late
    for path in paths:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            attempt(path, writer)
        os.close(writer)
        said = os.read(reader, 1 << 16)
        os.close(reader)
        _, status = os.waitpid(child, 0)
        sys.stdout.write((said.decode() or json.dumps({"kind": f"ended by {status}"})) + "\n")


main()
