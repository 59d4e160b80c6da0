"""The commands `ovseg-mine` (mining on its own) and `ovseg` (what is done with adapted CLIPs)."""
