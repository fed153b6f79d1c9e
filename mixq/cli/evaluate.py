"""mixq evaluate: output error and metrics of a plan or an artifact; tasks of language models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixq.cli import complete, options
from mixq.cli.console import OutputFormat, note, progress_bar, show, show_json
from mixq.cli.inputs import check_demo, load_inputs
from mixq.errors import UsageError
from mixq.files import one_line

if TYPE_CHECKING:
    from mixq.harness.settings import Settings
    from mixq.sensitivity.metrics.metric import Metric

PANEL = "Tasks of lm-evaluation-harness, for language models"


def evaluate(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="PLAN|FILE",
            help="plan.json or a file of mixq apply; with --tasks also an .onnx file or a "
            "folder of onnxruntime-genai.",
        ),
    ],
    model: options.Model = None,
    trust_remote_code: options.TrustRemoteCode = False,
    calibration: options.Calibration = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|SPEC",
            autocompletion=complete.metrics,
            help="Output error to show beside the squared one: relative, kl, cosine, or "
            "package.module:function. Default: the plan's, unless that is a loss.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Run these tasks, such as hellaswag,mmlu,gsm8k, before and after. Their data "
            "are fetched from the Hugging Face hub, unless HF_HUB_OFFLINE=1.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Only the first N documents of each task.", rich_help_panel=PANEL
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Examples before each question. Default: the task's own number.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Texts computed together. Default: 8.", rich_help_panel=PANEL
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Of few-shot examples and of sampling. Default: the harness's own.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Of ONNX Runtime, for an .onnx file. Default: 1.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Hugging Face folder of the tokenizer. Default: --model's.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    include_path: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="More tasks: .yaml files, as lm-eval reads them. They may name Python "
            "functions, which are run; include only what you trust. May be repeated.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    apply_chat_template: Annotated[
        bool,
        typer.Option(
            "--apply-chat-template",
            help="Ask in the tokenizer's chat template.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    no_original: Annotated[
        bool,
        typer.Option(
            "--no-original",
            help="Do not run the original beside it, which halves the time.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    allow_code_execution: Annotated[
        bool,
        typer.Option(
            "--allow-code-execution",
            help="Let tasks such as humaneval run the programs that the model writes, on this "
            "machine and with your rights, without a sandbox.",
            rich_help_panel=PANEL,
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Write lm-eval's results, both scores and where they come from.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Run a quantized model and compare it with the original.

    Shows the output error on all calibration data and on held-out data, and the metrics of the
    model's own evaluation, if it has one, before and after. With --tasks it shows a language
    model's scores on benchmarks instead.
    """
    if tasks is None:
        given: dict[str, object] = {
            "--limit": limit, "--num-fewshot": num_fewshot, "--batch-size": batch_size,
            "--seed": seed, "--threads": threads, "--tokenizer": tokenizer,
            "--include-path": include_path, "--apply-chat-template": apply_chat_template,
            "--no-original": no_original, "--allow-code-execution": allow_code_execution,
            "--output": output,
        }  # fmt: skip
        for option, value in given.items():
            if value not in (None, False, []):
                raise UsageError(f"{option} is for tasks; pass --tasks NAME,... too, or leave it")
        _errors(target, model, calibration, metric, format, trust_remote_code=trust_remote_code)
        return
    for option, unread in (("--calibration", calibration), ("--metric", metric)):
        if unread is not None:
            raise UsageError(f"{option} is not read with --tasks; leave out one of the two")
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--tasks is {tasks!r}, but must name one at least, such as hellaswag")
    from mixq.harness.settings import Settings

    settings = Settings(
        limit=limit, num_fewshot=num_fewshot, batch_size=8 if batch_size is None else batch_size,
        seed=seed, chat=apply_chat_template,
    )  # fmt: skip
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}, but must be at least 1")
    _tasks(
        target, model, names, settings, tokenizer, include_path or [], threads or 1,
        output, format, beside=not no_original, allow_code=allow_code_execution,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip


def _errors(
    target: Path,
    model: str | None,
    calibration: str | None,
    metric: str | None,
    format: OutputFormat,
    *,
    trust_remote_code: bool,
) -> None:
    """Output errors and the model's own metrics."""
    if target.suffix == ".onnx":
        raise UsageError(
            f"{one_line(target)} is an ONNX file, which is evaluated on --tasks; mixq bench "
            "runs a plan in ONNX Runtime and computes its metrics there"
        )
    from mixq.sensitivity.metrics.choice import MetricChoice

    choice = None if metric is None else MetricChoice(metric)
    from mixq.artifact import load
    from mixq.plan import Plan
    from mixq.report.tables import evaluation_table
    from mixq.sensitivity.compare import compare
    from mixq.sensitivity.metrics.resolve import of_plan, resolve

    loaded, data = load_inputs(model, calibration, trust_remote_code=trust_remote_code)
    judged: Metric | None = None
    if target.suffix == ".safetensors":
        quantized = load(target, loaded.model)
    else:
        plan = Plan.load(target)
        check_demo(plan, model, loaded)
        quantized = plan.apply(loaded.model)
        judged = of_plan(plan)
        # A name in a file is no reason to run code.
        if judged is None and choice is None:
            name = plan.error_metric.name
            note(f"note: the plan's errors are in {name}; --metric {name} shows them here too")
        if choice is not None:
            choice = replace(choice, outputs=plan.error_metric.outputs or None)
    if choice is not None:
        judged = resolve(choice, loaded.model, data)
    outcome = compare(loaded.model, quantized, data, loaded.evaluate, judged)
    if format is OutputFormat.json:
        show_json(outcome.to_json())
        return
    show(evaluation_table(outcome))


def _tasks(
    target: Path,
    model: str | None,
    names: list[str],
    settings: Settings,
    tokenizer: Path | None,
    include: list[Path],
    threads: int,
    output: Path | None,
    format: OutputFormat,
    *,
    beside: bool,
    allow_code: bool,
    trust_remote_code: bool,
) -> None:
    """Scores on tasks, in the order in which a mistake costs least."""
    from mixq.harness.library import allow_downloads, require

    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(
            f"--output {one_line(output)} lies in no folder that exists; make it first"
        )
    allow_downloads()
    require()
    from mixq.files import write_json_atomic
    from mixq.harness.candidate import candidate, check_causal, kind_of, load_tokenizer, original
    from mixq.harness.evaluation import evaluate_tasks
    from mixq.harness.tasks import find_tasks, load_tasks
    from mixq.report.harness_table import harness_table
    from mixq.sources import load_model

    kind_of(target)
    if model is None:
        raise UsageError("--tasks asks language models; pass --model FOLDER of the original")
    selection = find_tasks(names, include, allow_code=allow_code)
    loaded = load_model(model, trust_remote_code=trust_remote_code)
    check_causal(loaded.model)
    folder = tokenizer or loaded.folder
    if folder is None:
        raise UsageError(
            f"--model {one_line(model, 80)} brings no tokenizer; pass --tokenizer FOLDER of a "
            "Hugging Face folder that has it"
        )
    words = load_tokenizer(folder)
    asked = candidate(target, loaded.model, words, threads=threads)
    first = original(loaded.model, words, loaded.name) if beside else None
    found = load_tasks(selection)
    with progress_bar() as progress:
        evaluation = evaluate_tasks(found, asked, first, settings, progress=progress)
    document = evaluation.to_json()
    if output is not None:
        write_json_atomic(output, document)
    if format is OutputFormat.json:
        show_json(document)
        return
    show(harness_table(evaluation))
    if output is not None:
        show(f"Written to {one_line(output)}")
