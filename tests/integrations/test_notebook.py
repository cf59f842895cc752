"""`actlab.watch` in a real kernel: its cell follows the training of the same kernel."""

import time
from queue import Empty

import pytest
from jupyter_client.manager import start_new_kernel

TRAIN = """
import time, torch
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
with actlab.Recorder(model, path, flush_every=0.1) as recorder:
    for epoch in range(3):
        for split, batches in (("train", 5), ("valid", 2)):
            for _ in range(batches):
                with recorder.batch(split, epoch=epoch, labels=torch.arange(16) % 2):
                    model(torch.randn(16, 4))
        time.sleep(1)
"""


class Kernel:
    """A kernel, and what its cells show."""

    def __init__(self):
        self._manager, self._client = start_new_kernel()
        self.cells, self.said = {}, ""

    def run(self, code):
        """Run a cell, and wait until it is done."""
        asked = self._client.execute(code)
        while not self._take(asked):
            pass

    def interrupt(self, code, said):
        """Run a cell, and interrupt it once it has said something."""
        asked = self._client.execute(code)
        self.until(lambda: said in self.said)
        self._manager.interrupt_kernel()
        while not self._take(asked):
            pass

    def until(self, found):
        """Take what comes until something is there."""
        end = time.monotonic() + 60
        while not found():
            assert time.monotonic() < end, (self.said, list(self.cells.values()))
            self._take(None)

    def _take(self, asked):
        try:
            message = self._client.get_iopub_msg(timeout=0.2)
        except Empty:
            return False
        kind, content = message["msg_type"], message["content"]
        if kind in ("display_data", "update_display_data"):
            self.cells[content["transient"]["display_id"]] = content["data"]["text/html"]
        elif kind == "stream":
            self.said += content["text"]
        elif kind == "error" and content["ename"] != "KeyboardInterrupt":
            raise AssertionError("\n".join(content["traceback"]))
        is_mine = message["parent_header"].get("msg_id") == asked
        return is_mine and kind == "status" and content["execution_state"] == "idle"

    def close(self):
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel():
    kernel = Kernel()
    yield kernel
    kernel.close()


def test_a_cell_follows_the_training_of_its_own_kernel(kernel, tmp_path):
    kernel.run(f"import actlab; path = {str(tmp_path / 'run.zarr')!r}; watching = actlab.watch(path)")
    (cell,) = kernel.cells
    assert "waiting for the run" in kernel.cells[cell]
    kernel.run(TRAIN)
    kernel.until(lambda: "closed" in kernel.cells[cell])
    assert list(kernel.cells) == [cell]
    assert "training 15 batches" in kernel.cells[cell]
    assert "epoch 2: validation: YES and NO" in kernel.cells[cell]
    assert kernel.cells[cell].count("<svg") == 2

    kernel.run(
        "again = actlab.watch(path); again.stop(); print(again, again.is_running, watching.is_running)"
    )
    assert (
        kernel.said == f"<actlab.watch: has followed {tmp_path / 'run.zarr'}; .stop() ends it> False False\n"
    )


def test_an_interrupted_cell_ends_it(kernel, tmp_path):
    kernel.run(f"import actlab, time; watching = actlab.watch({str(tmp_path / 'run.zarr')!r})")
    kernel.interrupt("print('asleep', flush=True); time.sleep(60)", "asleep")
    kernel.run("watching._thread.join(); print(watching.is_running)")
    assert kernel.said.endswith("False\n")
