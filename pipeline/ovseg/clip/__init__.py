"""CLIP: loading, saving, encoding."""
