"""What a run says of itself, as text and in a notebook."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from actlab.axis import FloatAxis
from actlab.run import open_run
from actlab.store.row import ChannelStats, HeadCounts, RawSamples
from actlab.store.writer import RunWriter

ONES = {"train": [(0, {"fc": np.ones((2, 2))}, None)]}


def test_text_says_what_how_much_and_what_is_missing(small_run, record_run):
    size = sum(file.stat().st_size for file in Path(small_run.path).rglob("*") if file.is_file())
    n = {split: int(small_run[split].n.sum()) for split in small_run.splits}
    assert repr(small_run).splitlines() == [
        f"<actlab.Run {small_run.path}>",
        f"  Small: 6 layers, head 'fc', {sum(n.values()):,} values in {size / 1000:.1f} kB",
        f"  train: 27 rows, epochs 0 to 2, {n['train']:,} values, raw outputs of the head with labels",
        f"  valid: 12 rows, epochs -1 to 2, {n['valid']:,} values, raw outputs of the head with labels",
        f"  test: 2 rows, epoch 2, {n['test']:,} values, raw outputs of the head with labels",
        "  missing: layers never called ('body.dropout')",
    ]
    bare = record_run(ONES, ["fc"], raw=False, closed=False)
    assert repr(bare).splitlines()[2:] == [
        "  train: 1 row, epoch 0, 4 values, counts only",
        "  missing: split 'valid'; split 'test'; the end (the run is not closed)",
    ]


def test_text_says_what_else_was_kept(record_run, add_to_rows):
    two, values = np.ones(2, np.uint64), np.ones((2, 2), np.float32)
    counts = np.zeros((2, 3, FloatAxis().n_buckets), np.uint64)
    add_to_rows(
        lambda row: {
            "channels": ChannelStats(("fc",), (2,), two, two, np.ones(2)),
            "samples": {"fc": RawSamples(values, np.arange(2), None)},
            "head_counts": HeadCounts(counts, False),
        }
    )
    run = record_run(ONES, ["fc"], raw=False)
    assert repr(run).splitlines()[2] == (
        "  train: 1 row, epoch 0, 4 values, the head counted by unit and truth, channels, samples of 1 layer"
    )


def test_text_says_that_targets_are_no_labels(record_run):
    run = record_run(ONES, ["fc"])
    assert run.kept("train") == "raw outputs of the head without labels"
    run.attributes["targets"] = "float"
    assert run.kept("train") == "raw outputs of the head without labels (float targets)"


def test_text_names_the_first_of_many_that_are_missing(record_run):
    run = record_run(ONES, ["fc", *(f"unused{i}" for i in range(9))])
    root = Path(run.path) / "zarr.json"
    document = json.loads(root.read_text())
    known = document["attributes"]["actlab"]
    known["gaps"] = {"train": [[3, 3], [5, 9]]}
    known["skipped"] = {"unused8": "its outputs are int64"}
    known["epochs"] = "inferred"
    root.write_text(json.dumps(document))
    lines = repr(open_run(run.path)).splitlines()
    assert "10 layers, head 'fc', epochs inferred, 4 values in " in lines[1]
    never = "'unused0', 'unused1', 'unused2', 'unused3', 'unused4' and 3 more"
    assert f"layers never called ({never}); layers not counted ('unused8')" in lines[-1]
    assert lines[-1].endswith("steps 3, 5 to 9 of 'train'")


@pytest.mark.parametrize(("all_attempts", "said"), [(False, "without"), (True, "with")])
def test_text_says_whether_replaced_rows_are_shown(tmp_path, make_row, small_axis, all_attempts, said):
    for start in (None, 1):
        writer = RunWriter(
            tmp_path / "run.zarr",
            axis=small_axis,
            attributes={},
            fsync=False,
            resume=start is not None,
            resume_step=start,
        )
        assert writer.append(make_row(start or 0))
        writer.close()
    run = open_run(tmp_path / "run.zarr", all_attempts=all_attempts)
    assert f"  2 attempts, {said} the rows that a later one has replaced" in repr(run).splitlines()
    assert f"2 attempts, {said} the rows" in run._repr_html_()


class Page(HTMLParser):
    """The text of a page, its elements, and all their attributes."""

    def __init__(self, html):
        super().__init__()
        self.text, self.opened, self.closed, self.attributes = [], [], [], set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)
        self.attributes |= set(attrs)

    def handle_endtag(self, tag):
        self.closed.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_html_says_the_same_with_the_layers_folded_up(small_run):
    page = Page(small_run._repr_html_())
    assert type(small_run._repr_html_()) is str
    assert sorted(page.opened) == sorted(page.closed)
    assert page.opened.count("details") == 1
    assert "6 layers" in page.text
    for line in repr(small_run).splitlines()[1:]:
        for word in line.replace(",", " ").replace(":", " ").split():
            assert word.rstrip("s") in " ".join(page.text).replace(",", " ")
    for name, layer in small_run.layers.iterrows():
        assert name in page.text
        assert f"{layer['n']:,}" in page.text


def test_html_takes_the_colours_of_the_page_and_nothing_from_elsewhere(small_run):
    page = Page(small_run._repr_html_())
    assert page.attributes == {("style", "text-align:left;padding-right:1em")}
    assert not {"script", "style", "link", "img"} & set(page.opened)


def test_html_escapes_every_name(record_run):
    evil = "</script><b onclick='x'>&amp;"
    run = record_run({"train": [(0, {evil: np.ones(3)}, None)]}, [evil, "<i>"], head=None, raw=False)
    root = Path(run.path) / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["actlab"]["model"] = "<script>alert(1)"
    document["attributes"]["actlab"]["skipped"] = {"<i>": "its outputs are <u>"}
    root.write_text(json.dumps(document))
    page = Page(open_run(run.path)._repr_html_())
    assert evil in page.text
    assert "not counted: its outputs are <u>" in page.text
    assert {*page.opened} <= {
        "div",
        "strong",
        "code",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "details",
        "summary",
    }
    assert page.attributes == {("style", "text-align:left;padding-right:1em")}


def test_a_run_without_rows_says_so(tmp_path):
    RunWriter(tmp_path / "run.zarr", axis=FloatAxis(), attributes={}, fsync=False).close()
    run = open_run(tmp_path / "run.zarr")
    lines = repr(run).splitlines()
    assert "model: 0 layers, head None, 0 values in " in lines[1]
    assert lines[2] == "  missing: split 'train'; split 'valid'; split 'test'"
    assert "table" not in Page(run._repr_html_()).opened


def test_a_run_that_is_gone_says_so(record_run, tmp_path):
    run = open_run(shutil.copytree(record_run(ONES, ["fc"]).path, tmp_path / "run.zarr"), verify=False)
    shutil.rmtree(run.path)
    lines = repr(run).splitlines()
    assert lines[0] == f"<actlab.Run {run.path}>"
    assert "run.zarr" in lines[1]
    assert "run.zarr" in run._repr_html_()
