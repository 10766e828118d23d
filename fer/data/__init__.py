"""Face data: sources, splits, shards, streaming, questions and synthetic faces."""
