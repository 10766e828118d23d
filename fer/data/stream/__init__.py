"""Streams rows from shards to training workers: sampler, reader and prefetching."""
