import re
import subprocess
import sys
import tomllib
from html import unescape

import numpy as np
import pytest

from actlab.errors import AxisError, RecipeError, SelectionError, StoreError
from actlab.findings.catalogue import RULES
from actlab.findings.finding import Verdict
from actlab.pages.build import report
from actlab.recipe import SECTIONS, Recipe, load_recipe


@pytest.fixture(scope="module")
def drawn(small_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "sub" / "small.html"
    seen = []
    assert report(small_run, path, h_min=-4, h_max=4, progress=lambda *call: seen.append(call)) == path
    assert {stage for stage, _, _ in seen} == {"checking batches", "reading batches", "drawing sections"}
    assert all(0 <= done <= total for _, done, total in seen)
    return path


def test_the_page_holds_its_sections_in_order(drawn):
    html = drawn.read_text(encoding="utf-8")
    found = re.findall(r'<section id="([a-z]+)"', html)
    middle = ["layers", "detail", "peaks", "classes", "reading", "numbers"]
    assert found == ["top", "verdict", *middle, "provenance"]


def test_every_layer_is_a_picture_with_its_numbers_in_words(drawn, small_run):
    html = drawn.read_text(encoding="utf-8")
    alts = re.findall(
        r'<img src="data:image/png;base64,[^"]+" width="\d+" height="\d+" alt="(Layer [^"]+)"', html
    )
    assert len(alts) == len(small_run.names)
    assert all(
        re.search(r"mean -?\d.* std \d.* zeros .* out of range", alt) or "never called" in alt for alt in alts
    )


def test_the_table_says_what_the_store_holds(drawn, small_run):
    html = drawn.read_text(encoding="utf-8")
    train = small_run["train"]
    for index, name in enumerate(small_run.names):
        row = re.search(rf'<tr id="row-{index}">(.*?)</tr>', html, re.DOTALL)[1]
        values = re.findall(r'data-value="([^"]*)"', row)
        one = train.sel(layer=name).compute()
        n = int(one.n.sum())
        assert int(values[-1]) == n
        if n == 0:
            assert values[2:-1] == [""] * 7
            continue
        zeros = int(one.counts.isel(bucket=small_run.axis.zero).sum()) / n
        assert float(values[4]) == one["min"].min()
        assert float(values[5]) == one["max"].max()
        assert float(values[6]) == pytest.approx(zeros, rel=1e-12)
        assert float(values[8]) * n == pytest.approx(3 * train.sizes["step"] if name == "wild" else 0)
        if name == "fc":
            assert float(values[2]) == pytest.approx(float(one["mean"].mean()), rel=1e-9)


def test_nan_and_infinity_are_marked_wherever_the_layer_is(drawn, small_run, tmp_path):
    html = drawn.read_text(encoding="utf-8")
    tiles = re.findall(r'data-name="([^"]+)" title.*?</a>', html, re.DOTALL)
    texts = re.findall(r'<a class="tile.*?</a>', html, re.DOTALL)
    marked = [name for name, tile in zip(tiles, texts, strict=True) if 'class="broken"' in tile]
    assert marked == [name for name, tile in zip(tiles, texts, strict=True) if "NaN or infinite 0.7" in tile]
    assert marked == ["wild"]
    assert "<dd>in 1 layer</dd>" in html
    clean = report(small_run, tmp_path / "clean.html", layers="!wild", h_min=-4, h_max=4).read_text("utf-8")
    # The verdict is on the whole run, the rest on the layers of the page.
    assert "NaN/inf" not in clean.split('<section id="layers"')[1].split("<script")[0]


def test_a_selection_of_epochs_keeps_its_batch_numbers(small_run, tmp_path):
    html = report(small_run, tmp_path / "some.html", epochs=[0, 2], h_min=-4, h_max=4).read_text("utf-8")
    assert "batches 0 to 8, 18 to 26 (epochs 0, 2) from left to right" in html
    assert "<small>train split, epochs 0, 2</small>" in html
    assert '"steps":[[0,0],[9,18]],"every":1' in html
    first, last = re.search(r"<b>loss</b> (\S+) \N{RIGHTWARDS ARROW} (\S+)</figcaption>", html).groups()
    assert (float(first), float(last)) == pytest.approx((1, np.exp(-2.6)), rel=1e-3)


def test_two_paths_give_the_same_bytes(drawn, small_run, tmp_path):
    other = report(small_run.path, tmp_path / "other.html", h_min=-4, h_max=4)
    assert other.read_bytes() == drawn.read_bytes()
    assert other.with_suffix(".toml").read_bytes() == drawn.with_suffix(".toml").read_bytes()


def test_the_recipe_as_run_draws_the_same_page(drawn, small_run, tmp_path):
    again = report(small_run, tmp_path / "again.html", recipe=drawn.with_suffix(".toml"))
    assert again.read_bytes() == drawn.read_bytes()


def test_what_is_not_a_default_comes_first_and_is_enough(drawn, small_run, tmp_path):
    def first(path):
        html = path.read_text("utf-8")
        return unescape(re.search(r"not a default</h3>\s*<pre><code>(.*?)</code>", html, re.DOTALL)[1])

    assert tomllib.loads(first(drawn)) == {"h_min": -4, "h_max": 4}
    mine = {
        "title": "Mine",
        "h_min": -2.0,
        "h_max": 3.0,
        "n_bins": 50,
        "sections": ["detail", "twin_peaks", "provenance"],
        "charts": {"colorful": {"height": 200, "show_layer_info": False}, "twin_peaks": {"height": 500}},
    }
    told = report(small_run, tmp_path / "told.html", recipe=Recipe(**mine))
    assert tomllib.loads(first(told)) == mine
    assert "--recipe report.toml" in told.read_text("utf-8")
    (tmp_path / "short.toml").write_text(first(told))
    again = report(small_run, tmp_path / "again.html", recipe=tmp_path / "short.toml")
    assert again.read_bytes() == told.read_bytes()


def test_the_recipe_as_run_leaves_no_default_open(drawn):
    recipe = load_recipe(drawn.with_suffix(".toml"))
    assert (recipe.h_min, recipe.h_max, recipe.n_bins, recipe.title) == (-4, 4, 200, "run")
    assert set(recipe.charts) == {"wall", "colorful", "twin_peaks", "per_class"}
    assert recipe.sections == list(SECTIONS)
    assert "width" not in recipe.charts["colorful"]
    assert recipe.limits == {name: rule.limits().model_dump() for name, rule in RULES.items()}


def test_thresholds_of_the_recipe_go_into_the_verdict_and_the_command(small_run, tmp_path, monkeypatch):
    known = {name: rule.limits().model_dump() for name, rule in RULES.items()}
    floats = [(name, key) for name in known for key, value in known[name].items() if isinstance(value, float)]
    rule, key = floats[0]
    mine = {rule: {key: known[rule][key] / 2}}
    seen = {}

    def check(_, **options):
        seen.update(options)
        return Verdict([], [], [], small_run.path)

    monkeypatch.setattr("actlab.pages.build.check", check)
    path = report(small_run, tmp_path / "mine.html", recipe=Recipe(limits=mine), h_min=-4, h_max=4)
    assert seen["limits"] == known | {rule: known[rule] | mine[rule]}
    assert seen["axis"].h_max == 4
    assert load_recipe(path.with_suffix(".toml")).limits == seen["limits"]
    assert "--recipe report.toml" in path.read_text(encoding="utf-8")


def test_the_command_is_printed_without_the_output(drawn, small_run):
    html = drawn.read_text(encoding="utf-8")
    assert f"actlab report {small_run.path} --h-min -4.0 --h-max 4.0 --n-bins 200</code>" in html
    assert drawn.name not in html
    assert "<small>train split, whole run</small>" in html


def test_layers_and_epochs_choose(small_run, tmp_path):
    path = report(small_run, tmp_path / "some.html", layers="body.*", epochs=[-1, 1], n_bins=50)
    html = path.read_text(encoding="utf-8")
    assert re.findall(r'class="tile[^"]*" id="tile-\d+"[^>]+ data-name="([^"]+)"', html) == [
        "body.linear",
        "body.relu",
        "body.dropout",
    ]
    assert "--layers &#39;body.*&#39; --epochs=-1,1" in html


def test_a_run_without_head_has_no_twin_peaks(record_run, tmp_path):
    rows = [(0, {"a": np.arange(6.0)}, None) for _ in range(3)]
    run = record_run({"train": rows}, ["a"], head=None, raw=False)
    html = report(run, tmp_path / "plain.html").read_text(encoding="utf-8")
    assert '<section id="peaks"' not in html


def test_existing_outputs_stay(small_run, tmp_path):
    for name in ("page.html", "page.toml"):
        path = tmp_path / name
        path.write_text("mine")
        with pytest.raises(StoreError, match=rf"{name} exists already; overwrite=True or --overwrite"):
            report(small_run, tmp_path / "page.html")
        assert path.read_text() == "mine"
        path.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "said", "options"),
    [
        (RecipeError, "h_min must be below h_max", {"h_min": 4, "h_max": -4}),
        (AxisError, "h_min must be below h_max", {"h_min": 1e9}),
        (RecipeError, "n_bins", {"n_bins": 0}),
        (SelectionError, "no layer 'fcc'.*did you mean 'fc'", {"layers": ["fcc"]}),
        (SelectionError, "no epoch 7", {"epochs": [7]}),
        (RecipeError, "unknown rule 'no_such' in limits", {"recipe": Recipe(limits={"no_such": {}})}),
        (RecipeError, "unknown chart 'wal' .*'wall'", {"recipe": Recipe(charts={"wal": {}})}),
        (
            RecipeError,
            "charts.colorful: unknown key 'max_column' .*'max_columns'",
            {"recipe": Recipe(charts={"colorful": {"max_column": 3}})},
        ),
        (
            RecipeError,
            "charts.twin_peaks: width is for pictures in notebooks",
            {"recipe": Recipe(charts={"twin_peaks": {"width": 900}})},
        ),
    ],
)
def test_bad_wishes_are_refused_in_one_line_and_nothing_is_written(small_run, tmp_path, error, said, options):
    with pytest.raises(error, match=said) as caught:
        report(small_run, tmp_path / "page.html", **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["page.toml", "page", "", "zarr.json"])
def test_a_page_takes_the_place_of_nothing_but_a_page(small_run, tmp_path, name):
    with pytest.raises(StoreError, match=r"ends in \.html"):
        report(small_run, tmp_path / name, overwrite=True)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(small_run, tmp_path):
    (tmp_path / "file").write_text("no folder")
    stages = []
    with pytest.raises(StoreError, match="cannot write into"):
        report(small_run, tmp_path / "file" / "page.html", progress=lambda *stage: stages.append(stage))
    assert not stages


def test_more_bins_than_memory_holds_are_refused(small_run, tmp_path):
    with pytest.raises(RecipeError, match="at most 4096 bins"):
        report(small_run, tmp_path / "page.html", n_bins=10**6)


def test_a_run_without_training_has_nothing_to_draw(record_run, tmp_path):
    run = record_run({"valid": [(-1, {"fc": np.ones((4, 2))}, None)]}, ["fc"])
    with pytest.raises(StoreError, match="no training batch"):
        report(run, tmp_path / "page.html")


def test_reporting_never_loads_torch(small_run, tmp_path):
    code = (
        "import sys; from actlab.pages.build import report; "
        f"report({small_run.path!r}, {str(tmp_path / 'page.html')!r}, h_min=-4, h_max=4); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_layer_of_absurd_size_does_not_hide_the_others_and_is_named(record_run, tmp_path):
    random = np.random.default_rng(0)
    names = ["a", "b", "c", "<b>huge"]
    sizes = dict(zip(names, [1, 1, 1, 1e37], strict=True))
    rows = [
        (0, {name: random.normal(0, 1, 99) * size for name, size in sizes.items()}, None) for _ in range(4)
    ]
    run = record_run({"train": rows}, names, head=None, raw=False)
    html = report(run, tmp_path / "page.html", sections=["verdict", "wall"]).read_text(encoding="utf-8")
    assert load_recipe(tmp_path / "page.toml").h_max <= 4
    assert re.search(r"out of this range: 100% of <bdi>&lt;b&gt;huge</bdi></span>", html)
    assert "Out of view" in html


def test_layers_partly_out_of_the_range_are_named_the_largest_share_first(record_run, tmp_path):
    parts = {"a": 0, "b": 50, "c": 600, "d": 1000, "e": 15, "f": 9}
    batch = {name: np.repeat([0.5, 5.0], [1000 - part, part]) for name, part in parts.items()}
    run = record_run({"train": [(0, batch, None)]}, [*parts, "never"], head=None, raw=False)
    html = report(run, tmp_path / "page.html", sections=["wall"], h_min=-1, h_max=1).read_text(
        encoding="utf-8"
    )
    named = re.search(r"out of this range: (.*?)</span>", html)[1]
    assert named == "100% of <bdi>d</bdi>, 60% of <bdi>c</bdi>, 5.0% of <bdi>b</bdi> and 1 more"
