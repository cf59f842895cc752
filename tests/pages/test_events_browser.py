"""What happens in single batches of a long training is seen, or announced, on a page of few columns."""

import numpy as np
import pytest

from actlab.pages.build import report
from actlab.recipe import Recipe

pytestmark = pytest.mark.browser

K, COLUMNS, N = 20, 24, 20_000
NARROW = {"colorful": {"max_columns": COLUMNS}}


def plant(random, batch, event):
    """Return the values of a batch, with an event in it."""
    if event == "shifted":
        return batch + 5
    if event == "collapsed":
        return np.full(N, 0.31)
    if event == "widened":
        return batch * 2.5
    if event == "empty":
        return np.full(N, np.nan)
    if event == "stray":
        return np.append(batch[3:], [8.1, 8.7, 9.2])
    if event == "doubled":
        return np.append(batch, random.normal(0, 0.9, N))
    return batch + 0.6  # one of eight that are moved a little


@pytest.fixture(scope="module")
def planted(record_run, tmp_path_factory):
    """The page of a steady layer, and the rows of each event."""
    random = np.random.default_rng(11)
    columns = random.permutation(np.arange(1, COLUMNS - 1))
    events = ("shifted", "collapsed", "widened", "empty", "stray", "doubled")
    places = {event: [int(columns[i] * K + random.integers(K))] for i, event in enumerate(events)}
    stray = places["stray"][0]
    places["stray"] = sorted([stray, stray // K * K + (stray + 7) % K])  # two in one column
    start = int(columns[6] * K + random.integers(K - 8))
    places["moved"] = list(range(start, start + 8))
    of_row = {row: event for event, rows in places.items() for row in rows}
    rows = []
    for row in range(K * COLUMNS):
        batch = random.normal(0, 0.9, N)
        values = plant(random, batch, of_row[row]) if row in of_row else batch
        rows.append((row // 120, {"steady": values}, None))
    run = record_run({"train": rows}, ["steady"], head=None, raw=False)
    path = tmp_path_factory.mktemp("page") / "planted.html"
    recipe = Recipe(charts=NARROW, sections=["wall", "detail"])
    return report(run, path, recipe=recipe, h_min=-10, h_max=10, n_bins=200), places


def held(page, name):
    """Return the data of a named glyph."""
    code = """name => { const { data } = Bokeh.documents[0].get_model_by_name(name).data_source;
      return Object.fromEntries(Object.entries(data).map(([key, value]) => [key, [...value]])); }"""
    return page.evaluate(code, name)


def image(page):
    """Return the counts [bin, column] of the chart."""
    code = """() => { const image = Bokeh.documents[0].get_model_by_name("image").data_source.data.image[0];
      return [image.shape, [...image].map((count) => Number.isFinite(count) ? count : 0)]; }"""
    shape, counts = page.evaluate(code)
    return np.array(counts).reshape(shape)


def point_at(page, row):
    """Move the mouse over the middle of a row of the whole chart."""
    page.locator("#figure-detail").scroll_into_view_if_needed()
    code = """row => { const { id } = Bokeh.documents[0].get_model_by_name("detail");
      const { frame } = Bokeh.index.get_by_id(id);
      const { left } = document.getElementById("figure-detail").getBoundingClientRect();
      return left + frame.x_scale.compute(row + 0.5); }"""
    box = page.locator("#figure-detail").bounding_box()
    page.mouse.move(page.evaluate(code, row), box["y"] + box["height"] / 2)


def test_every_event_is_seen_or_announced(open_page, planted):
    path, places = planted
    page = open_page(path, width=390)  # too narrow for single batches
    bars = ("strip_hidden_1", "strip_hidden_2", "strip_hidden_4", "strip_nonfinite_0")
    announced = {int(left) // K for name in bars for left in held(page, name)["left"]}
    counts = image(page)
    columns = {event: rows[0] // K for event, rows in places.items()}
    usual = [column for column in range(COLUMNS) if column not in columns.values()]
    assert not announced & set(usual), "no false alarm"
    assert announced == set(columns.values())
    seen = np.flatnonzero(counts[:, columns["stray"]])
    assert {181, 187, 192} <= set(seen), "dots of single values"
    rim = held(page, "strip_hidden_4")
    assert columns["stray"] in {int(left) // K for left in rim["left"]} <= announced
    assert min(rim["bottom"]) > 0.7, "no height that could be read as a size"
    assert page.is_visible("#stray-key")
    assert not counts[176:, usual].any()


def test_a_stray_is_named_by_column_and_by_single_batch(open_page, planted, until):
    path, places = planted
    row = places["stray"][0]
    said = f"batch {row} reaches 9.2, far beyond those around it"
    page = open_page(path, width=390)
    point_at(page, row)
    until(
        page,
        f"document.getElementById('readout').textContent.split('\\n').includes('{said}; so does 1 more')",
    )
    assert page.text_content("#limits").endswith("7 columns hide an odd batch")
    page = open_page(path)
    page.evaluate(f"location.hash = '#at=0:{row}-{row}'")
    until(page, "document.getElementById('resolution').textContent.includes('kept in full')")
    assert page.text_content("#limits").endswith("no column hides an odd batch"), "it is drawn"
    assert {said, "out of range 0%"} <= set(page.text_content("#readout").split("\n"))
    page.evaluate(f"location.hash = '#range=-9,9,180&at=0:{row}-{row}'")
    until(page, "document.getElementById('readout').textContent.split('\\n').includes('out of range <0.01%')")
    assert said in page.text_content("#readout").split("\n")
    page.evaluate(f"location.hash = '#range=-9,9,180&at=0:{row + 1}-{row + 1}'")
    until(page, f"document.getElementById('readout').textContent.startsWith('batch {row + 1} ')")
    assert "reaches" not in page.text_content("#readout")
    assert "out of range 0%" in page.text_content("#readout")


def test_the_strip_names_the_batch_and_single_batches_are_there(open_page, planted, until):
    path, places = planted
    page = open_page(path)
    for event in ("shifted", "doubled"):
        row = places[event][0]
        page.evaluate(f"location.hash = '#at=0:{row}-{row}'")
        until(page, "document.getElementById('resolution').textContent.includes('kept in full')")
        assert page.text_content("#readout").startswith(f"batch {row} ")
    assert f"{2 * N:,} values" in page.text_content("#readout")
    assert f"batch {row} has 100% more or fewer values than usual" in page.text_content("#readout")
    shown = held(page, "image")
    assert len(shown["x"]) == 2
    assert shown["x"][1] <= places["doubled"][0] < shown["x"][1] + shown["dw"][1]
