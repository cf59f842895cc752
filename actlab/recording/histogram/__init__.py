"""Counting kernels: one pass over a tensor gives its counts on the recording axis and its moments."""
