"""What one rank of `test_distributed.py` does, in a process of its own: PLAN RANK WORLD_SIZE FOLDER."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

import actlab
from actlab.errors import StoreError

N_TRAIN, N_VALID, BATCH = 6, 2, 8


def make_model():
    """Return a model whose sums are exact in any order: its weights are few bits wide, as its inputs are."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randint(-8, 8, parameter.shape, generator=generator) / 4
    return model


def batches(n, seed):
    """Yield whole batches and their labels."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        yield (
            torch.randint(-8, 8, (BATCH, 6), generator=generator) / 4,
            torch.randint(0, 3, (BATCH,), generator=generator),
        )


def shard(tensor, rank, world_size):
    """Return the part of a batch that a rank has."""
    return tensor.chunk(world_size)[rank]


def wrap(kind, model):
    """Wrap a model as it is in distributed training."""
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if kind == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        fully_shard(model[0], mesh=mesh)
        return fully_shard(model, mesh=mesh)
    return model


def evaluate_all(recorder, model, rank, world_size, validates=True):
    """Record two epochs of fixed weights."""
    with torch.no_grad():
        for epoch in (0, 1):
            for x, y in batches(N_TRAIN, epoch):
                with recorder.batch("train", epoch, labels=shard(y, rank, world_size)):
                    model(shard(x, rank, world_size))
                recorder.log(loss=rank + 1.0)
            for x, y in batches(N_VALID, 10 + epoch) if validates else ():
                with recorder.batch("valid", epoch, labels=shard(y, rank, world_size)):
                    model(shard(x, rank, world_size))


def fixed(rank, world_size, folder):
    """Record fixed weights, wrapped in every way, into runs of every kind."""
    for kind in ("bare", "ddp", "fsdp"):
        model = wrap(kind, make_model())
        for reduce in (False, True):
            path = folder / f"{kind}_{reduce}.zarr"
            with actlab.Recorder(model, path, reduce=reduce, on_error="raise") as recorder:
                evaluate_all(recorder, model, rank, world_size)
    for reduce in (False, True):
        path = folder / f"lonely_{reduce}.zarr"
        with actlab.Recorder(model := make_model(), path, reduce=reduce, on_error="raise") as recorder:
            evaluate_all(recorder, model, rank, world_size, validates=rank == 0)


def train(rank, world_size, folder):
    """Train with DDP, without a recorder and with each kind of it, and keep the parameters."""
    for name, options in (("none", None), ("own", {}), ("reduce", {"reduce": True})):
        torch.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(
            nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        )
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        recorder = None
        if options is not None:
            recorder = actlab.record(model, folder / f"{name}.zarr", on_error="raise", **options)
        for x, y in batches(N_TRAIN, 0):
            loss = nn.functional.cross_entropy(model(shard(x, rank, world_size)), shard(y, rank, world_size))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if recorder is not None:
            recorder.close()
        torch.save(model.module.state_dict(), folder / f"{name}_{rank}.pt")


def kill(rank, world_size, folder):
    """Record into runs of both kinds; rank 1 is killed after five batches, the others go on."""
    model = make_model()
    paths = {reduce: folder / f"killed_{reduce}.zarr" for reduce in (False, True)}
    recorders = [actlab.Recorder(model, path, reduce=reduce) for reduce, path in paths.items()]
    for step, (x, y) in enumerate(batches(12, 0)):
        if step == 5 and rank == 1:
            while recorders[1].flush().get("train", 0) < 4:
                time.sleep(0.01)
            recorders[0].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        opened = [recorder.batch("train", 0, labels=shard(y, rank, world_size)) for recorder in recorders]
        with torch.no_grad(), opened[0], opened[1]:
            model(shard(x, rank, world_size))
    for recorder in recorders:
        recorder.close()


def record_part(recorders, model, rank, world_size, done, until):
    """Record the training batches from `done` to `until`, and an evaluation after each epoch."""
    seen = 0
    for epoch in (0, 1):
        parts = [("train", batches(N_TRAIN, epoch)), ("valid", batches(N_VALID, 10 + epoch))]
        for split, found in parts:
            for x, y in found:
                seen += split == "train"
                if done < seen <= until:
                    forward(
                        recorders, model, split, epoch, [shard(each, rank, world_size) for each in (x, y)]
                    )


def forward(recorders, model, split, epoch, batch):
    """Record one batch with two recorders."""
    x, y = batch
    opened = [recorder.batch(split, epoch, labels=y) for recorder in recorders]
    with torch.no_grad(), opened[0], opened[1]:
        model(x)
    for recorder in recorders:
        recorder.log(loss=1.5)


def die(rank, world_size, folder):
    """Record into runs of both kinds, and end without a word after ten batches; the checkpoint has eight."""
    model = make_model()
    recorders = [
        actlab.Recorder(model, folder / f"long_{reduce}.zarr", reduce=reduce, resume_step=0)
        for reduce in (False, True)
    ]
    record_part(recorders, model, rank, world_size, 0, 8)
    for recorder in recorders:
        while recorder.flush().get("train", 0) < 7:
            time.sleep(0.01)
    distributed.barrier()
    record_part(recorders, model, rank, world_size, 8, 10)
    recorders[0].flush()
    os._exit(0)


def resume(rank, world_size, folder):
    """Go on from the checkpoint; what cannot go on is refused on every rank."""
    model = make_model()
    for reduce in (False, True):
        with pytest.raises(ValueError, match="give resume_step"):
            actlab.Recorder(model, folder / "nothing.zarr", reduce=reduce, resume=True)
        with pytest.raises(StoreError, match="no such run, to go on with at step 5"):
            actlab.Recorder(model, folder / "nothing.zarr", reduce=reduce, resume_step=5)
    recorders = [
        actlab.Recorder(model, folder / f"long_{reduce}.zarr", reduce=reduce, resume_step=8, on_error="raise")
        for reduce in (False, True)
    ]
    record_part(recorders, model, rank, world_size, 8, 12)
    for recorder in recorders:
        recorder.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    plan, rank, world_size, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting_{plan}", rank=rank, world_size=world_size
    )
    plans = {"fixed": fixed, "train": train, "kill": kill, "die": die, "resume": resume}
    plans[plan](rank, world_size, folder)
    if plan != "kill":
        distributed.destroy_process_group()
