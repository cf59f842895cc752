"""Peaks of the head's outputs: their number, YES and NO, by class and over the epochs."""

from actlab.peaks.by_class import class_peaks
from actlab.peaks.by_epoch import trend
from actlab.peaks.description import head_axis, twin_peaks
from actlab.peaks.shapes import modes

__all__ = ["class_peaks", "head_axis", "modes", "trend", "twin_peaks"]
