"""Train every recipe, draw all its pages into `gallery/`, and write `index.html`: ``make gallery``.

    python reports/gallery.py [RECIPE ...] [--draw] [--kept]

With `--draw` runs that are there are drawn without training; with `--kept` the index links to the pages alone
that the repository keeps, as the one in it does. Exit code 1 where a recipe does not show what its README
says.
"""

import argparse
import base64
import io
import re
import sys
import tempfile
import time
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

import actlab
from actlab.experiments import Experiment, draw, find_experiment, train

HERE = Path(__file__).parent
GALLERY = HERE / "gallery"
KEPT = ("mnist_3_vs_7", "sentiment", "head_pose")  # small pages that are kept in the repository
WALLS = ("resnet18", "lr_too_high", "language_model")  # whose layers tell more than their head alone
VIEWS = {"resnet18": {"h_min": -12, "h_max": 12}}  # where the first epochs lie far outside of the last one
WIDTH = 360  # of a picture on the index, in pixels
SIZE = {"width": 520, "height": 220}  # it is drawn larger, but not so large that its words cannot be read


def pictures(experiment: Experiment, run: actlab.Run) -> list[dict[str, str]]:
    """Return pictures of a run, each as a data URL and what it shows."""
    layer = str(run.head)
    axis = actlab.peaks.head_axis(run, layer)
    view = {"h_min": axis.h_min, "h_max": axis.h_max}
    charts = [
        ("colorful", {"layer": layer, **view, **SIZE}, f"The colorful dimension of {layer}, the last layer"),
        ("twin_peaks", {**VIEWS.get(experiment.name, view), **SIZE}, "The Twin Peaks of the last epoch"),
    ]
    if experiment.name in WALLS:
        charts[0] = "wall", {}, "Every layer"
    if experiment.name == "lr_too_high":
        charts.pop()  # its outputs are thrown about so far that there are no peaks to see
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        for chart, options, text in charts:
            path = actlab.export(run, Path(folder) / f"{chart}.png", chart=chart, **options)
            picture = Image.open(path).convert("RGB")
            height = round(picture.height * 2 * WIDTH / picture.width)
            picture = picture.resize((2 * WIDTH, height), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=80, method=6)
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            size = {"width": str(WIDTH), "height": str(height // 2)}
            shown.append({"url": f"data:image/webp;base64,{data}", "text": text, **size})
    return shown


def card(experiment: Experiment, pages: list[Path]) -> dict[str, object]:
    """Return what the index says of one recipe."""
    run = actlab.open_run(experiment.run)
    recipes = experiment.pages()
    return {
        "name": experiment.name,
        "summary": experiment.summary,
        "title": recipes[""].title,
        "effects": experiment.effects(run),
        "pictures": pictures(experiment, run),
        "page": f"gallery/{pages[0].name}",
        "variants": [
            (recipe.title, f"gallery/{path.name}")
            for recipe, path in list(zip(recipes.values(), pages, strict=True))[1:]
        ],
    }


def main() -> int:
    """Make the gallery."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE")
    parser.add_argument("--draw", action="store_true", help="without training")
    parser.add_argument("--kept", action="store_true", help="link to the kept pages only")
    options = parser.parse_args()
    cards = []
    told = re.findall(r"^\| \[(\w+)\]", (HERE.parent / "recipes" / "README.md").read_text(), re.MULTILINE)
    for experiment in map(find_experiment, options.recipes or told):
        began = time.perf_counter()
        if not options.draw:
            train(experiment, overwrite=True)
        cards.append(card(experiment, draw(experiment, folder=GALLERY, overwrite=True)))
        print(f"{experiment.name}: {time.perf_counter() - began:.0f} s")
    kept = [f"gallery/{name}.html" for name in KEPT] if options.kept else None
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("index.html.j2").render(cards=cards, kept=kept)
    (HERE / "index.html").write_text(text, encoding="utf-8")
    missing = [f"{each['name']}: {words}" for each in cards for words, there in each["effects"] if not there]
    for words in missing:
        print(f"NOT SEEN: {words}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
