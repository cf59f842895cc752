"""The numbers behind every chart, compared with arrays kept in tests/golden."""

from actlab.axis import LinearAxis
from actlab.charts import colorful_chart, twin_peaks_chart, wall_chart

VIEW = LinearAxis(-3, 5, 16)


def test_colorful(charted, golden):
    options = colorful_chart.ColorfulOptions(max_columns=7)
    golden("colorful", colorful_chart.prepare(charted.run, VIEW, options))


def test_colorful_of_some_epochs(charted, golden):
    golden(
        "colorful_epochs", colorful_chart.prepare(charted.run, VIEW, layers=["head", "odd"], epochs=[0, 2])
    )


def test_wall(charted, golden):
    grid = colorful_chart.prepare(charted.run, VIEW)
    golden("wall", wall_chart.prepare(grid, wall_chart.WallOptions(tile_width=9, tile_height=8)))


def test_twin_peaks(charted, golden):
    golden("twin_peaks", twin_peaks_chart.prepare(charted.run, axis=LinearAxis(-8, 8, 20)))


def test_twin_peaks_of_counts(charted, golden):
    golden("twin_peaks_counts", twin_peaks_chart.prepare(charted.run, axis=VIEW, layer="grows"))
