"""The report of a run: metrics, tables, plots, overlay sheets, the page and the pair browser; and texts for the terminal."""
