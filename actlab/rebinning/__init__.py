"""Counts on the recording axis -> counts on the axis of a picture, with the error stated.

The mass of a bucket goes to the bins it overlaps by monotone cubic interpolation (PCHIP) of the
cumulative counts. Interpolation is not additive: pool counts first, then re-bin.
"""

from actlab.rebinning.arrays import Rebinned, bin_array, rebin_array
from actlab.rebinning.blocks import over_blocks
from actlab.rebinning.buckets import LARGEST, Buckets, middles
from actlab.rebinning.kernel import cubic
from actlab.rebinning.labelled import bin_values, buckets_of, check_array, label_bins, rebin
from actlab.rebinning.slots import Slots, octave

__all__ = [
    "LARGEST",
    "Buckets",
    "Rebinned",
    "Slots",
    "bin_array",
    "bin_values",
    "buckets_of",
    "check_array",
    "cubic",
    "label_bins",
    "middles",
    "octave",
    "over_blocks",
    "rebin",
    "rebin_array",
]
