"""Training: one loop, objectives as functions, and the loader of mined shards."""
