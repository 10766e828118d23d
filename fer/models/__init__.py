"""Shared by the trained networks: timm backbone, model folder, model card and device."""
