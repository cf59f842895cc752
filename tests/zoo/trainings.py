"""All trainings of the zoo, by name."""

from tests.zoo import sick_units  # noqa: F401 - entering its trainings
from tests.zoo.registry import TRAININGS

__all__ = ["TRAININGS"]
