"""The timm image classifier: options, model, augmentation, losses, training, prediction and evaluation."""
