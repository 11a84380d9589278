"""A backbone from another package: Qwen2-VL, as docs/adding_a_backbone.md says."""
