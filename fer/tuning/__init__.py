"""Hyperparameter campaigns on Ray Tune: spaces, search, early stopping, trials, records and the report."""
