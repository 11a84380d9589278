"""What the rooms of the Qwen-VL family share."""
