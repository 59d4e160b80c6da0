"""One thin script for each stage of dvc.yaml: read params, call one function of the library, write files."""

from ovseg.engine.process import start_process

start_process()  # before a script imports torch
