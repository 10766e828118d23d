"""What `fer predict --draw` writes: annotated pictures and videos, and contact sheets."""
