"""The drawn demo data set: images, captions and masks from a seed, with no download."""
