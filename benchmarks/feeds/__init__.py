"""The feeds that `benchmarks.train_feed` compares, and the cost of their stages."""
