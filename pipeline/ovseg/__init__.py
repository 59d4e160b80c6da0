"""OVSeg: mine mask-noun pairs from captions, adapt CLIP to masked crops, segment with any words."""

__version__ = "0.1.0"
