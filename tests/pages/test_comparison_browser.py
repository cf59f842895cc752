"""The page of a comparison: what it says of each run, on the screen and in its files."""

import html
import re

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from torch import nn

import actlab
from actlab.charts.comparison_chart import (
    STEPS,
    ComparisonOptions,
    Scale,
    _epochs_tell_more,
    cells,
    prepare,
    scale_of,
    signed_codes,
)
from actlab.cli import main
from actlab.errors import RecipeError, SelectionError
from actlab.findings.finding import Verdict
from actlab.pages.comparison_build import compare_report
from actlab.pages.comparison_sections import _dropped
from actlab.recipe import Recipe, load_recipe

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
HOSTILE = "</script><img src=x onerror=hit=1>"


@pytest.fixture(scope="module")
def pair(record_run):
    """Return two runs, one shorter than the other and shifted in one layer."""

    def record(shift, n_epochs):
        random = np.random.default_rng(7)
        rows = []
        for epoch in range(n_epochs):
            for _ in range(4):
                labels = random.integers(0, 3, 16)
                values = {
                    "near": random.normal(size=(16, 20)),
                    HOSTILE: random.normal(size=(16, 20)) + shift,
                    "fc": random.normal(size=(16, 3)) + 2 * (labels[:, None] == np.arange(3)),
                }
                rows.append((epoch, values, labels))
        return record_run({"train": rows, "valid": rows}, ["near", HOSTILE, "fc"])

    return {"a": record(0, 3), "b": record(1.5, 2)}


@pytest.fixture(scope="module")
def strided(tmp_path_factory):
    """Return two runs of three epochs that share one batch; the second one was resumed."""
    folder, random = tmp_path_factory.mktemp("strided"), torch.Generator().manual_seed(0)

    def train(name, steps, every, **options):
        model = nn.Sequential(nn.Linear(4, 3))
        with actlab.Recorder(model, folder / name, every=every, **options) as recorder:
            for step in steps:
                with recorder.batch("train", epoch=step // 8):
                    model(torch.randn(16, 4, generator=random))

    train("fives.zarr", range(24), 5)
    train("sevens.zarr", range(12), 7)
    train("sevens.zarr", range(12, 24), 7, resume=True)
    return [folder / "fives.zarr", folder / "sevens.zarr"]


@pytest.fixture(scope="module")
def record_every(tmp_path_factory):
    """Return a function that records one batch in so many of five epochs of 70."""

    def record(every):
        path, model = tmp_path_factory.mktemp("every") / f"{every}.zarr", nn.Sequential(nn.Linear(4, 3))
        with actlab.Recorder(model, path, every=every) as recorder:
            for step in range(350):
                with recorder.batch("train", epoch=step // 70):
                    model(torch.full((4, 4), step / 350))
        return actlab.open_run(path)

    return record


@pytest.fixture(scope="module")
def drawn(pair, tmp_path_factory):
    return compare_report(pair, tmp_path_factory.mktemp("page") / "pair.html", h_min=-4, h_max=4, n_bins=40)


def curve(page, name):
    return np.array(
        page.evaluate(f"[...Bokeh.documents[0].get_model_by_name('{name}').data_source.data.y]"), float
    )


@pytest.mark.browser
def test_the_curves_are_those_of_the_comparison(drawn, open_page, pair):
    page = open_page(drawn)
    truth = actlab.compare(pair, axis=actlab.LinearAxis(-4, 4, 40)).isel(epoch=-1)
    for index, name in enumerate(
        page.locator(".tile").evaluate_all("tiles => tiles.map((t) => t.dataset.name)")
    ):
        page.select_option("#layer-select", str(index))
        page.wait_for_timeout(100)
        one = truth.sel(layer=name)
        for run in range(2):
            np.testing.assert_allclose(
                curve(page, f"curve_{run}"), one["share"].isel(run=run), rtol=1e-3, atol=1e-6
            )
        np.testing.assert_allclose(curve(page, "difference_1"), one["difference"].isel(run=1), atol=1e-3)
        assert curve(page, "distance_1")[-1] == pytest.approx(float(one["total_variation"].isel(run=1)))
    assert page.evaluate("window.hit") is None


@pytest.mark.browser
def test_the_cell_under_the_pointer_is_told_of_all_runs(drawn, open_page, pair, until):
    page = open_page(drawn)
    name = page.locator(".tile").nth(0).get_attribute("data-name")
    truth = actlab.compare(pair, axis=actlab.LinearAxis(-4, 4, 40), by=1).sel(layer=name).compute()
    page.locator("#compare-picture-1").scroll_into_view_if_needed()
    box = page.locator("#compare-picture-1").bounding_box()
    for step, at in ((2, 20), (7, 27), (0, 0)):
        x, y = box["width"] * (step + 0.5) / 8, box["height"] * (1 - (at + 0.5) / 40)
        page.locator("#compare-picture-1").hover(position={"x": x, "y": y})
        until(page, f"document.getElementById('tooltip').textContent.startsWith('batch {step}\\n')")
        lines = page.text_content("#tooltip").split("\n")
        assert lines[1].startswith(f"value {-4 + at / 5:.4g} to {-4 + (at + 1) / 5:.4g}")
        one = truth.isel(step=step, bin=at)
        for told, run in zip(lines[2:], pair, strict=True):
            share = re.match(rf"{run}: (?:none|≈ ([\d.e-]+)%)", told)[1] or 0
            assert float(share) == pytest.approx(100 * float(one["share"].sel(run=run)), rel=0.08)
        if abs(float(one["difference"].sel(run="b"))) > 0.01:
            said = re.search(r"difference (\S)([\d.]+)%", lines[3])
            found = float(said[2]) * (1 if said[1] == "+" else -1)
            assert found == pytest.approx(100 * float(one["difference"].sel(run="b")), rel=0.08)


@pytest.mark.browser
def test_the_layer_farthest_apart_comes_first_and_what_is_missing_is_said(drawn, open_page):
    page = open_page(drawn)
    assert page.locator(".tile").first.get_attribute("data-name") == HOSTILE
    assert "b lacks epoch 2" in page.text_content("#top")
    assert "No finding in any run" in page.text_content("#verdict")
    page.click(".tile >> nth=1")
    assert page.text_content("#compare-title").startswith(
        page.locator(".tile").nth(1).get_attribute("data-name")
    )
    page.fill("#wall-filter", "onerror")
    assert page.locator(".tile:visible").count() == 1


@pytest.mark.browser
def test_runs_that_hardly_share_a_batch_are_shown_by_epoch(strided, open_page, until, tmp_path):
    page = open_page(compare_report(strided, tmp_path / "page.html", h_min=-4, h_max=4, n_bins=40))
    said = page.text_content("#top")
    assert "few batches in common, so a column of a picture is a whole epoch" in said
    assert "was resumed after 12 training batches" in said
    assert page.text_content(".facts dd >> nth=2") == "3 of 1 epoch each"
    page.locator("#compare-picture-1").hover()
    until(page, "document.getElementById('tooltip').textContent.startsWith('epoch 1\\n')")


def test_columns_of_epochs_hold_what_the_epochs_do(strided):
    runs = actlab.comparison.open_runs(strided)
    columns, epochs = prepare(runs, actlab.LinearAxis(-4, 4, 40))
    assert columns.attrs["unit"] == "epoch"
    assert columns["step"].values.tolist() == columns["last"].values.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(columns["share"], epochs["share"])


@pytest.mark.parametrize(
    ("n_epochs", "batches", "unit"), [(5, 70, "epoch"), (1, 350, "batch"), (3, 2500, "batch")]
)
def test_few_batches_in_common_are_shown_by_epoch_unless_they_fill_a_tile(n_epochs, batches, unit):
    tens, sevens = (set(range(0, n_epochs * batches, every)) for every in (10, 7))
    found = _epochs_tell_more(len(tens & sevens), min(len(tens), len(sevens)), n_epochs, width=88)
    assert found == (unit == "epoch")


def test_long_epochs_of_few_common_batches_are_shown_by_epoch(record_every):
    runs = {"tens": record_every(10), "sevens": record_every(7)}
    columns, _ = prepare(runs, actlab.LinearAxis(-4, 4, 40))
    assert (columns.attrs["unit"], columns.sizes["step"]) == ("epoch", 5)


def test_dropped_steps_are_those_that_would_have_been_recorded(record_every, monkeypatch):
    run = record_every(10)
    monkeypatch.setattr(type(run), "gaps", {"train": [[100, 200], [300, 300], [311, 319]]})
    assert _dropped(run) == 12
    monkeypatch.setattr(type(run), "gaps", {"train": []})
    assert _dropped(run) == 0


def test_what_lies_out_of_range_is_told_of_each_layer_and_run(pair, tmp_path):
    axis = actlab.LinearAxis(-1, 1, 20)
    page = compare_report(pair, tmp_path / "page.html", h_min=-1, h_max=1, n_bins=20, sections=["wall"])
    found = dict.fromkeys(pair["a"].names, "")
    for card in page.read_text(encoding="utf-8").split('<a class="tile card-tile"')[1:]:
        name = html.unescape(re.search(r'data-name="(.*?)"', card)[1])
        found[name] = re.findall(r"</i> out of range (\d+)%</span>", card)
    truth = actlab.compare(pair, axis=axis)
    lost = (truth["underflow"] + truth["overflow"]).sum("epoch") / truth["n"].sum("epoch")
    for name, said in found.items():
        assert said == [f"{100 * float(share):.0f}" for share in lost.sel(layer=name)]


def test_a_run_whose_values_are_drawn_has_no_word_on_its_card(record_run, tmp_path):
    rows = [(0, {"fc": np.zeros((4, 2))}, None)]
    broken = [(0, {"fc": np.array([[0.0, 9.0], [np.nan, np.inf]])}, None)]
    runs = {name: record_run({"train": each}, ["fc"]) for name, each in (("a", rows), ("b", broken))}
    options = {"h_min": -1, "h_max": 1, "n_bins": 10, "sections": ["wall"], "overwrite": True}
    page = compare_report(runs, tmp_path / "page.html", **options)
    said = re.findall(r'<span><i class="run run-(\d)" title=".">.*?</i> (.*?)</span>', page.read_text())
    assert said == [("1", "out of range 25%, NaN or infinite 50%")]
    page = compare_report([runs["a"]] * 2, page, **options)
    assert 'class="lost"' not in page.read_text()


@pytest.mark.browser
def test_the_detail_tells_what_it_does_not_draw(pair, open_page, tmp_path):
    page = open_page(compare_report(pair, tmp_path / "page.html", h_min=-1, h_max=1, n_bins=20))
    card = page.locator(".tile >> nth=0 >> .lost > span")
    assert [page.text_content(f"#compare-lost-{run}") for run in range(2)] == [
        said.strip() for said in card.all_text_contents()
    ]
    name = page.locator(".tile").nth(0).get_attribute("data-name")
    last = actlab.compare(pair, axis=actlab.LinearAxis(-1, 1, 20)).sel(layer=name).isel(epoch=-1)
    lost = (last["underflow"] + last["overflow"]) / last["n"]
    for told, share in zip(page.text_content("#compare-said").split("\n"), lost.values, strict=True):
        assert told.endswith(f"out of range {100 * share:.0f}%")


def test_a_column_knows_the_last_batch_that_all_runs_have(strided):
    runs = actlab.comparison.open_runs([strided[0]] * 2)
    options = ComparisonOptions(detail_width=8)
    columns, _ = prepare(runs, actlab.LinearAxis(-4, 4, 40), options)
    assert columns.attrs["unit"] == "batch"
    assert columns["last"].values.tolist() == [0, 5, 10, 15, 20]
    columns, _ = prepare(runs, actlab.LinearAxis(-4, 4, 40), options.model_copy(update={"detail_width": 2}))
    assert columns["step"].values.tolist() == [0, 15]
    assert columns["last"].values.tolist() == [10, 20]


@pytest.mark.browser
def test_long_names_widen_nothing_and_differences_stand_under_their_run(pair, open_page, tmp_path):
    runs = {"x" * 200: pair["a"], HOSTILE: pair["b"], "many words " * 20: pair["a"]}
    path = compare_report(runs, tmp_path / "page.html", h_min=-4, h_max=4, n_bins=10)
    for width in (390, 1440):
        page = open_page(path, width=width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#compare-picture-1").hover()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("window.hit") is None
    left = [page.locator(f"#compare-picture-{place}").bounding_box()["x"] for place in range(5)]
    assert left[3:] == left[1:3]
    assert page.locator(f"#compare .who[title='{'x' * 200}']").count() > 0


def test_the_verdicts_stand_side_by_side(pair, make_finding, tmp_path, monkeypatch):
    mine, both = make_finding("error", layers=("fc",)), make_finding("advice", rule="drift", name="Drift")
    verdicts = {
        pair["a"].path: Verdict([both], [], ["drift"], ""),
        pair["b"].path: Verdict([mine, both], [], ["drift", "dead_relu"], ""),
    }
    monkeypatch.setattr("actlab.pages.comparison_build.check", lambda run, **_: verdicts[run.path])
    text = compare_report(pair, tmp_path / "page.html", sections=["verdict"]).read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", text.split("<tbody>")[2], re.DOTALL)
    cells = [
        [re.sub(r"<.*?>|\s+", " ", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]
    assert [row[0].split(":")[-1].strip() for row in cells] == ["Dead ReLU", "Drift"]
    assert cells[0][1].split() == ["a", "not", "found"]
    assert "63 of 64 units gave 0." in cells[0][2]


def test_a_verdict_of_too_little_is_no_sign_of_health(pair, tmp_path, monkeypatch):
    monkeypatch.setattr("actlab.pages.comparison_build.check", lambda run, **_: Verdict([], [], [], ""))
    text = compare_report(pair, tmp_path / "page.html", sections=["verdict"]).read_text(encoding="utf-8")
    assert "not enough data to tell anything" in text
    assert "No finding" not in text


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_inaccessible_or_too_wide(drawn, open_page, scheme):
    page = open_page(drawn, color_scheme=scheme, width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    options = {"runOnly": {"type": "tag", "values": LEVELS}, "resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response["violations"]
    assert {each["id"]: [node["target"] for node in each["nodes"]] for each in found} == {}


def test_the_recipe_as_run_draws_the_same_bytes(drawn, pair, tmp_path):
    again = compare_report(pair, tmp_path / "again.html", recipe=drawn.with_suffix(".toml"))
    assert again.read_bytes() == drawn.read_bytes()
    assert load_recipe(drawn.with_suffix(".toml")).charts["comparison"]["sort"] == "distance"


def test_the_verb_writes_a_page_of_the_sections_asked_for(pair, tmp_path, capsys):
    (tmp_path / "wish.toml").write_text('sections = ["numbers", "wall"]\n')
    paths = [run.path for run in pair.values()]
    command = ["compare", *paths, "--recipe", str(tmp_path / "wish.toml"), "-o", str(tmp_path / "some.html")]
    assert main(command) == 0
    text = (tmp_path / "some.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="([a-z]+)"', text) == ["top", "numbers", "layers"]
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--max-size", "0.001"]) == 2
    assert "max_size: the page takes" in capsys.readouterr().err


def test_names_of_the_recipe_draw_the_page_again(drawn, pair, tmp_path):
    paths = [run.path for run in pair.values()]
    again = compare_report(paths, tmp_path / "again.html", recipe=drawn.with_suffix(".toml"))
    assert again.read_bytes() == drawn.read_bytes()
    others = charts(comparison={"names": ["a", "b", "c"]})
    with pytest.raises(RecipeError, match="names: 3 names for 2 runs"):
        compare_report(paths, tmp_path / "other.html", recipe=others)


def test_a_run_beside_itself_differs_in_nothing(pair, tmp_path):
    twice = {"one": pair["a"], "two": pair["a"]}
    columns, epochs = prepare(twice, actlab.LinearAxis(-4, 4, 40))
    assert not epochs["total_variation"].any()
    scale = scale_of(columns, ComparisonOptions())
    for layer in pair["a"].names:
        assert not signed_codes(cells(columns, layer, (88, 70)).differences, scale).any()


def test_signed_codes_hold_their_sign_and_size():
    scale = Scale(1e-6, 1.0, 1e-4, 0.001, 0.1)
    codes = signed_codes(np.array([0.1, -0.1, 0.001, -0.001, 0.0005, 0.0, np.nan, 5.0]), scale)
    assert codes.tolist() == [STEPS, 2 * STEPS, 1, STEPS + 1, 0, 0, 0, STEPS]


def test_a_page_is_as_small_as_it_must_be(pair, tmp_path):
    wish = charts(comparison={"tile_height": 1000})
    options = {"h_min": -4, "h_max": 4, "n_bins": 1000, "sections": ["wall"], "overwrite": True}
    page = compare_report(pair, tmp_path / "page.html", recipe=wish, **options)
    limit = 0.9 * page.stat().st_size / 1e6
    compare_report(pair, page, recipe=wish, max_size=limit, **options)
    assert page.stat().st_size <= 1e6 * limit
    assert load_recipe(page.with_suffix(".toml")).max_size == limit
    with pytest.raises(RecipeError, match="max_size: the page takes"):
        compare_report(pair, page, max_size=0.01, **options)


def test_every_stage_is_told(pair, tmp_path):
    told = []
    compare_report(pair, tmp_path / "page.html", progress=lambda *each: told.append(each))
    stages = dict.fromkeys(stage for stage, _, _ in told)
    assert list(stages) == [
        "checking a",
        "checking b",
        "comparing columns",
        "comparing epochs",
        "drawing sections",
    ]
    for stage in stages:
        *_, last = [each for each in told if each[0] == stage]
        assert last[1] == last[2] > 0


def charts(**options):
    return Recipe(charts=options)


@pytest.mark.parametrize(
    ("error", "said", "n_runs", "options"),
    [
        (SelectionError, "at least two runs", 1, {}),
        (SelectionError, "at most 6 runs, got 8", 8, {}),
        (SelectionError, "no layer 'neer' in any", 2, {"layers": "neer"}),
        (RecipeError, "a comparison has no section 'per_class'", 2, {"sections": ["per_class"]}),
        (RecipeError, "unknown chart 'comparisn' ", 2, {"recipe": charts(comparisn={})}),
        (RecipeError, "comparison: unknown key 'sorts'", 2, {"recipe": charts(comparison={"sorts": 1})}),
        (RecipeError, "epochs: a comparison shows all epochs", 2, {"recipe": Recipe(epochs=[1])}),
    ],
)  # fmt: skip
def test_bad_wishes_are_refused_in_one_line(pair, tmp_path, error, said, n_runs, options):
    with pytest.raises(error, match=said) as caught:
        compare_report([*pair.values(), *[pair["a"]] * 6][:n_runs], tmp_path / "page.html", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
