"""All trainings of the zoo, by name."""

from tests.zoo import healthy_images, healthy_more, healthy_others, sick_answers, sick_cycles, sick_inputs, sick_scale, sick_steps, sick_units  # noqa: F401
from tests.zoo.registry import TRAININGS

__all__ = ["TRAININGS"]
