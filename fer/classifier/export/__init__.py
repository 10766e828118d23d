"""Writing models: after training, and as graphs for runtimes without PyTorch."""
