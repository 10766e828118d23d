"""What every Ray Train job shares: launcher, worker, checkpoints, run folder, optimizer and seeding."""
