"""mixq hardware predict: what a product or a whole model would take on a chip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixq.cli import complete, options
from mixq.cli.console import OutputFormat, note, progress_bar, show, show_json
from mixq.errors import UsageError

if TYPE_CHECKING:
    from mixq.predict.prediction import Prediction
    from mixq.predict.row import Row

AUTO = "auto"
HALF_BITS = 16


def predict(
    hardware: Annotated[
        str,
        typer.Option(
            "--hardware",
            autocompletion=complete.hardware,
            metavar="NAME|FILE.toml|auto",
            help="A chip; see mixq hardware list --all. With --rows, auto takes each row's own "
            "`chip`, or the nearest chip known.",
        ),
    ],
    rows: Annotated[
        Path | None,
        typer.Option(
            "--rows",
            metavar="IN.csv",
            help="Rows to predict: columns chip, cores_or_threads, runtime, kernel, model_or_op, "
            "M, N, K, batch, seq, weight_bits, act_bits, group_size, metric, value, unit. A row "
            "without M, N and K is a whole model, such as BERT-base or Llama-2-7B decode. "
            "`value`, if there, is what was measured.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="OUT.csv",
            help="The same rows with predicted, low, high (in the row's unit), kernel, refused.",
        ),
    ] = None,
    m: Annotated[int | None, typer.Option("--m", min=1, help="Rows of activations.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Output features.")] = None,
    k: Annotated[int | None, typer.Option("--k", min=1, help="Input features.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model-name",
            metavar="NAME",
            help="A whole model by its name in place of --m --n --k: ResNet-50, BERT-base, "
            "Llama-2-7B decode.",
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Samples of one call of --model-name.")
    ] = 1,
    sequence: Annotated[
        int | None, typer.Option("--sequence", min=1, help="Tokens of each sample.")
    ] = None,
    weight_bits: Annotated[
        float, typer.Option("--weight-bits", help="Bits of a weight: 32, 16, 8, 4, 2.")
    ] = 32,
    activation_bits: Annotated[
        float | None,
        typer.Option("--activation-bits", help="Bits of an activation. Default: floats."),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option("--group-size", min=1, help="Weights of one scale. Default: one per output."),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="NAME", help="A runtime of the profile.")
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            "--kernel",
            metavar="NAME",
            help="One kernel of the profile. Default: what the runtime would pick.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Default: the profile's own.")
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Predict the latency of one product of matrices, of a whole model, or of many rows."""
    if rows is None:
        if output is not None:
            raise UsageError("--output goes with --rows; one prediction is printed")
        row = _asked(
            (m, n, k), model, batch_size, sequence, weight_bits, activation_bits, group_size,
            runtime, kernel, threads,
        )  # fmt: skip
        _one(hardware, row, format)
        return
    if output is None:
        raise UsageError("--rows needs --output OUT.csv, where the predicted rows go")
    if model is not None or any(
        given is not None for given in (m, n, k, runtime, kernel, threads)
    ):
        raise UsageError(
            "--rows says what to predict; leave out --m, --n, --k, --model-name, --runtime, "
            "--kernel and --threads"
        )
    _many(hardware, rows, output, format)


def _asked(
    shape: tuple[int | None, int | None, int | None],
    model: str | None,
    batch_size: int,
    sequence: int | None,
    weight_bits: float,
    activation_bits: float | None,
    group_size: int | None,
    runtime: str | None,
    kernel: str | None,
    threads: int | None,
) -> Row:
    """The options as a row of a table."""
    from mixq.predict.rows import question

    m, n, k = shape
    if (None in shape) == (model is None):
        raise UsageError(
            "nothing to predict: give --m, --n and --k together, or --model-name, or --rows"
        )
    if model is not None and activation_bits is None and weight_bits >= HALF_BITS:
        activation_bits = weight_bits  # a float model computes in the floats that it holds
    return question(
        m=m,
        n=n,
        k=k,
        model=model or "gemm",
        batch=batch_size,
        seq="" if sequence is None else str(sequence),
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        group_size=group_size,
        runtime=runtime or "",
        kernel=kernel or "",
        threads=threads,
    )


def _one(hardware: str, row: Row, format: OutputFormat) -> None:
    from mixq.predict.predict import Predictor
    from mixq.predict.prediction import Refusal
    from mixq.profiles import load
    from mixq.report.predict import prediction_table

    if hardware == AUTO:
        raise UsageError("--hardware auto needs rows that name their chip; name one here")
    profile = load(hardware)
    # In a table an unknown runtime is answered by its like; here it is a slip.
    runtime = profile.runtime(row.runtime or None)
    if not row.is_product:
        row = replace(row, runtime=runtime.title)
    found = Predictor(hardware).predict(row)
    if isinstance(found, Refusal):
        raise UsageError(found.reason.removeprefix(f"line {row.line}: "))
    if format is OutputFormat.json:
        show_json({"hardware": hardware, **_json(found), "unit": row.unit})
        return
    show(prediction_table(hardware, row, found))


def _many(hardware: str, rows: Path, output: Path, format: OutputFormat) -> None:
    from mixq.predict.agreement import Agreement
    from mixq.predict.predict import Predictor
    from mixq.predict.prediction import Prediction
    from mixq.predict.rows import ADDED, cells_of, read_rows, write_rows
    from mixq.progress import track
    from mixq.report.predict import refusals

    header, known = read_rows(rows)
    predictor = Predictor(hardware)
    with progress_bar() as progress:
        answers = [
            (row, predictor.predict(row))
            for row in track(known, "predicting", len(known), progress)
        ]
    write_rows(output, header, [(row, cells_of(row, a)) for row, a in answers], ADDED)
    pairs = [
        (row.value, answer)
        for row, answer in answers
        if row.value is not None and isinstance(answer, Prediction)
    ]
    agreement = Agreement.of(pairs)
    refused = refusals(answers)
    if format is OutputFormat.json:
        show_json(
            {
                "rows": len(answers),
                "predicted": len(answers) - len(refused),
                "refused": [{"line": row.line, "reason": reason} for row, reason in refused],
                "agreement": None if agreement is None else agreement.to_json(),
                "files": [str(output)],
            }
        )
        return
    for row, reason in refused[:10]:
        note(f"line {row.line} refused: {reason}")
    if len(refused) > 10:
        note(f"{len(refused) - 10} more rows refused: see column refused of {output}")
    show(f"{len(answers) - len(refused)} of {len(answers)} rows predicted: {output}")
    if agreement is not None:
        show(agreement.sentence)


def _json(found: Prediction) -> dict[str, object]:
    return {
        "predicted": found.predicted,
        "low": found.low,
        "high": found.high,
        "kernel": found.kernel,
        "note": found.note,
    }
