"""Vision-language models: chat format, model loading, supervised fine-tuning on DeepSpeed, and adapter merging."""
