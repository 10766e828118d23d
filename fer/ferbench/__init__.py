"""FERBench (arXiv 2511.00389): answers of any model to questions about faces, scored in two protocols side by side."""
