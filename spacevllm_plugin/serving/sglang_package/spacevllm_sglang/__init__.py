"""Named by `SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE`; SGLang looks into each file beside this one for processors."""
