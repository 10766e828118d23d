"""Rows from shards to training workers: the sampler decides the order, the reader streams, prefetch reads ahead."""
