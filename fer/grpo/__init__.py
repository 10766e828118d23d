"""Reinforcement learning of vision-language models with verifiable rewards (GRPO)."""
