"""Speed and memory benchmarks: `python -m benchmarks [NAME ...]` or `make bench`. Ratios within one run."""
