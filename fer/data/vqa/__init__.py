"""Questions about faces: prompts, building them from labelled faces, and preparing them as shards."""
