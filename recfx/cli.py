"""The command line: recfx demo | optimize | compress | serve | simulate | bench | calibrate | doctor | explain | bisect."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recfx.command_line import add_option, listed, minutes, positive, run_command
from recfx.compress_command import add_compress
from recfx.errors import InputError
from recfx.serve.command import add_serve
from recfx.serve.load.command import add_bench_serve
from recfx.simulation_command import add_simulate, simulated
from recfx.version import VERSION


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    return run_command(command_parser(), argv)


def command_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="recfx", description="A graph optimiser for recommendation models.")
    parser.add_argument("--version", action="version", version=f"recfx {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train a model, optimize it, compare before and after")
    demo.add_argument("--model", default="deepfm", help="a model of the zoo (default: deepfm)")
    demo.add_argument("--data", type=Path, help="file or folder of real data (default: generated data)")
    demo.add_argument("--label", metavar="COLUMN", help="the column of labels, 0 or 1, of a CSV or Parquet file")
    add_option(demo, "seconds", 60.0, "time for training (default: %(default)s)")
    demo.add_argument("--rows", type=positive, help="use at most this many rows of data")
    demo.add_argument("--pipeline", help="passes to run (default: the default pipeline)")
    _add_passes(demo)
    add_option(demo, "threads")
    demo.add_argument(
        "--save", type=Path, help="folder to save the compiled model in; with --budget, the compressed one"
    )
    demo.add_argument("--budget", type=float, help="also compress the model: how much AUC it may lose, such as 0.001")
    add_option(demo, "seed", 0)
    demo.set_defaults(run=_demo)

    _add_optimize(commands.add_parser("optimize", help="optimize a model and save it"))

    small = commands.add_parser("compress", help="compress a trained model within an accuracy budget")
    add_compress(small)
    small.set_defaults(run=_compress)

    add_serve(commands.add_parser("serve", help="serve saved models over HTTP and gRPC"))

    simulate = commands.add_parser(
        "simulate", help="simulate the serving of a model: machines, load, latency, rejections"
    )
    add_simulate(simulate)
    simulate.set_defaults(run=_simulate)

    bench = commands.add_parser("bench", help="measure the tables of the papers, or a server")
    tables = bench.add_subparsers(required=True, metavar="TABLE")
    _add_hqgnn(tables)
    add_bench_serve(
        tables.add_parser("serve", help="the times of a server under load, and the largest load within a limit")
    )

    calibrate = commands.add_parser("calibrate", help="measure this machine and the backends on it, for placement")
    add_option(calibrate, "threads")
    add_option(calibrate, "seconds", 50.0, "the longest that it may take (default: %(default)s)")
    calibrate.set_defaults(run=_calibrate)

    doctor = commands.add_parser("doctor", help="installed and missing parts, and how to get them")
    doctor.set_defaults(run=_doctor)

    explain = commands.add_parser(
        "explain", help="the rewrites in a saved model, and the reasons for those that were not made"
    )
    explain.add_argument("model", type=Path, help="folder of a saved model")
    explain.add_argument("--graph", action="store_true", help="print the graph as well")
    explain.add_argument("--svg", type=Path, metavar="FILE", help="draw the placed graph: modules, backends, times")
    explain.set_defaults(run=_explain)

    bisect = commands.add_parser("bisect", help="find the rewrite that breaks a program")
    bisect.add_argument("folder", type=Path, help="a reproducer folder")
    bisect.add_argument("--pipeline", help="passes to run (default: the folder's own)")
    _add_passes(bisect)
    bisect.add_argument(
        "--check", required=True, help="FILE.py: defines is_bad(program) -> bool, and any passes of your own"
    )
    bisect.set_defaults(run=_bisect)
    return parser


def _add_optimize(optimize: argparse.ArgumentParser) -> None:
    add = optimize.add_argument
    add("model", help="SCRIPT.py:function, which returns (model, example inputs); or a .pt2 file of torch.export.save")
    add("-o", "--output", type=Path, required=True, help="folder to save the compiled model in, such as model.recfx")
    add("--target", help="where the model runs (default: cpu)")
    add("--precision", help="fp32, bf16 or int8 (default: fp32)")
    add("--pipeline", help="passes to run (default: the default pipeline)")
    _add_passes(optimize)
    add("--max-batch", type=positive, help="the largest batch that runs at once")
    add(
        "--no-measure",
        dest="measure",
        action="store_false",
        default=None,
        help="do not time the compiled model against the original",
    )
    add_option(optimize, "threads")
    optimize.set_defaults(run=_optimize)


def _optimize(options: argparse.Namespace) -> int:
    import inspect

    import torch

    from recfx.model_files import load_model
    from recfx.optimizer import optimize
    from recfx.preconditions import require_output

    require_output(options.output)
    _load_passes(options)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    given = load_model(options.model)
    chosen = {name: getattr(options, name) for name in ("target", "precision", "pipeline", "max_batch", "measure")}
    arguments = {**given.arguments, **{name: value for name, value in chosen.items() if value is not None}}
    try:
        fast = optimize(given.model, **arguments)
    except TypeError as error:
        known = arguments.keys() <= inspect.signature(optimize).parameters.keys()
        if known:
            raise
        raise InputError(str(error), where=options.model, hint="return arguments of recfx.optimize") from error
    print(fast.report)
    fast.save(options.output)
    print(f"saved in {options.output}: recfx.load({str(options.output)!r})")
    return 0


def _compress(options: argparse.Namespace) -> int:
    from recfx.compress import compress

    print(compress(options))
    return 0


def _add_passes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--passes",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.py",
        help="a file whose passes the pipeline names: @recfx.register, @recfx.rewrite(..., name=...); may be given several times",
    )


def _load_passes(options: argparse.Namespace) -> None:
    from recfx.pipeline.pass_files import load_pass_file

    for path in options.passes:
        load_pass_file(path)


def _simulate(options: argparse.Namespace) -> int:
    print(simulated(options))
    return 0


def _add_hqgnn(tables: Any) -> None:
    hqgnn = tables.add_parser("hqgnn", help="quantised embeddings: ranking figures, bytes, time of a query")
    add = hqgnn.add_argument
    add("--data", required=True, help="gowalla, movielens (found in the folder RECFX_DATA), synthetic, or a path")
    add(
        "--out", type=Path, default=Path("hqgnn-results"), help="folder of the results; results in it are not run again"
    )
    add("--minutes", type=minutes, help="stop after this many minutes; the table marks unfinished cells")
    add("--bits", default="1,2,4,8", help="widths (default: 1,2,4,8)")
    add("--estimators", default="ste,gste", help="of ste, gste, gaussian, fourier, lsq, guidance (default: ste,gste)")
    add("--bounds", default="per-row,centred-row", help="bounds of the quantisers (default: per-row,centred-row)")
    add("--rounded", default="rows,centred,itq", help="rounding after training (default: rows,centred,itq)")
    for name in ("dim", "layers", "batch", "negatives", "epochs", "student-epochs", "ranks", "wide", "refined", "seed"):
        add(f"--{name}", type=int, help="replaces the value of the recipe")
    for name in ("lr", "student-lr", "l2", "decay"):
        add(f"--{name}", type=float, help="replaces the value of the recipe")
    add_option(hqgnn, "threads")
    hqgnn.set_defaults(run=_hqgnn)


def _hqgnn(options: argparse.Namespace) -> int:
    import dataclasses

    import torch

    from recfx.learn.recipes import Options, Recipe, cells, recipe_of, run_hqgnn

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(Recipe)}
    recipe = dataclasses.replace(
        recipe_of(options.data), **{name: value for name, value in given.items() if value is not None}
    )
    bits, *names = (listed(text) for text in (options.bits, options.estimators, options.bounds, options.rounded))
    if not all(width.isdigit() for width in bits):
        raise InputError(f"bits are numbers, got {options.bits!r}", where="--bits", hint="such as 1,2,4,8")
    refined = recipe.refined > 0 and recipe.ranks > 0
    chosen = cells([int(width) for width in bits], *names, wide=recipe.wide > 0, refined=refined)
    run_hqgnn(Options(options.data, options.out, recipe, chosen, options.minutes)).show()
    return 0


def _demo(options: argparse.Namespace) -> int:
    from recfx.demo import run_demo

    _load_passes(options)
    run_demo(
        options.model,
        options.data,
        seconds=options.seconds,
        rows=options.rows,
        pipeline=options.pipeline,
        threads=options.threads,
        save=options.save,
        budget=options.budget,
        seed=options.seed,
        label=options.label,
    )
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    import torch

    from recfx.driver.backend_calibration import calibrated, described

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    print(described(calibrated(again=True, seconds=options.seconds)))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from recfx.doctor import examine

    table = Table(title="recfx doctor")
    for column in ("subject", "", "detail", "how to get it"):
        table.add_column(column)
    findings = examine()
    for finding in findings:
        table.add_row(
            finding.subject, "yes" if finding.present else "no", finding.detail, "" if finding.present else finding.hint
        )
    Console().print(table)
    return 0


def _explain(options: argparse.Namespace) -> int:
    from recfx.compiled import explain, load

    model = load(options.model)
    print(explain(model))
    if options.graph:
        print(model.program)
    if options.svg is not None:
        options.svg.write_text(model.placement.svg(), encoding="utf-8")
        print(f"drawn in {options.svg}")
    return 0


def _bisect(options: argparse.Namespace) -> int:
    from recfx.pipeline import Pipeline
    from recfx.pipeline.pass_files import load_pass_file
    from recfx.pipeline.reproducer import read_pipeline, read_reproducer, read_resources

    path = Path(options.check)
    is_bad = getattr(load_pass_file(path), "is_bad", None)
    if not callable(is_bad):
        raise InputError("the file defines no is_bad", where=str(path), hint="define is_bad(program) -> bool")
    _load_passes(options)
    pipeline = Pipeline(options.pipeline) if options.pipeline else Pipeline(read_pipeline(options.folder))
    print(pipeline.bisect(read_reproducer(options.folder), is_bad, resources=read_resources(options.folder)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
