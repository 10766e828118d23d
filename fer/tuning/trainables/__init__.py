"""The jobs that `fer tune` can tune: one file per job, and a registry."""
