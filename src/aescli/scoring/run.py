"""A whole scoring run: images in, an output completed, and the counts that its last line reports.

It puts the pipeline and an output together and decides what counts as failure. It prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aescli.data.finding import Found, printable
from aescli.scoring.output import Output
from aescli.scoring.pipeline import score_images
from aescli.scoring.predictor import Predictor
from aescli.scoring.prepare import Prepared
from aescli.scoring.rows import ImageResult


@dataclass(slots=True)
class Summary:
    """How many images had which outcome; `resumed` of them were in the journal already."""

    ok: int = 0
    no_face: int = 0
    failed: int = 0
    resumed: int = 0
    first_error: str = ""
    """`path: reason` of the first image without a score."""

    @property
    def images(self) -> int:
        return self.ok + self.no_face + self.failed

    def count(self, result: ImageResult) -> None:
        if result.outcome != "ok" and not self.first_error:
            self.first_error = (
                f"{printable(result.path)}: {next(row.error for row in result.rows if row.error)}"
            )
        match result.outcome:
            case "ok":
                self.ok += 1
            case "no face":
                self.no_face += 1
            case _:
                self.failed += 1


def run(
    images: Iterable[Found],
    prepare: Callable[[Found], Prepared],
    predictor: Predictor,
    output: Output,
    *,
    batch_size: int,
    workers: int,
    observe: Callable[[ImageResult], None] = lambda result: None,
) -> Summary:
    """Score `images` into `output` and complete it. `observe` sees each result once.

    An exception (KeyboardInterrupt included) leaves the output as `Output.abort` does and is raised. A run
    that found no image at all completes nothing: its summary has images == 0.
    """
    summary = Summary()

    def known(result: ImageResult) -> None:
        summary.resumed += 1
        summary.count(result)
        observe(result)

    try:
        batches = score_images(
            output.remaining(images, known), prepare, predictor, batch_size=batch_size, workers=workers
        )
        try:
            for results in batches:
                output.add(results)
                for result in results:
                    summary.count(result)
                    observe(result)
        finally:
            batches.close()
        if summary.images:
            output.finish(scored=summary.ok > 0)
        else:
            output.abort()
    except BaseException:
        output.abort()
        raise
    return summary
