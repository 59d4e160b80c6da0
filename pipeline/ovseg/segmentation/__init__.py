"""The two-stage segmenter: proposals, their names by CLIP and by the proposal network, one map. Also a demo's and the CLI's."""
