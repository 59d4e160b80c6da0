"""Published data sets from their servers to manifests: download, unpack, verify; or link what is there already.

Below a data set's folder (data/coco):

    archives/            what is downloaded; removed once its files are verified
    receipts/PART.json   what was downloaded, or linked from where
    manifests/PART.tsv   path, bytes and sha256 of every file; DVC follows these instead of the files
"""
