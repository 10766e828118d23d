"""What the trained networks share: the timm backbone, the model folder and the model card."""
