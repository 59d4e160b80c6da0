"""`ovseg app`: segmentation and mined pairs in the browser. It calls `Segmenter` and changes no result.

answers       segmentations of an image by several models; what does not depend on words, weight or threshold is kept
view          a segmentation as the page draws it
pair_pages    the pairs of a run: filtered, sorted, a page at a time, and marked as wrong
outputs       files for download
segment_tab   the controls of segmentation; segment_handlers is what they do
pairs_tab     the controls of pairs
server        the page and its limits

Gradio is an extra; it is imported when the page is built.
"""
