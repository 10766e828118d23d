"""Face data: sources, splits, shards, streaming, quarantine and synthetic faces."""
