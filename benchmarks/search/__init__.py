"""Searchers compared on recorded learning curves: `record` trains the configurations once, `replay` searches them."""
