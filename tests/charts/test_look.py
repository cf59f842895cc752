import holoviews as hv
import numpy as np
import pytest
from bokeh.models import Axis, Div, PlainText, Title
from hypothesis import given
from hypothesis import strategies as st

from actlab.axis import LinearAxis
from actlab.charts import colorful, twin_peaks, wall
from actlab.charts.look import log_ticks, view
from actlab.errors import AxisError
from actlab.stats import default_range


@given(low=st.floats(-6, 0), decades=st.floats(1, 9))
def test_ticks_lie_on_the_scale(low, decades):
    ticks = log_ticks(10**low, 10 ** (low + decades))
    assert list(ticks) == sorted(ticks)
    assert all(10**low <= tick <= 10 ** (low + decades) for tick in ticks)
    assert len(set(ticks.values())) == len(ticks)
    assert ticks  # a decade or more always has one
    gaps = np.diff(np.log10(list(ticks)))
    assert gaps.max(initial=0) <= 1 + 1e-9


def test_ticks_speak_of_batches_and_thousands():
    assert log_ticks(0.04, 12) == {
        0.05: "1 in 20", 0.1: "1 in 10", 0.2: "1 in 5", 0.5: "1 in 2", 1: "1", 2: "2", 5: "5", 10: "10",
    }  # fmt: skip
    assert list(log_ticks(1, 3e6).values()) == ["1", "10", "100", "1k", "10k", "100k", "1M"]


def test_a_missing_end_comes_from_the_run(charted):
    low, high = default_range(charted.run)
    assert view(charted.run, None, None, 30) == LinearAxis(low, high, 30)
    assert view(charted.run, -1.5, None, 30) == LinearAxis(-1.5, high, 30)
    assert view(charted.run, -1.5, 0.5, 30) == LinearAxis(-1.5, 0.5, 30)
    with pytest.raises(AxisError, match="h_min must be below h_max"):
        view(charted.run, 1, -1, 30)


HOSTILE = ("<img src=x onerror=alert(1)>", "$$x$$", "{7*7} {label}", r"\(x\)")


@pytest.fixture(scope="module")
def hostile(record_run):
    rows = [(0, {name: np.arange(8.0)[:, None] for name in HOSTILE}, np.arange(8) % 2)]
    return record_run({"train": rows * 3, "valid": rows}, HOSTILE, head=HOSTILE[0])


def written(model):
    """Return the texts of a figure or of a grid that Bokeh would not take for HTML or a formula."""
    texts = [each.text for each in model.select({"type": Title})]
    return [each.text if isinstance(each, PlainText) else each for each in texts]


def formulas(model):
    """Return the texts that Bokeh would take for a formula."""
    texts = [each.text for each in model.select({"type": Title})]
    texts += [each.axis_label for each in model.select({"type": Axis})]
    return [each for each in texts if isinstance(each, str) and ("$$" in each or r"\(" in each)]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_drawn_as_they_are(hostile, name):
    for chart in (colorful(hostile, name), twin_peaks(hostile, layer=name)):
        figure = hv.render(chart)
        assert any(text.startswith(name) for text in written(figure))
        assert formulas(figure) == []


def test_the_wall_says_names_as_they_are(hostile):
    layout = hv.render(wall(hostile, h_min=-1, h_max=1, n_bins=4))
    assert set(HOSTILE) <= set(written(layout))
    assert formulas(layout) == []
    alone = hv.render(wall(hostile, layers=[HOSTILE[0]], h_min=-1, h_max=1, n_bins=4))
    (title,) = alone.select({"type": Div})  # which is HTML, and names the layer that is worst
    assert "(&lt;img src=x onerror=alert(1)&gt;)" in title.text
    assert "<img" not in title.text
