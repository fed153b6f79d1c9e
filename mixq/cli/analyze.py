"""mixq analyze: measure how sensitive each layer is."""

from __future__ import annotations

from functools import partial

from mixq.cli import format_options, measuring_options, metric_options, options, resources
from mixq.cli.command import resumable
from mixq.cli.console import OutputFormat, note, progress_bar, show, show_json
from mixq.cli.inputs import load_inputs, load_streamed
from mixq.errors import UsageError


def analyze(
    model: options.Model = None,
    trust_remote_code: options.TrustRemoteCode = False,
    calibration: options.Calibration = None,
    hardware: options.Hardware = "intel_cpu",
    bits: format_options.Bits = "32,8,4,2",
    group_sizes: format_options.GroupSizes = "32,64,128",
    grids: format_options.Grids = None,
    method: format_options.RoundingMethod = "auto",
    activations: format_options.Activations = "none",
    half: format_options.Half = "float16",
    batch_size: options.BatchSize = 1,
    threads: options.Threads = None,
    sensitivity: measuring_options.Sensitivity = measuring_options.SensitivityMode.auto,
    metric: metric_options.Metric = "auto",
    outputs: metric_options.Outputs = None,
    samples: measuring_options.Samples = None,
    workers: resources.Workers = 1,
    device: resources.Device = "cpu",
    stream: measuring_options.Stream = False,
    equalize: measuring_options.Equalization = "none",
    output: options.Output = options.DEFAULT_FOLDER,
    overwrite: options.Overwrite = False,
    format: options.Format = OutputFormat.table,
) -> None:
    """Measure the output error of quantizing each layer alone, at every width.

    Writes sensitivity.json and sensitivity.csv, and a map of layers by formats as
    sensitivity.html and sensitivity.png. A search in the same folder goes on from these
    measurements. Interrupted, the same command goes on from where it was.
    """
    palette = format_options.parse_palette(bits, group_sizes, grids, method, activations, half)
    from mixq.profiles import load as load_profile
    from mixq.search.request import check_equalize, check_sketchable
    from mixq.sensitivity.metrics.choice import MetricChoice

    choice = MetricChoice(metric, metric_options.parse_outputs(outputs))
    check_sketchable(sensitivity.value, choice)
    rewriting = check_equalize(equalize)
    profile = load_profile(hardware)
    from mixq.graph.state import fingerprint
    from mixq.report.folder import write_analysis
    from mixq.report.tables import sensitivity_table
    from mixq.search.folder import run_folder

    resources.check_resources(workers, device)
    if stream:
        if trust_remote_code:
            raise UsageError(
                "--trust-remote-code has no use with --stream, which runs no code of the folder; "
                "leave one of them out"
            )
        from mixq.search.streamed import analyze as analyze_streamed
        from mixq.search.streamed import check_streamed

        palette = check_streamed(palette, rewriting, workers, device)
        streamed, data = load_streamed(model, calibration)
        with progress_bar() as progress:  # reading all weights may take minutes
            identity = {"model": streamed.fingerprint(progress)}
        name, run = streamed.name, partial(analyze_streamed, streamed, data, profile)
    else:
        from mixq.search.sensitivities import analyze as analyze_whole

        loaded, data = load_inputs(model, calibration, trust_remote_code=trust_remote_code)
        # Sensitivities do not depend on the chip, so a search for any chip goes on from here.
        identity = {"model": fingerprint(loaded.model)}
        name = loaded.name
        run = partial(
            analyze_whole, loaded.model, data, profile, equalize=rewriting, workers=workers,
            device=device,
        )  # fmt: skip
    with resumable(output), run_folder(output, identity, overwrite=overwrite) as folder:
        with progress_bar() as progress:
            layout, table = run(
                palette=palette,
                samples=samples,
                batch_size=batch_size,
                threads=threads,
                sensitivity=sensitivity.value,
                metric=choice.metric,
                outputs=choice.outputs,
                folder=folder.path,
                progress=progress,
            )
        files = write_analysis(table, folder, name)
    if format is OutputFormat.json:
        show_json({**table.to_json(), "files": [str(file) for file in files]})
        return
    show(sensitivity_table(table, layout.graph))
    for remark in layout.graph.lost:
        note(f"note: {remark}")
    show(f"Written to {output}: {', '.join(file.name for file in files)}")
