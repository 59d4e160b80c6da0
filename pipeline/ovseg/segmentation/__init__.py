"""Two-stage open-vocabulary segmentation: a proposal network finds regions, it and CLIP classify them, one map results."""
