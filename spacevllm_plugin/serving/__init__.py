"""Inference engines (vLLM, SGLang) as the language model: the export they read, the prompts they get, boxes of their states."""
