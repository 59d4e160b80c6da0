"""The drawn world of the demo: images, captions and masks from a seed, without a download."""
