"""The store floor: one run on disk as plain Zarr v3. `docs/format.md` states the format."""
