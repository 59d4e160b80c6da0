"""What a run of the pipeline will handle, take and write, told from params.yaml alone: `ovseg plan`."""
