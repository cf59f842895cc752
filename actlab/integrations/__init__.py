"""Two lines in a framework: one callback for each, over `actlab.Recorder`; and pushers for trackers."""
