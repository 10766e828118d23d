"""Face data: sources, splits, shards, streaming and synthetic faces."""
