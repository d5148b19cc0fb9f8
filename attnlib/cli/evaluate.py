"""attnlib evaluate: a model on held-out data, by the metrics of what it was trained to do."""

from __future__ import annotations

import argparse

from attnlib.cli.common import model_argument, open_model, read_config, runtime_arguments

HELP = "the objective's metrics on held-out data"
_SECTIONS = ("data", "train")


def arguments(parser: argparse.ArgumentParser) -> None:
    model_argument(parser)
    parser.add_argument("overrides", metavar="[CONFIG] key=value", nargs="*",
                        help="the config whose data and objective are meant (default: the model's own)")  # fmt: skip
    runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from attnlib.errors import DataError, SpecError, UsageError
    from attnlib.runtime import RuntimeSpec
    from attnlib.spec import read
    from attnlib.text import tokenizer_of
    from attnlib.train.data import Data
    from attnlib.train.evaluate import Evaluator
    from attnlib.train.spec import TrainSpec

    configs = [word for word in args.overrides if "=" not in word]
    if len(configs) > 1:
        raise UsageError("evaluate", f"{len(configs)} configs are given", "takes one at most", " ".join(configs))
    where = configs[0] if configs else args.model
    loaded = open_model(args)
    tree, marks, base = read_config(where, [word for word in args.overrides if "=" in word])
    for name in _SECTIONS:
        if name not in tree:
            raise SpecError(str(where), f"has no section {name}", "wish what to evaluate on and how",
                            "name a config after the model")  # fmt: skip
    data, spec = (read(kind, tree[name], path=name, marks=marks) for kind, name in ((Data, "data"), (TrainSpec, "train")))
    assert isinstance(data, Data) and isinstance(spec, TrainSpec)
    try:
        splits = data.load(spec.objective.columns, base)
    except DataError as error:
        if configs:
            raise
        raise DataError(error.path, error.fact, error.wish, "name the config that it was trained from") from None
    objective = spec.objective.fitted(splits.train, loaded.model.spec)
    tokenizer = tokenizer_of(loaded.folder)
    refusal = objective.refuses(loaded.model.spec, tokenizer)
    if refusal is not None:
        raise SpecError("train.objective", refusal)
    if not splits.held_out:
        raise UsageError("data.held_out", "leaves nothing to evaluate on", "must hold out at least one row")
    evaluator = Evaluator(objective, tokenizer, splits, spec)
    autocast = RuntimeSpec().autocast(loaded.device)
    scores = evaluator.scores(loaded.model, loaded.device, autocast, lambda: None, full=True)
    for name, value in scores.items():
        print(f"{name.removeprefix('eval_'):24} {value:.6g}")
    return 0
