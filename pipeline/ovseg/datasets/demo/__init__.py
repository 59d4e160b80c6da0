"""The drawn demo data set: pictures, captions and masks from a seed, with no download."""
