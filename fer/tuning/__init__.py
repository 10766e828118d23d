"""Hyperparameter sweeps on Ray Tune: search spaces, search algorithms, early stopping, trials, and the report."""
