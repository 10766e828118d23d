"""The timm image classifier: configuration, model, augmentation, losses, training loop and predictor."""
