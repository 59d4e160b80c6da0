"""One thin script for each stage of dvc.yaml: read params, call one function of the library, write files."""
