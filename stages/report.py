"""Stage `report`: metrics, tables, plots, overlays, the page, and the pair browser of this run."""

from ovseg.core.params import Params
from ovseg.engine.runtime import from_environment
from ovseg.report.run_report import RunFolders, write_report
from stages._run import run_stage


def main(params: Params) -> None:
    """Read the section report, data/*, models/* and reports/*; write reports/."""
    text = write_report(
        RunFolders(),
        from_environment(),
        params.report,
        images=params.index.images,
        captions=params.index.captions,
        captions_per_image=params.nouns.captions_per_image,
        benchmark_folder=params.evaluate.folder,
        benchmarks=params.evaluate.benchmarks,
        models=params.evaluate.models,
        mask_threshold=params.evaluate.mask_threshold,
        weight=params.evaluate.weight,
        options=params.segment,
        crop=params.crop,
    )
    print(text, flush=True)


if __name__ == "__main__":
    run_stage(main)
