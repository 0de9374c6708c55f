"""Export a checkpoint's network: `python jobs/export.py RUN --output DIR`.

Exit code 0: written and equal to the checkpoint's network. 1: an error of the program. 2: the checkpoint cannot be
used, or an exported network differs. 130: interrupted.
"""

from __future__ import annotations

from typing import Annotated

import tyro

from hemodist.job import filled, run_job


def main(
    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")], /, output: str | None = None
) -> None:
    """Write model.pt2 (torch.export), model.onnx where onnxscript is installed, and model.json, which describes them.

    Args:
        checkpoint: a run's folder (its best checkpoint is taken) or a .pt file.
        output: folder or URI for the files; by default the folder `export` beside the checkpoint.
    """
    from hemodist.models.trained import folder_of, open_trained
    from hemodist.predict.export import export
    from hemodist.reports.terminal import console, facts_table

    where = output or f"{folder_of(checkpoint)}/export"
    described = export(open_trained(checkpoint), where)
    facts = {name: f"{facts['bytes']:,} bytes, logits within {facts['largest difference of a logit']:.1e}"
             for name, facts in described["files"].items()}  # fmt: skip
    console.print(facts_table(f"Exported to {where}", facts | {"onnx": described.get("onnx", "written")}))


if __name__ == "__main__":
    run_job(lambda: tyro.cli(main, description=filled(__doc__)))
