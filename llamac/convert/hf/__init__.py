"""Hugging Face: config.json, safetensors and tokenizer files."""
