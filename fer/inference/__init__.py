"""Inference over prompts: endpoints, vLLM engines and classifiers behind one interface, in batches over Ray Data."""
