"""What was mined, for people and for DVC: the pair browser, rows for plots, quality against the truth, summaries."""
