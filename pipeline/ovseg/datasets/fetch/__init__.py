"""Bring published data sets onto this machine: download, unpack and verify them, or link a copy that is already there.

In the folder of a data set (data/coco):

    archives/            downloaded files; removed once their content is verified
    receipts/PART.json   what was downloaded, or where a linked copy is
    manifests/PART.tsv   path, size and sha256 of every file; DVC tracks the manifests instead of the files
"""
