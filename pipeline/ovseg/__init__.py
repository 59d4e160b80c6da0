"""OVSeg: mine mask-noun pairs from captions, adapt CLIP to masked crops, open-vocabulary segmentation."""

__version__ = "0.1.0"
