"""Inference clients (OpenAI-compatible endpoints, vLLM, classifiers), and batch inference on Ray Data."""
