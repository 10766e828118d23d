"""What a machine with GPUs does with Ferry: see `benchmarks.gpu.__main__`."""
