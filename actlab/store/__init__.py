"""The store floor: one run on disk as plain Zarr v3. `docs/format.md` states the format.

A way through its modules:

- what a row holds: `row`, `side`; how rows become chunks: `chains`, `blosc`, `layout`, `arrays`,
  `side_table`, `table`;
- where they go: `urls`, `files`, `bucket`, `objects`; when: `queue`, `commit`, `news`, `writer`;
- a run that is gone on with: `attempts`, `resuming`, `layer_map`, `beginning`;
- reading: `sources`, `record`, `groups` (checked before the rest), `decoding`, `lazy`, `reader`, `splits`;
- row by row, for the verbs: `rows`, `stored`, `verifying`, `recovering`, `repairing`, `placing`,
  `compacting`, `packing`, `branching`;
- several ranks: `merging`, `joining`, `rank_groups`, `ranks`.
"""
