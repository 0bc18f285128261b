"""What was meant by an option that a command does not have, or that lacks its value."""

from typing import Any

import click

# Options of srun, of other trainers and of short memory, and what to write here.
INSTEAD = {
    "--epochs": "--set train.epochs=N",
    "--batch-size": "--set train.batch_size=N",
    "--lr": "--set train.lr=X",
    "--strategy": "--set train.strategy=NAME",
    "--precision": "--set train.precision=NAME",
    "--time": "--set resources.time_min=N",
    "--config": "--recipe FILE.yaml",
    "--store": "--data STORE",
    "--dataset": "--data STORE",
    "--gres": "--gpus-per-node N",
    "--ntasks-per-node": "--gpus-per-node N",
    "--partition": "--site FILE.yaml with `partition`",
    "--account": "--site FILE.yaml with `account`",
    "--qos": "--site FILE.yaml with `qos`",
    "--replace": "--force",
    "--output": "--out FOLDER",
}
# Verbs of other tools, and what to write here behind `lenshpc`.
VERBS = {
    **dict.fromkeys(("train", "run", "fit"), "submit"),
    **dict.fromkeys(("report", "merge", "evaluate"), "aggregate"),
    **dict.fromkeys(("infer", "inference", "apply"), "predict"),
    **dict.fromkeys(("stop", "kill"), "cancel"),
    **dict.fromkeys(("delete", "remove", "rm"), "clean"),
    "convert": "prepare",
    "ls": "list",
    "version": "--version",
    "help": "--help",
}


class SettingType(click.ParamType[str]):
    """A `KEY=VALUE`, as text."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; refuse one without `=`, such as the KEY of `--set KEY VALUE`."""
        text = str(value)
        if "=" not in text:
            self.fail(f"{text!r} has no value; write --set {text}=VALUE", param, ctx)
        return text

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return what the help shows."""
        del param, ctx
        return self.name


def explain_verb(verb: str, ctx: click.Context) -> click.UsageError | None:
    """Return the error of a verb of other tools, with the one that is meant; None of any other."""
    if verb not in VERBS:
        return None
    return click.UsageError(f"No such command {verb!r}; use lenshpc {VERBS[verb]}", ctx)


def explain_option(error: click.NoSuchOption) -> click.UsageError:
    """Return the error of an option that a command lacks, with the one that is meant."""
    from lenshpc.config import find_near

    told, known = f"No such option {error.option_name}", _list_options(error.ctx)
    instead = INSTEAD.get(error.option_name, "")
    longer = [name for name in known if name.startswith(error.option_name)]
    near = longer or find_near(error.option_name, known)
    if instead.split(" ")[0] in known:
        told += f"; use {instead}"
    elif near:
        told += f"; did you mean {' or '.join(near)}?"
    return click.UsageError(told, error.ctx)


def _list_options(context: click.Context | None) -> list[str]:
    params = context.command.params if context else ()
    return [name for param in params for name in param.opts if name.startswith("--")]
