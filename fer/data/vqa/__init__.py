"""Questions about faces: prompts, question rows built from labelled faces, and their shards."""
