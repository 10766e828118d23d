"""What every Ray Train job shares: launching, checkpoints, resume and progress."""
