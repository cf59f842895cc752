"""A process that records to an object store until it is killed: URL N_ROWS. Says each committed step."""

import sys

import numpy as np

from actlab.axis import FloatAxis
from actlab.schema import LayerInfo
from actlab.store.writer import Row, RunWriter

AXIS = FloatAxis(mantissa_bits=1, min_exponent=0, max_exponent=1)


def make_row(step):
    """Return a row, a pure function of its step."""
    random = np.random.default_rng(step)
    counts = random.integers(0, 2**32, (2, AXIS.n_buckets), dtype=np.uint32)
    moments = dict(zip(("mean", "std", "min", "max"), random.normal(size=(4, 2)), strict=True))
    layers = (LayerInfo("a"), LayerInfo("b"))
    place = ("train", step, step // 8, step % 8, step, 1.7e9 + step)
    head = random.normal(size=(3, 2)).astype(np.float32)
    return Row(*place, layers, counts, counts.sum(axis=1, dtype=np.uint64), **moments, logs={}, head=head)


def main(url, n_rows):
    """Go on with a run up to so many rows, and leave the rest to the end of the process."""
    writer = RunWriter(url, axis=AXIS, attributes={}, resume=True, flush_every=0, on_error="raise")
    first = writer.resumed.steps["train"] if writer.resumed else 0
    for step in range(first, n_rows):
        writer.append(make_row(step))
        if step % 3 == 0 and step < n_rows - 3:
            sys.stdout.write(f"{writer.flush().get('train', -1)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
