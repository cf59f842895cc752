"""What looks sick in a run, since when, why it matters and what to do about it."""
