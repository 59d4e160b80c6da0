"""Series of variants of the pipeline."""
