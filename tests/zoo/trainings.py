"""All trainings of the zoo, by name."""

from importlib import import_module

from tests.zoo.registry import TRAININGS

__all__ = ["TRAININGS"]

for _kind in ("healthy_images", "healthy_others", "healthy_more", "healthy_further"):
    import_module(f"tests.zoo.{_kind}")
for _kind in ("units", "scale", "steps", "cycles", "inputs", "answers", "further"):
    import_module(f"tests.zoo.sick_{_kind}")
