"""OpenAI's chat API for vision-language models."""
