"""On SGLang's path when it serves an export of ours: it may live in another environment, without this package."""
