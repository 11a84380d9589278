"""LlamaBoard for our models; with any other model its pages stay as they are."""
