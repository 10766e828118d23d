"""Vision-language models: questions and prompts, supervised fine-tuning, and the models that come of it."""
